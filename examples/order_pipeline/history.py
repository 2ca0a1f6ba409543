"""The run's history: one line for each thing that a service did, in one file that all processes append to.

The services know nothing about it: two middlewares of their Bus write it, and the supervisor reads it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from time import monotonic
from typing import Any, NamedTuple

from anybroker import Delivery, Retry
from anybroker.middleware import Handler, middleware

from .settings import demo

__all__ = ["Entry", "Reader", "journal", "write"]


class Entry(NamedTuple):
    """One line."""

    what: str
    """``placed``, ``copy`` or ``click`` (placed once more), ``start`` of a handler and its end: ``done``,
    ``failed`` or ``waits`` (another owner has the event), ``crash`` (now is the moment)."""
    at: float
    """Seconds on the machine's monotonic clock, which all its processes share."""
    pid: int
    service: str
    handler: str
    order: str
    customer: str
    event: str
    """The event's source and id."""
    attempt: int = 0
    note: str = ""


@cache
def _file(pid: int) -> int:
    path = demo().folder / "history.jsonl"
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


def write(
    what: str,
    *,
    service: str,
    handler: str = "",
    order: str,
    customer: str = "",
    event: str = "",
    attempt: int = 0,
    note: str = "",
) -> None:
    """Append one line, in a single write, so that lines of several processes do not mix and a SIGKILL loses none."""
    pid = os.getpid()
    entry = Entry(what, monotonic(), pid, service, handler, order, customer, event, attempt, note)
    os.write(_file(pid), json.dumps(entry).encode() + b"\n")


@middleware
async def journal(delivery: Delivery, call_next: Handler) -> None:
    """Writes the beginning and the end of each start of a handler."""
    event = delivery.event
    about: dict[str, Any] = {
        "service": delivery.group,
        "handler": delivery.handler,
        # The id of the event that all others follow from; behind a dot, the number of a second click.
        "order": str(event.get("correlationid") or event.id).partition(".")[0],
        "customer": delivery.key or "",
        "event": f"{event.source} {event.id}",
        "attempt": delivery.attempt,
    }
    write("start", **about)
    try:
        await call_next(delivery)
    except Retry as exc:
        write("waits", **about, note=str(exc))
        raise
    except BaseException as exc:
        write("failed", **about, note=f"{type(exc).__name__}: {exc}")
        raise
    write("done", **about)


class Reader:
    """Follows the history of a run."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "history.jsonl"
        self._position = 0

    def new(self) -> Iterator[Entry]:
        """The lines that were written since the last call."""
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            file.seek(self._position)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self._position += len(line)
                yield Entry(*json.loads(line))
