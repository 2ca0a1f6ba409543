"""RabbitMQ: whatever version is on the machine (``rabbitmq``), or one major version (``rabbitmq3``, ``rabbitmq4``).

What it forgets at ``kill``, although it survives: quorum queues that were declared less than about a second before
(3.10 and 4.0, measured). It writes their names to disk that late; on 3.10 such a queue then no longer answers.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Sequence
from pathlib import Path

from .amqp import answers
from .context import Context
from .errors import Missing
from .image import Image, Settings
from .install import debian_program
from .native import Install, Plan
from .ports import free_port
from .rabbitmq_home import lean_home
from .tools import plain_environ
from .trixie import enter, trixie_root

__all__ = ["IMAGE", "IMAGE_3", "find", "find_3", "find_4", "plan", "seen_from"]

LIBRARY = "/usr/lib/rabbitmq/bin"
REMEDY = "apt-get install rabbitmq-server (or set ANYBROKER_TEST_INSTALL=1)"

Planner = Callable[[Context, Path, Path, Path], Plan]
"""How to run it: below this root, this server, in this folder."""

# The schedulers' busy waiting is for machines that do nothing else.
ERLANG = "+sbwt none +sbwtdcpu none +sbwtdio none"


def find(context: Context, planned: Planner | None = None) -> tuple[Install, str]:
    """rabbitmq-server of this machine, else Debian's package where that is allowed; raises ``Missing``.

    ``planned``: instead of ``plan``."""
    # Debian's /usr/sbin/rabbitmq-server is a wrapper that changes the user and writes to /var: its library comes first.
    server = Path(LIBRARY, "rabbitmq-server")
    if not server.exists():
        anywhere = debian_program(context, "rabbitmq-server", "rabbitmq-server")
        server = server if server.exists() else Path(anywhere)
    return _found(context, Path("/"), server, "", planned)


def find_3(context: Context) -> tuple[Install, str]:
    """Like ``find``, and it must be a 3.x."""
    return _of_major(context, "3")


def find_4(context: Context, planned: Planner | None = None) -> tuple[Install, str]:
    """Like ``find`` where this machine has a 4.x, else Debian 13's in a separate folder."""
    try:
        return _of_major(context, "4", planned)
    except Missing as missing:
        root = trixie_root(context, ["rabbitmq-server"], missing.reason)
    server = root / LIBRARY.lstrip("/") / "rabbitmq-server"
    if not server.exists():
        raise Missing(f"{root} has no RabbitMQ: remove it to have it made again", REMEDY)
    return _found(context, root, server, " of Debian 13", planned)


def _found(
    context: Context, root: Path, server: Path, whose: str, planned: Planner | None = None
) -> tuple[Install, str]:
    server = server.resolve()
    version = version_of(server) or "(unknown version)"
    return lambda folder: (planned or plan)(context, root, server, folder), f"RabbitMQ {version}{whose}"


def _of_major(context: Context, major: str, planned: Planner | None = None) -> tuple[Install, str]:
    install, detail = find(context, planned)
    if not detail.startswith(f"RabbitMQ {major}."):
        raise Missing(f"this machine has {detail}, not {major}.x", f"docker pull rabbitmq:{major}")
    return install, detail


def version_of(server: Path) -> str | None:
    """The version, from the name of the folder that the program is in; ``None`` when that does not say."""
    found = re.search(r"rabbitmq_server-(\d[\w.]*)", str(server))
    return found[1] if found else None


def plan(
    context: Context,
    root: Path,
    server: Path,
    folder: Path,
    more: Sequence[str] = (),
    plugins: Sequence[str] = (),
) -> Plan:
    """How to run this server (its path without links) in this folder on free ports, with its own epmd.

    ``root`` is where ``/`` is for the server: another folder than ``/`` for a whole system in the cache. ``more``:
    lines for ``rabbitmq.conf``; ``plugins``: to be switched on.
    """
    port, epmd, distribution = free_port(), free_port(), free_port()
    below = root != Path("/")
    seen = seen_from(root, folder)
    home = server.parent.parent
    lean = lean_home(home, folder, Path("/") / home.relative_to(root), plugins)
    (folder / ".erlang.cookie").write_text(secrets.token_hex(16))
    (folder / ".erlang.cookie").chmod(0o600)
    (folder / "enabled_plugins").write_text(f"[{','.join(plugins)}].\n")
    (folder / "rabbitmq.conf").write_text(
        "\n".join(
            (
                f"listeners.tcp.1 = 127.0.0.1:{port}",
                # Made whole in advance for each run; 512 MB by default.
                "raft.wal_max_size_bytes = 33554432",
                # Our data is in the folder for temporary files, which may be small; nothing here fills a disk.
                "disk_free_limit.absolute = 20MB",
                "log.console = true",
                "log.console.level = warning",
                "log.file = false",
                *more,
                "",
            )
        )
    )
    environ = plain_environ(
        context,
        seen,
        RABBITMQ_NODENAME="anybroker@localhost",
        RABBITMQ_CONFIG_FILE=str(seen / "rabbitmq"),
        RABBITMQ_CONF_ENV_FILE=str(seen / "no-environment-file"),
        RABBITMQ_ENABLED_PLUGINS_FILE=str(seen / "enabled_plugins"),
        RABBITMQ_MNESIA_BASE=str(seen / "mnesia"),
        RABBITMQ_LOG_BASE=str(seen / "log.d"),
        RABBITMQ_PID_FILE=str(seen / "pid"),
        RABBITMQ_DIST_PORT=str(distribution),
        RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS=f"{ERLANG} -kernel inet_dist_use_interface {{127,0,0,1}}",
        ERL_EPMD_PORT=str(epmd),
        ERL_EPMD_ADDRESS="127.0.0.1",
        ERL_CRASH_DUMP_SECONDS="0",
        # Makes the script become the server, which then takes SIGTERM itself.
        RUNNING_UNDER_SYSTEMD="true",
    )
    program = seen / lean.relative_to(folder) if lean is not None else Path("/") / server.relative_to(root)
    argv = [str(program)]
    return Plan(
        url=_url("127.0.0.1", port),
        argv=enter(root, folder, argv) if below else argv,
        env=environ,
        ready=lambda: answers("127.0.0.1", port),
    )


def seen_from(root: Path, folder: Path) -> Path:
    """Where a server below this root sees the folder that it runs in."""
    return folder if root == Path("/") else Path("/mnt")


def _url(host: str, port: int) -> str:
    return f"amqp://guest:guest@{host}:{port}/"


def _image(tag: str) -> Image:
    return Image(
        tag=tag,
        url=_url,
        ready=answers,
        settings=lambda _host, _port: Settings({"RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": ERLANG}),
        inside=5672,
    )


IMAGE = _image("rabbitmq:4.1.4")
IMAGE_3 = _image("rabbitmq:3.13.7")
