"""Kafka 4 in KRaft mode: one process that is broker and controller, from the jars in Maven's repository."""

from __future__ import annotations

import re
import socket
import struct
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from .context import Context
from .errors import Missing
from .image import Image, Settings
from .install import debian_program
from .native import Install, Plan, Step
from .places import once
from .ports import free_port
from .tcp import connect, exactly
from .tools import plain_environ, run_tool
from .waiting import NotYet

__all__ = ["IMAGE", "answers", "find", "find_cluster"]

VERSION = "4.2.1"
LOG4J_VERSION = "2.25.4"
CLUSTER = "4L6g3nShT-eMCtK--X86sw"
HEAP = ("-Xms64m", "-Xmx512m")
HEAP_OF_A_MEMBER = ("-Xms64m", "-Xmx300m")
JVM = ("-XX:+UseSerialGC", "-XX:-UsePerfData", "-XX:TieredStopAtLevel=1")
"""On two cores the optimising compiler takes more from the tests in their first minutes than it gives: without it the
broker is up in 3.0 s and not 3.8. ``UsePerfData`` would leave a folder outside ours."""

REMEDY = "apt-get install default-jre-headless maven (or set ANYBROKER_TEST_INSTALL=1)"

POM = f"""<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>anybroker</groupId><artifactId>kafka</artifactId><version>1</version><packaging>pom</packaging>
  <dependencies>
    <dependency>
      <groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>{VERSION}</version>
    </dependency>
    <dependency>
      <groupId>org.apache.logging.log4j</groupId><artifactId>log4j-slf4j-impl</artifactId>
      <version>{LOG4J_VERSION}</version>
    </dependency>
  </dependencies>
</project>
"""

LOG4J = """status = error
appender.out.type = Console
appender.out.name = out
appender.out.layout.type = PatternLayout
appender.out.layout.pattern = %d{HH:mm:ss.SSS} %p %c{1}: %m%n
rootLogger.level = warn
rootLogger.appenderRef.out.ref = out
logger.server.name = kafka.server.KafkaRaftServer
logger.server.level = info
"""

Planner = Callable[[Context, str, Path, Path], Plan]
"""How to run it: with this Java and these jars, in this folder."""

TUNING: Mapping[str, str] = {
    # A missing topic must be an error, as on a broker that somebody runs with care.
    "auto.create.topics.enable": "false",
    "group.initial.rebalance.delay.ms": "0",
    # One partition each: internal topics with the default 50 cost seconds at the first group.
    "offsets.topic.num.partitions": "1",
    "offsets.topic.replication.factor": "1",
    "transaction.state.log.num.partitions": "1",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "share.coordinator.state.topic.num.partitions": "1",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    # Two cores, hundreds of topics: few threads, small indexes and buffers.
    "num.network.threads": "2",
    "num.io.threads": "4",
    "num.replica.fetchers": "1",
    "num.recovery.threads.per.data.dir": "2",
    "background.threads": "2",
    "log.cleaner.threads": "1",
    "log.cleaner.dedupe.buffer.size": "4194304",
    "log.index.size.max.bytes": "524288",
    "log.segment.delete.delay.ms": "1000",
    # Tests that wait for a lease must not wait for six seconds at least.
    "group.min.session.timeout.ms": "1000",
    # After SIGKILL the controller takes the new broker for a duplicate until the old one's session ends.
    "broker.heartbeat.interval.ms": "500",
    "broker.session.timeout.ms": "3000",
}


def find(context: Context, planned: Planner | None = None) -> tuple[Install, str]:
    """Java and the jars (resolved by Maven once, then cached); raises ``Missing``. ``planned``: instead of ``plan``."""
    java, jars, detail = _found(context)

    def install(folder: Path) -> Plan:
        return (planned or plan)(context, java, jars, folder)

    return install, detail


def _found(context: Context) -> tuple[str, Path, str]:
    """Java, the jars, and one line about both."""
    java = debian_program(context, "java", "default-jre-headless")
    version = _java_version(java)
    if version < 17:
        raise Missing(f"Kafka 4 needs Java 17, and {java} is {version}", REMEDY)
    jars = once(f"kafka-{VERSION}", context, lambda folder: _resolve(context, folder)) / "lib"
    return java, jars, f"Kafka {VERSION}, Java {version}"


def plan(
    context: Context,
    java: str,
    jars: Path,
    folder: Path,
    more: Mapping[str, str] | None = None,
    formatting: Sequence[str] = (),
) -> Plan:
    """How to run it in this folder, on two free ports.

    ``more`` properties are appended to those that are here already under the same name (a list of Kafka's), or added;
    ``formatting``: more arguments for the tool that makes the data folder."""
    port, controller = free_port(), free_port()
    properties = {
        **_properties(1, port, controller),
        "controller.quorum.bootstrap.servers": f"127.0.0.1:{controller}",
        **TUNING,
    }
    for key, value in (more or {}).items():
        properties[key] = f"{properties[key]},{value}" if key in properties else value
    return _planned(context, java, jars, folder, port, properties, ("--standalone", *formatting), HEAP)


def _properties(number: int, port: int, controller: int) -> dict[str, str]:
    return {
        "process.roles": "broker,controller",
        "node.id": str(number),
        "listeners": f"PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}",
        "advertised.listeners": f"PLAINTEXT://127.0.0.1:{port}",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "controller.listener.names": "CONTROLLER",
        "inter.broker.listener.name": "PLAINTEXT",
    }


def _planned(
    context: Context,
    java: str,
    jars: Path,
    folder: Path,
    port: int,
    properties: Mapping[str, str],
    formatting: Sequence[str],
    heap: Sequence[str],
) -> Plan:
    config = folder / "server.properties"
    written = {**properties, "log.dirs": str(folder / "data")}
    config.write_text("".join(f"{key}={value}\n" for key, value in written.items()))
    log4j = folder / "log4j2.properties"
    log4j.write_text(LOG4J)
    command = (java, *JVM, f"-Dlog4j2.configurationFile={log4j}", "-cp", f"{jars}/*")
    return Plan(
        url=f"kafka://127.0.0.1:{port}",
        argv=(*command, *heap, "kafka.Kafka", str(config)),
        env=plain_environ(context, folder),
        ready=lambda: answers("127.0.0.1", port),
        before=[Step((*command, "kafka.tools.StorageTool", "format", "-t", CLUSTER, "-c", str(config), *formatting))],
    )


def find_cluster(context: Context, size: int) -> tuple[Sequence[Install], str]:
    """Servers of one cluster, each broker and controller; raises ``Missing``.

    Topics have ``size`` replicas by default, and a write needs all but one of them."""
    java, jars, detail = _found(context)
    ports = [(free_port(), free_port()) for _ in range(size)]
    voters = ",".join(f"{number}@127.0.0.1:{controller}" for number, (_, controller) in enumerate(ports, 1))
    replicated = {
        key: str(size) for key in (*TUNING, "default.replication.factor") if key.endswith("replication.factor")
    }
    in_sync = {
        key: str(size - 1)
        for key in (*TUNING, "min.insync.replicas")
        if key.endswith(("min.isr", "min.insync.replicas"))
    }

    def member(number: int) -> Install:
        port, controller = ports[number - 1]
        properties = {
            **_properties(number, port, controller),
            **TUNING,
            **replicated,
            **in_sync,
            "controller.quorum.voters": voters,
            # A server that is killed is out of the in-sync replicas, and the next leader there, in a second or two.
            "replica.lag.time.max.ms": "3000",
            "broker.session.timeout.ms": "2000",
            "controller.quorum.election.timeout.ms": "500",
            "controller.quorum.fetch.timeout.ms": "1000",
        }
        return lambda folder: _planned(context, java, jars, folder, port, properties, (), HEAP_OF_A_MEMBER)

    return [member(number) for number in range(1, size + 1)], f"{size} servers of {detail}"


def _settings(host: str, port: int) -> Settings:
    properties = {
        "process.roles": "broker,controller",
        "node.id": "1",
        "controller.quorum.voters": "1@localhost:9093",
        # Two listeners: the broker also speaks to itself (transaction markers), and inside the container nobody
        # listens on the address that clients see.
        "listeners": "INTERNAL://localhost:19092,PLAINTEXT://:9092,CONTROLLER://localhost:9093",
        "advertised.listeners": f"INTERNAL://localhost:19092,PLAINTEXT://{host}:{port}",
        "listener.security.protocol.map": "INTERNAL:PLAINTEXT,PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "controller.listener.names": "CONTROLLER",
        "inter.broker.listener.name": "INTERNAL",
        **TUNING,
    }
    names = {f"KAFKA_{key.upper().replace('.', '_')}": value for key, value in properties.items()}
    return Settings({**names, "KAFKA_HEAP_OPTS": " ".join(HEAP), "KAFKA_JVM_PERFORMANCE_OPTS": " ".join(JVM)})


def _resolve(context: Context, folder: Path) -> None:
    maven = debian_program(context, "mvn", "maven")
    context.say(f"getting Kafka {VERSION} with Maven (once)")
    (folder / "pom.xml").write_text(POM)
    run_tool(
        context,
        [maven, "-q", "-B", "dependency:copy-dependencies", f"-DoutputDirectory={folder / 'lib'}"],
        cwd=folder,
        env={**context.environ, "MAVEN_OPTS": f"{context.environ.get('MAVEN_OPTS', '')} -XX:-UsePerfData".strip()},
        what="Maven",
        remedy=f"mvn dependency:get -Dartifact=org.apache.kafka:kafka_2.13:{VERSION}",
    )


def _java_version(java: str) -> int:
    said = subprocess.run([java, "-XX:-UsePerfData", "-version"], capture_output=True, text=True, check=False)
    found = re.search(r'version "(\d+)', said.stderr + said.stdout)
    if found is None:
        raise Missing(f"{java} does not say its version", REMEDY)
    return int(found[1])


# -- readiness -------------------------------------------------------------------------------------------------

METADATA, FIND_COORDINATOR, DESCRIBE_GROUPS = 3, 10, 15
GROUP = "anybroker-ready"


def answers(host: str, port: int) -> None:
    """One attempt: the broker knows itself and a controller, and serves groups.

    Asking for a group's coordinator makes Kafka create its offsets topic now, and not in somebody's first test; asking
    that for the group waits, after a restart, until it has read what was committed.
    Raises ``OSError`` or ``NotYet``.
    """
    with connect(host, port) as connection:
        # Metadata v1 for no topic: throttle-free, not "flexible", understood by every Kafka since 0.10.
        reply = _ask(connection, METADATA, 1, struct.pack(">i", 0))
        (brokers,) = struct.unpack_from(">i", reply, 0)
        at = 4
        for _ in range(brokers):
            at += 4
            at += 2 + struct.unpack_from(">h", reply, at)[0]
            at += 4
            at += 2 + max(0, struct.unpack_from(">h", reply, at)[0])
        (controller,) = struct.unpack_from(">i", reply, at)
        if not brokers or controller < 0:
            raise NotYet("it does not know itself or a controller yet")
        reply = _ask(connection, FIND_COORDINATOR, 0, _text(GROUP))
        (error,) = struct.unpack_from(">h", reply, 0)
        if error:
            raise NotYet(f"no group coordinator yet (Kafka's error {error})")
        length = struct.unpack_from(">h", reply, 6)[0]
        if brokers > 1 and struct.unpack_from(">i", reply, 8 + length)[0] != port:
            return  # another server of the cluster has that group
        reply = _ask(connection, DESCRIBE_GROUPS, 0, struct.pack(">i", 1) + _text(GROUP))
        (error,) = struct.unpack_from(">h", reply, 4)
        if error:
            raise NotYet(f"its group coordinator still loads (Kafka's error {error})")


def _text(value: str) -> bytes:
    return struct.pack(">h", len(value)) + value.encode()


def _ask(connection: socket.socket, api: int, version: int, body: bytes) -> bytes:
    request = struct.pack(">hhi", api, version, 1) + _text("anybroker") + body
    connection.sendall(struct.pack(">i", len(request)) + request)
    (size,) = struct.unpack(">i", exactly(connection, 4))
    return exactly(connection, size)[4:]  # without the correlation id


IMAGE = Image(
    tag=f"apache/kafka:{VERSION}",
    url=lambda host, port: f"kafka://{host}:{port}",
    ready=answers,
    settings=_settings,
    inside=9092,
)
