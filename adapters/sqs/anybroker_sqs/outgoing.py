"""Events that wait to be sent to one destination, and which of them may go in the next request."""

from __future__ import annotations

from collections import deque
from typing import Any, Final, TypeAlias

from anybroker.adapter import Outbound, Report

from .topology import Destination

__all__ = ["Entry", "Outgoing", "Where"]

_ENTRIES: Final = 10
"""The most that one request takes."""

Where: TypeAlias = tuple[str, str | None]
"""A topic, and the group whose inlet it is; None: the topic itself."""


class Entry:
    """One event: the fields of its message, its size in bytes, and its message group on a FIFO."""

    __slots__ = ("fields", "group", "outbound", "report", "size")

    def __init__(
        self, outbound: Outbound, report: Report, fields: dict[str, Any], size: int, group: str | None
    ) -> None:
        self.outbound = outbound
        self.report = report
        self.fields = fields
        self.size = size
        self.group = group


class Outgoing:
    """What waits for one destination. The events of one message group go in one request at a time; events without a
    group in any number of requests at a time."""

    __slots__ = ("_ready", "_waiting", "destination", "where")

    def __init__(self, where: Where, destination: Destination) -> None:
        self.where = where
        self.destination = destination
        self._waiting: dict[str | None, deque[Entry]] = {}
        """By message group. A group that is in here, but not in ``_ready``, has a request under way."""
        self._ready: deque[str | None] = deque()

    def put(self, entry: Entry) -> None:
        """Add one."""
        waiting = self._waiting.get(entry.group)
        if waiting is None:
            self._waiting[entry.group] = deque((entry,))
            self._ready.append(entry.group)
        else:
            waiting.append(entry)

    def take(self, limit: int) -> list[Entry]:
        """The next batch, of up to ten entries and ``limit`` bytes; empty if nothing may go now."""
        batch: list[Entry] = []
        ready = self._ready
        while ready and len(batch) < _ENTRIES:
            group = ready[0]
            waiting = self._waiting[group]
            before = len(batch)
            while waiting and len(batch) < _ENTRIES and (not batch or limit >= waiting[0].size):
                entry = waiting.popleft()
                limit -= entry.size
                batch.append(entry)
            if group is None:
                if waiting:
                    break
                del self._waiting[None]
            elif len(batch) == before:
                break  # no room for its first entry
            ready.popleft()
        return batch

    def done(self, groups: set[str]) -> None:
        """The request of these groups has ended."""
        for group in groups:
            if self._waiting[group]:
                self._ready.append(group)
            else:
                del self._waiting[group]

    def drop(self, group: str) -> deque[Entry]:
        """Take out all entries that wait behind a request of this group."""
        dropped, self._waiting[group] = self._waiting[group], deque()
        return dropped

    def drop_all(self) -> list[Entry]:
        """Take out all entries, for good."""
        dropped = [entry for waiting in self._waiting.values() for entry in waiting]
        self._ready.clear()
        for waiting in self._waiting.values():
            waiting.clear()
        return dropped
