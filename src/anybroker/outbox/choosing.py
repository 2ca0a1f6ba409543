"""The outbox of a URL."""

from __future__ import annotations

from importlib.metadata import entry_points
from pathlib import Path
from typing import Protocol, runtime_checkable

from ..adapter import BrokerUrl
from ..config.settings import nearest, parse_url
from ..engine.sinks import Sink
from ..errors import ConfigError
from .sqlite import SqliteOutbox
from .table import OutboxTable

__all__ = ["Outbox", "check_outbox", "make_outbox"]

GROUP = "anybroker.outboxes"
"""Entry points of outboxes, by URL scheme: functions of a BrokerUrl and of ``create``."""


@runtime_checkable
class Outbox(OutboxTable, Sink, Protocol):
    """What ``Bus(outbox=)`` takes: where events are written, and where a relay finds them."""


def check_outbox(given: Outbox) -> Outbox:
    """ConfigError for what is none."""
    if isinstance(given, type) or not isinstance(given, Outbox):
        raise ConfigError(
            "Bus(outbox=)", f"{type(given).__name__} is not an outbox", "Give SqliteOutbox('shop.db'), or a URL."
        )
    return given


def make_outbox(url: str, create: bool = True) -> Outbox:
    """The outbox of a URL: ``sqlite:///file.db``, or one from the entry-point group ``anybroker.outboxes``. ``create``:
    make the tables where they are missing. ConfigError for another scheme, or what the outbox refuses."""
    try:
        parsed = parse_url(url)
    except ConfigError as exc:
        raise ConfigError("outbox", exc.problem, "Write postgresql://host/database or sqlite:///shop.db.") from None
    registered = {entry.name: entry for entry in entry_points(group=GROUP)}
    if parsed.scheme == "sqlite":
        return _sqlite(parsed, create)
    if parsed.scheme not in registered:
        raise ConfigError(
            "outbox", f"no outbox for {parsed.scheme!r}://", nearest(parsed.scheme, {"sqlite", *registered})
        )
    return check_outbox(registered[parsed.scheme].load()(parsed, create))


def _sqlite(url: BrokerUrl, create: bool) -> SqliteOutbox:
    if url.hosts or len(url.path) < 2:
        raise ConfigError("outbox", f"{url} names no file", "Write sqlite:///shop.db for a file in the working folder.")
    if url.options:
        raise ConfigError(f"outbox option {next(iter(url.options))!r}", "there is no such option")
    path = Path(url.path[1:])
    if not create and not path.exists():
        raise ConfigError("outbox", f"there is no file {path}")
    return SqliteOutbox(path, create=create)
