"""Deduplication: events about to be stored get their numbers, unless they are stored already."""

from __future__ import annotations

import time
from functools import partial

from pydantic_core import to_json

from anybroker.adapter import Outbound, Report

from .schema import SHIFT
from .store import Store, Topic
from .wire import Row, Segment, fingerprint, hop_of

__all__ = ["Entry", "RecentIds"]


class Entry:
    """One event to be stored, and its outcome."""

    __slots__ = ("body", "duplicate", "fingerprint", "outbound", "refused", "report", "row", "seq")

    def __init__(self, outbound: Outbound, row: Row, body: bytes | None, report: Report) -> None:
        self.outbound = outbound
        self.report = report
        self.row = row
        self.body = body
        self.fingerprint = fingerprint(outbound.topic, outbound.group, row)
        self.seq = 0
        self.duplicate = False
        self.refused = ""


class RecentIds:
    """Recognises copies of events published within the window, by (source, id, hop).

    The fingerprints are in temporary tables of this connection: they cost no disk write, roll back with the
    transaction, and keep memory flat. They are read from the log itself, so they survive a restart and include what
    other processes published. A match is compared with the event that it points to. Two tables take turns, which makes
    forgetting cheap: each copy is known for at least one window and at most two.
    """

    def __init__(self, window: float) -> None:
        self._window = window
        self._epoch = -1
        self._current = 0
        self._turn_at = 0.0
        self._learned_to: dict[int, int] = {}
        """By topic, the last sequence number in the tables."""

    def admit(self, store: Store, topic: Topic, group: str | None, entries: list[Entry]) -> list[Entry]:
        """Number the entries, mark the duplicates, and return the others."""
        seq = topic.last
        for entry in entries:
            seq += 1
            entry.seq = seq
            entry.duplicate = False
        if not self._window:
            return entries
        self._prepare(store, topic)
        fingerprints = [entry.fingerprint for entry in entries]
        added = self._add(store, topic.last + 1, fingerprints)
        if added == len(entries):
            self._learned_to[topic.id] = seq
            return entries
        store.execute(
            f"DELETE FROM temp.ab_recent{self._current} WHERE seq > ? AND h IN (SELECT value FROM json_each(?))",
            (topic.last, to_json(fingerprints).decode()),
        )
        return self._one_by_one(store, topic, group, entries)

    def _one_by_one(self, store: Store, topic: Topic, group: str | None, entries: list[Entry]) -> list[Entry]:
        fresh: list[Entry] = []
        first = topic.last + 1
        for entry in entries:
            match = store.execute(_FIND, {"h": entry.fingerprint}).fetchone()
            if match is not None:
                other = fresh[match[0] - first].row if match[0] >= first else _row(store.segment(match[0]), match[0])
                if other is None or _same(entry.row, other):
                    entry.seq, entry.duplicate = match[0], True
                    continue
            entry.seq = first + len(fresh)
            fresh.append(entry)
            self._add(store, entry.seq, [entry.fingerprint])
        self._learned_to[topic.id] = topic.last + len(fresh)
        return fresh

    def _add(self, store: Store, first: int, fingerprints: list[int]) -> int:
        """Add these, of events numbered from ``first``. Returns how many were new."""
        return store.execute(_ADD[self._current], (first, to_json(fingerprints).decode())).rowcount

    def _prepare(self, store: Store, topic: Topic) -> None:
        """Forget what is too old, and read what other connections stored."""
        now = time.monotonic()
        if self._epoch != store.epoch:
            for table in (0, 1):
                store.execute(f"CREATE TEMP TABLE IF NOT EXISTS ab_recent{table}(h INTEGER PRIMARY KEY, seq INTEGER)")
                store.execute(f"DELETE FROM temp.ab_recent{table}")
            self._epoch = store.epoch
            self._learned_to.clear()
            self._turn_at = now + self._window
        elif now >= self._turn_at:
            self._current = 1 - self._current
            store.execute(f"DELETE FROM temp.ab_recent{self._current}")
            self._turn_at = now + self._window
        learned_to = self._learned_to.get(topic.id, topic.id << SHIFT)
        if learned_to < topic.last:
            self._learn(store, topic, learned_to)

    def _learn(self, store: Store, topic: Topic, learned_to: int) -> None:
        """Read what others published, back to the start of the window."""
        groups = dict(store.execute("SELECT id, name FROM ab_group WHERE topic = ?", (topic.id,)).fetchall())
        since = time.time() - self._window
        upper = topic.last
        while upper > learned_to:
            row = store.execute(
                "SELECT first, count, only_group, meta, x'', at FROM ab_segment WHERE first BETWEEN ? AND ? "
                "ORDER BY first DESC LIMIT 1",
                (learned_to + 1, upper),
            ).fetchone()
            if row is None or row[5] < since:
                return
            segment = Segment(*row[:5])
            mark = partial(fingerprint, topic.name, groups.get(segment.only_group or 0))
            self._add(store, segment.first, [mark(item) for item in segment.rows])
            upper = segment.first - 1


def _row(segment: Segment | None, seq: int) -> Row | None:
    """The row with that number, unless it was deleted."""
    return segment.rows[seq - segment.first] if segment is not None and segment.first <= seq else None


def _same(one: Row, other: Row) -> bool:
    return one[0] == other[0] and one[1] == other[1] and hop_of(one) == hop_of(other)


_ADD = [
    f"INSERT OR IGNORE INTO temp.ab_recent{table}(h, seq) SELECT value, ? + key FROM json_each(?) "
    f"WHERE NOT EXISTS (SELECT 1 FROM temp.ab_recent{1 - table} WHERE h = value)"
    for table in (0, 1)
]
_FIND = "SELECT seq FROM temp.ab_recent0 WHERE h = :h UNION ALL SELECT seq FROM temp.ab_recent1 WHERE h = :h"
