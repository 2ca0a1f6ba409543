"""PostgreSQL, for the idempotency store: the server on this machine."""

from __future__ import annotations

import os
import pwd
import re
import signal
import struct
import subprocess
from collections.abc import Mapping
from pathlib import Path

from .context import Context
from .errors import Missing
from .image import Image, Settings
from .install import debian_program
from .native import Install, Plan, Step
from .ports import free_port
from .tcp import connect, exactly
from .tools import plain_environ
from .waiting import NotYet

__all__ = ["IMAGE", "answers", "find"]

USER = "postgres"
# The seventh line of its file: the key and the id of its shared memory. There is no file after a graceful end.
RELEASE = 'test ! -e "$0" || { set -- $(sed -n 7p "$0"); ipcrm -m "$2"; }'

OPTIONS = {
    # The tests kill the process and not the machine, so what the kernel has is safe without these.
    "fsync": "off",
    "full_page_writes": "off",
    "max_connections": "200",
}


def find(context: Context, more: Mapping[str, str] | None = None) -> tuple[Install, str]:
    """initdb and postgres on PATH or where Debian has them, else its package; raises ``Missing``. ``more``: options of
    the server (``wal_level``), beside those that are here or instead of them."""
    places = sorted((str(place) for place in Path("/usr/lib/postgresql").glob("*/bin")), key=_number, reverse=True)
    initdb = debian_program(context, "initdb", "postgresql", *places)
    # PATH may hold a link: the folder it leads to has all the programs of the same version.
    programs = Path(initdb).resolve().parent
    said = subprocess.run([programs / "postgres", "--version"], capture_output=True, text=True, check=False).stdout
    version = re.search(r"(\d+(\.\d+)*)", said)
    if version is None:
        raise Missing(f"{programs / 'postgres'} does not say its version", "apt-get install postgresql")
    return lambda folder: plan(context, programs, folder, more), f"PostgreSQL {version[1]}"


def plan(context: Context, programs: Path, folder: Path, more: Mapping[str, str] | None = None) -> Plan:
    """How to run it in this folder, on a free port."""
    port, data = free_port(), folder / "data"
    data.mkdir(mode=0o700)
    owner = _owner()
    if owner is not None:
        folder.chmod(0o711)
        os.chown(data, *owner)
    environ = plain_environ(context, folder)
    options = {
        **OPTIONS,
        "listen_addresses": "127.0.0.1",
        "port": str(port),
        "unix_socket_directories": "",
        "dynamic_shared_memory_type": "mmap",  # in the folder, and so removed with it also after SIGKILL
        **(more or {}),
    }
    return Plan(
        url=_url("127.0.0.1", port),
        argv=(str(programs / "postgres"), "-D", str(data), *(f"--{name}={value}" for name, value in options.items())),
        env=environ,
        ready=lambda: answers("127.0.0.1", port),
        before=[
            Step(
                (
                    str(programs / "initdb"),
                    *("-D", str(data), "-U", USER, "-E", "UTF8", "--locale=C", "--auth=trust", "--no-sync"),
                )
            )
        ],
        owner=owner,
        term=signal.SIGINT,  # "fast": ends open sessions; SIGTERM would wait for them
        # A few bytes of System V shared memory would stay after SIGKILL.
        at_end=("/bin/sh", "-c", RELEASE, str(data / "postmaster.pid")),
    )


def answers(host: str, port: int) -> None:
    """One attempt: it asks for a password or lets us in. Raises ``OSError`` or ``NotYet``."""
    with connect(host, port) as connection:
        body = struct.pack(">i", 196608) + b"user\0postgres\0database\0postgres\0\0"
        connection.sendall(struct.pack(">i", len(body) + 4) + body)
        kind, size = struct.unpack(">ci", exactly(connection, 5))
        text = exactly(connection, size - 4)
        if kind != b"R":
            raise NotYet(text.replace(b"\0", b" ").decode(errors="replace").strip())


def _url(host: str, port: int) -> str:
    return f"postgresql://{USER}:{USER}@{host}:{port}/postgres"


def _owner() -> tuple[int, int] | None:
    """The user to run as: ourselves, or as root (whom it refuses) ``postgres``, else ``nobody``."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            user = pwd.getpwnam(name)
        except KeyError:
            continue
        return user.pw_uid, user.pw_gid
    raise Missing("PostgreSQL refuses root, and there is neither a user postgres nor nobody", "adduser postgres")


def _number(place: str) -> int:
    version = Path(place).parent.name
    return int(version) if version.isdigit() else 0


IMAGE = Image(
    tag="postgres:17.6",
    url=_url,
    ready=answers,
    settings=lambda _host, _port: Settings(
        {"POSTGRES_PASSWORD": USER},
        ("postgres", *(part for name, value in OPTIONS.items() for part in ("-c", f"{name}={value}"))),
    ),
    inside=5432,
)
