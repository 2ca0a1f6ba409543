"""Copies: what is about to be stored is numbered, unless it is stored already."""

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
    """One event to be stored, and then what became of it."""

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
    """Recognises copies: what was published within the window, by (source, id, hop).

    The fingerprints are in temporary tables of this connection: nothing is written or synced for them, they roll back
    with the transaction, and memory stays flat. They are read from the log itself, so that they survive a restart and
    hold what other processes published; a hit is compared with the event it points to. Two tables take turns, so that
    forgetting costs nothing: each copy is known for one window at least, for two at most.
    """

    def __init__(self, window: float) -> None:
        self._window = window
        self._epoch = -1
        self._current = 0
        self._turn_at = 0.0
        self._known: dict[int, int] = {}
        """For each topic the last sequence number that is in the tables."""

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
            self._known[topic.id] = seq
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
            found = store.execute(_FIND, {"h": entry.fingerprint}).fetchone()
            if found is not None:
                other = fresh[found[0] - first].row if found[0] >= first else _row(store.segment(found[0]), found[0])
                if other is None or _same(entry.row, other):
                    entry.seq, entry.duplicate = found[0], True
                    continue
            entry.seq = first + len(fresh)
            fresh.append(entry)
            self._add(store, entry.seq, [entry.fingerprint])
        self._known[topic.id] = topic.last + len(fresh)
        return fresh

    def _add(self, store: Store, first: int, fingerprints: list[int]) -> int:
        """Remember these, of events numbered from ``first``; how many were new."""
        return store.execute(_ADD[self._current], (first, to_json(fingerprints).decode())).rowcount

    def _prepare(self, store: Store, topic: Topic) -> None:
        """Forget what is too old, and learn what this connection has not seen."""
        now = time.monotonic()
        if self._epoch != store.epoch:
            for table in (0, 1):
                store.execute(f"CREATE TEMP TABLE IF NOT EXISTS ab_recent{table}(h INTEGER PRIMARY KEY, seq INTEGER)")
                store.execute(f"DELETE FROM temp.ab_recent{table}")
            self._epoch = store.epoch
            self._known.clear()
            self._turn_at = now + self._window
        elif now >= self._turn_at:
            self._current = 1 - self._current
            store.execute(f"DELETE FROM temp.ab_recent{self._current}")
            self._turn_at = now + self._window
        known = self._known.get(topic.id, topic.id << SHIFT)
        if known < topic.last:
            self._learn(store, topic, known)

    def _learn(self, store: Store, topic: Topic, known: int) -> None:
        """Read what others published, back to the beginning of the window."""
        groups = dict(store.execute("SELECT id, name FROM ab_group WHERE topic = ?", (topic.id,)).fetchall())
        since = time.time() - self._window
        upper = topic.last
        while upper > known:
            row = store.execute(
                "SELECT first, count, only_group, meta, x'', at FROM ab_segment WHERE first BETWEEN ? AND ? "
                "ORDER BY first DESC LIMIT 1",
                (known + 1, upper),
            ).fetchone()
            if row is None or row[5] < since:
                return
            segment = Segment(*row[:5])
            mark = partial(fingerprint, topic.name, groups.get(segment.only_group or 0))
            self._add(store, segment.first, [mark(item) for item in segment.rows])
            upper = segment.first - 1


def _row(segment: Segment | None, seq: int) -> Row | None:
    """The row of that number, if it is still there."""
    return segment.rows[seq - segment.first] if segment is not None and segment.first <= seq else None


def _same(one: Row, other: Row) -> bool:
    return one[0] == other[0] and one[1] == other[1] and hop_of(one) == hop_of(other)


_ADD = [
    f"INSERT OR IGNORE INTO temp.ab_recent{table}(h, seq) SELECT value, ? + key FROM json_each(?) "
    f"WHERE NOT EXISTS (SELECT 1 FROM temp.ab_recent{1 - table} WHERE h = value)"
    for table in (0, 1)
]
_FIND = "SELECT seq FROM temp.ab_recent0 WHERE h = :h UNION ALL SELECT seq FROM temp.ab_recent1 WHERE h = :h"
