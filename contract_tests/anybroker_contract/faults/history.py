"""The history of a run: one JSON object a line, one file for all processes of the run.

Every line has ``what``, ``t`` (seconds of the monotonic clock, which all processes of a machine share), ``wall``
(seconds since 1970) and ``pid``:

``run``       what was started: ``members``, ``in_flight`` (of each), ``lease``, ``deadline``, ``settle``
``invoke``    a publish began: ``id`` (``writer-number``), ``key``
``ok``, ``fail``, ``unknown``  its outcome; the last two with ``error``, and ``typed`` if it is one of the three
``start``     a handler was handed the event: ``id``, ``key``, ``attempt``
``effect``    the handler has done its work, and returns next
``error``     the handler raises instead
``dead``      the event was found in the dead-letter topic
``ready``, ``closed``  a member has started; has closed cleanly (with its counters)
``fault``, ``over``    a fault begins, and has ended: ``name``, ``number``, and ``target`` (a pid) where there is one
``hit``       servers of a cluster were killed, ended or started, within a fault: ``name``, and ``since`` when
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from .._checkers import Handling

__all__ = ["Fault", "Follower", "History", "Publish", "Record", "Writer", "read"]

BEGIN = b'{"what":'
"""How every line begins; nothing else in a line looks like it."""


@dataclass(frozen=True, slots=True)
class Record:
    """One line."""

    what: str
    t: float
    pid: int
    facts: dict[str, Any]


class Writer:
    """Appends to a history, from any number of processes at once.

    A line is handed to the system before :meth:`write` returns, so a SIGKILL afterwards does not take it back."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        self._pid = os.getpid()

    def write(self, what: str, **facts: Any) -> float:
        """Append one line; its time."""
        now = time.monotonic()
        line = {"what": what, "t": round(now, 6), "wall": round(time.time(), 3), "pid": self._pid, **facts}
        data = json.dumps(line, separators=(",", ":")).encode() + b"\n"
        if os.write(self._descriptor, data) != len(data):
            raise OSError("the history could not be written whole: is its disk full?")
        return now

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)


def parse(line: bytes) -> Iterator[Record | None]:
    """The records of a line; None for an incomplete one that a killed process left before another's record."""
    try:
        yield _record(line)
    except ValueError:
        yield None
        _, begin, rest = line.rpartition(BEGIN)
        if begin and len(rest) + len(begin) < len(line):
            yield from parse(begin + rest)


def _record(line: bytes) -> Record:
    facts = json.loads(line)
    if not isinstance(facts, dict) or not {"what", "t", "pid"} <= facts.keys():
        raise ValueError("not a record")
    facts.pop("wall", None)
    return Record(facts.pop("what"), facts.pop("t"), facts.pop("pid"), facts)


class Follower:
    """Reads a history while it is written."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._at = 0

    def new(self) -> list[Record]:
        """Records written since the last call; an incomplete line is left for the next call."""
        if not self._path.exists():
            return []
        with self._path.open("rb") as file:
            file.seek(self._at)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._at += len(whole)
        return [record for line in whole.splitlines() for record in parse(line) if record is not None]


@dataclass(frozen=True)
class Publish:
    """One publish."""

    id: str
    key: str | None
    pid: int
    began: float
    ended: float | None = None
    outcome: str | None = None
    """``ok``, ``fail`` or ``unknown``."""
    error: str = ""
    typed: bool = True
    """Whether the error was one of those that ``publish`` promises."""


@dataclass(frozen=True)
class Fault:
    """Something was done from outside."""

    name: str
    begin: float
    end: float
    target: int | None = None
    """The process that it hit; None: the broker, or the connection to it."""
    graceful: bool = False
    """Whether it was asked to end, and so must not cause a duplicate."""
    majority: float | None = None
    """When enough servers of a cluster were back, which may be long before its end; None: not a fault of a cluster."""

    @property
    def recovers(self) -> float:
        """The time from which what was interrupted must work again."""
        return self.end if self.majority is None else self.majority


@dataclass
class History:
    """A run, as the checkers read it."""

    records: list[Record]
    torn: int = 0
    """Lines that a killed process left unfinished."""
    settings: dict[str, Any] = field(default_factory=dict)
    """The content of the run's first line."""

    @classmethod
    def of(cls, found: Iterable[Record | None]) -> History:
        """Sorted by time; None stands for an incomplete line."""
        lines = list(found)
        records = sorted((line for line in lines if line is not None), key=lambda record: record.t)
        settings = next((record.facts for record in records if record.what == "run"), {})
        return cls(records, len(lines) - len(records), settings)

    @cached_property
    def publishes(self) -> dict[str, Publish]:
        """Every publish by its id, in the order in which they began."""
        found: dict[str, Publish] = {}
        for record in self.records:
            facts = record.facts
            if record.what == "invoke":
                found[facts["id"]] = Publish(facts["id"], facts["key"], record.pid, record.t)
            elif record.what in ("ok", "fail", "unknown") and facts["id"] in found:
                begun = found[facts["id"]]
                found[begun.id] = Publish(
                    begun.id,
                    begun.key,
                    begun.pid,
                    begun.began,
                    record.t,
                    record.what,
                    facts.get("error", ""),
                    facts.get("typed", True),
                )
        return found

    @cached_property
    def acknowledged(self) -> dict[str, float]:
        """When each publish got its receipt, for those that did."""
        return {
            id_: publish.ended
            for id_, publish in self.publishes.items()
            if publish.outcome == "ok" and publish.ended is not None
        }

    @cached_property
    def handlings(self) -> list[Handling]:
        """Every start of a handler, in the order of the starts; ``member`` is its process's id."""
        found: list[Handling] = []
        running: dict[tuple[int, str], Handling] = {}
        for record in self.records:
            facts = record.facts
            if record.what == "start":
                handling = Handling(facts["id"], facts["key"], facts["attempt"], str(record.pid), record.t)
                running[record.pid, handling.id] = handling
                found.append(handling)
            elif record.what in ("effect", "error"):
                ended = running.pop((record.pid, facts["id"]), None)
                if ended is not None:
                    ended.ended = record.t
                    ended.failed = facts.get("error", "error") if record.what == "error" else None
        return found

    @cached_property
    def dead(self) -> set[str]:
        """What was found in the dead-letter topic."""
        return {record.facts["id"] for record in self.records if record.what == "dead"}

    @cached_property
    def faults(self) -> list[Fault]:
        """Faults in the order in which they began; one that never ended lasts until the last record."""
        over = {record.facts["number"]: record.t for record in self.records if record.what == "over"}
        majority = {record.facts["number"]: record.t for record in self.records if record.what == "majority"}
        last = self.records[-1].t if self.records else 0.0
        return [
            Fault(
                record.facts["name"],
                record.t,
                over.get(record.facts["number"], last),
                record.facts.get("target"),
                record.facts.get("graceful", False),
                majority.get(record.facts["number"]),
            )
            for record in self.records
            if record.what == "fault"
        ]

    @cached_property
    def hits(self) -> list[Fault]:
        """What was done to servers of a cluster: a fault has several, and each moves their leaders."""
        return [
            Fault(record.facts["name"], record.facts["since"], record.t)
            for record in self.records
            if record.what == "hit"
        ]


def read(path: Path) -> History:
    """A history from its file."""
    with path.open("rb") as file:
        return History.of(record for line in file if line.strip() for record in parse(line.rstrip(b"\n")))
