"""Debezium's jars, by Maven once, and its processes: the embedded engine, and Kafka Connect."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from base64 import b64decode
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from anybroker_contract.brokers.context import Context
from anybroker_contract.brokers.install import debian_program
from anybroker_contract.brokers.places import once
from anybroker_contract.brokers.process import Keeper, tail
from anybroker_contract.brokers.tools import plain_environ, run_tool

__all__ = ["Connect", "Embedded", "Jars", "Record", "find_jars"]

FOLDER = Path(__file__).parent
SOURCES = (FOLDER / "pom.xml", FOLDER / "EmbeddedOutbox.java")
JVM = ("-XX:+UseSerialGC", "-XX:-UsePerfData", "-XX:TieredStopAtLevel=1", "-Xmx256m")
"""As for Kafka: the optimising compiler takes more from a short run than it gives."""
RECORD = b'{"topic":'
"""Lines that begin so are records."""
JDK = "apt-get install default-jdk-headless maven (or set ANYBROKER_TEST_INSTALL=1)"


class Jars(NamedTuple):
    """How to run programs of Debezium and Kafka Connect."""

    java: str
    classpath: str


class Record(NamedTuple):
    """What Debezium writes to a topic."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes | None]]


def find_jars(context: Context) -> Jars:
    """Java, and the jars in the cache of the brokers; raises ``Missing``."""
    javac = debian_program(context, "javac", "default-jdk-headless")
    java = debian_program(context, "java", "default-jdk-headless")
    version = hashlib.sha256(b"".join(source.read_bytes() for source in SOURCES)).hexdigest()[:12]

    def build(folder: Path) -> None:
        maven = debian_program(context, "mvn", "maven")
        options = f"{context.environ.get('MAVEN_OPTS', '')} -XX:-UsePerfData".strip()
        run_tool(
            context,
            [maven, "-q", "-B", "-f", str(SOURCES[0]), "dependency:copy-dependencies", f"-DoutputDirectory={folder}"],
            cwd=folder,
            env={**context.environ, "MAVEN_OPTS": options},
            what="Maven",
            remedy=f"cd tests/debezium && mvn dependency:resolve; {JDK}",
        )
        command = [javac, "-J-XX:-UsePerfData", "-cp", f"{folder}/*", "-d", str(folder), str(SOURCES[1])]
        run_tool(context, command, what="javac", remedy=JDK)

    jars = once(f"debezium-{version}", context, build)
    return Jars(java, f"{jars}{os.pathsep}{jars}/*")


class _Program:
    """A process of Java that ends with this one."""

    def __init__(self, jars: Jars, context: Context, name: str) -> None:
        self._keeper = Keeper(f"anybroker-{name}-")
        self._context = context
        self.name = name
        self.folder = self._keeper.folder
        self._warnings = self.folder / "warnings"  # apart from stdout, where lines of JSON must stay whole
        log = ("-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", f"-Dorg.slf4j.simpleLogger.logFile={self._warnings}")
        self._command = (jars.java, *JVM, *log, "-cp", jars.classpath)

    def start(self, *arguments: str) -> None:
        environ = plain_environ(self._context, self.folder)
        self._keeper.run([*self._command, *arguments], env=environ)

    def properties(self, name: str, values: Mapping[str, str]) -> str:
        """Written to a file: its path."""
        path = self.folder / name
        lines = [f"{key}={value}\n".replace("\\", "\\\\") for key, value in values.items()]
        path.write_text("".join(lines), encoding="utf-8")
        return str(path)

    async def until(self, condition: Callable[[], Awaitable[object]], seconds: float = 100.0) -> None:
        """Wait for it while the program runs. What fails shows the program's complaints."""
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while not await condition():
            assert await asyncio.to_thread(self._keeper.running), f"{self.name} has ended:\n{self.log()}"
            assert loop.time() < end, f"not within {seconds:g} s; {self.name} says:\n{self.log()}"
            await asyncio.sleep(0.05)

    def log(self) -> str:
        """What it complains of."""
        said = [line for line in tail(self._keeper.log, 30).splitlines() if RECORD.decode() not in line]
        return "\n".join([*said, tail(self._warnings, 60)])

    def end(self) -> None:
        """End it, killed if need be, and remove its folder."""
        self._keeper.end()


class Embedded(_Program):
    """``EmbeddedOutbox.java``: Debezium's embedded engine, without Kafka."""

    def __init__(self, jars: Jars, context: Context, configuration: Mapping[str, str]) -> None:
        super().__init__(jars, context, "debezium")
        engine = {
            "name": "outbox",
            "offset.storage": "org.apache.kafka.connect.storage.MemoryOffsetBackingStore",
            "offset.flush.interval.ms": "1000",
        }
        self.start("EmbeddedOutbox", self.properties("engine.properties", {**configuration, **engine}))

    def records(self) -> list[Record]:
        """What it has written so far."""
        found: list[Record] = []
        for line in self._keeper.log.read_bytes().split(b"\n")[:-1]:  # the last one may not be complete
            if line.startswith(RECORD):
                said = json.loads(line)
                headers = [(name, _bytes(value)) for name, value in said["headers"]]
                found.append(Record(said["topic"], _bytes(said["key"]), _bytes(said["value"]), headers))
        return found


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else b64decode(text)


class Connect(_Program):
    """Kafka Connect, one process, with one connector."""

    def __init__(self, jars: Jars, context: Context, configuration: Mapping[str, str], bootstrap: str) -> None:
        super().__init__(jars, context, "connect")
        worker = {
            "bootstrap.servers": bootstrap,
            "offset.storage.file.filename": str(self.folder / "offsets"),
            "listeners": "http://127.0.0.1:0",
            # What a worker must have, and the connector's own replace.
            "key.converter": "org.apache.kafka.connect.storage.StringConverter",
            "value.converter": "org.apache.kafka.connect.storage.StringConverter",
            "plugin.discovery": "service_load",
        }
        connector = self.folder / "connector.json"
        connector.write_text(json.dumps({"name": "outbox", "config": dict(configuration)}), encoding="utf-8")
        self.start(
            "org.apache.kafka.connect.cli.ConnectStandalone",
            self.properties("worker.properties", worker),
            str(connector),
        )
