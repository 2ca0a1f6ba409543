"""Redis, for the idempotency store: the server on this machine."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from .context import Context
from .errors import Missing
from .image import Image, Settings
from .install import debian_program
from .native import Install, Plan
from .ports import free_port
from .tcp import connect, line
from .tools import plain_environ
from .waiting import NotYet

__all__ = ["IMAGE", "answers", "find"]

# The append-only file is written before each answer (and synced each second): what was answered survives SIGKILL.
DURABLE = ("--appendonly", "yes", "--save", "")


def find(context: Context) -> tuple[Install, str]:
    """redis-server on PATH, else Debian's package where that is allowed; raises ``Missing``."""
    server = debian_program(context, "redis-server", "redis-server", "/usr/sbin")
    said = subprocess.run([server, "--version"], capture_output=True, text=True, check=False).stdout
    version = re.search(r"v=(\S+)", said)
    if version is None:
        raise Missing(f"{server} does not say its version", "apt-get install redis-server")
    return lambda folder: plan(context, server, folder), f"Redis {version[1]}"


def plan(context: Context, server: str, folder: Path) -> Plan:
    """How to run it in this folder, on a free port."""
    port = free_port()
    return Plan(
        url=f"redis://127.0.0.1:{port}/0",
        argv=(server, "--bind", "127.0.0.1", "--port", str(port), "--dir", str(folder), *DURABLE),
        env=plain_environ(context, folder),
        ready=lambda: answers("127.0.0.1", port),
    )


def answers(host: str, port: int) -> None:
    """One attempt: a PING is answered (not while it loads its file). Raises ``OSError`` or ``NotYet``."""
    with connect(host, port) as connection:
        connection.sendall(b"PING\r\n")
        if (reply := line(connection)) != "+PONG":
            raise NotYet(f"it answers {reply}")


IMAGE = Image(
    tag="redis:7.4.6",
    url=lambda host, port: f"redis://{host}:{port}/0",
    ready=answers,
    settings=lambda _host, _port: Settings(command=("redis-server", *DURABLE)),
    inside=6379,
)
