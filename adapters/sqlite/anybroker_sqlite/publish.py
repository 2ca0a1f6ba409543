"""Publishing: what is submitted becomes segments of its topics, and copies are recognised."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from functools import partial

from pydantic_core import to_json

from anybroker.adapter import Outbound, Receipt, Report, check_size
from anybroker.errors import BrokerError, Rejected

from .schema import SEGMENT_EVENTS, SHIFT
from .store import PUBLISH, Store, Topic
from .wire import Row, Segment, encode, fingerprint, hop_of, size_of

__all__ = ["RecentIds", "SqliteSender"]

_SEGMENT_BYTES = 1024 * 1024
_TRANSACTION_EVENTS = 8192


class _Entry:
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


class _Publish:
    """What waits in the sender when the thread comes to it, as a job."""

    rank = PUBLISH

    def __init__(self, sender: SqliteSender, recent: RecentIds) -> None:
        self._sender = sender
        self._recent = recent
        self._entries: list[_Entry] | None = None

    def run(self, store: Store) -> None:
        if self._entries is None:
            self._entries = self._sender.take()
        grouped: dict[tuple[str, str | None], list[_Entry]] = {}
        for entry in self._entries:
            where = (entry.outbound.topic, entry.outbound.group)
            entries = grouped.get(where)
            if entries is None:
                grouped[where] = [entry]
            else:
                entries.append(entry)
        for (topic, group), entries in grouped.items():
            self._store(store, topic, group, entries)

    def _store(self, store: Store, name: str, group: str | None, entries: list[_Entry]) -> None:
        topic = store.topic(name)
        only: int | None = None
        refused = ""
        if topic is None:
            refused = f"topic {name!r} does not exist: declare it, or use provision='create'"
        elif group is not None:
            row = store.execute("SELECT id FROM ab_group WHERE topic = ? AND name = ?", (topic.id, group)).fetchone()
            if row is None:
                refused = f"group {group!r} of topic {name!r} does not exist: declare it"
            else:
                only = row[0]
        if refused or topic is None:
            for entry in entries:
                entry.refused = refused
            return
        fresh = self._recent.admit(store, topic, group, entries)
        if not fresh:
            return
        for chunk in _chunks(fresh):
            rows = to_json([entry.row for entry in chunk]).decode()
            body = b"".join([entry.body for entry in chunk if entry.body])
            store.execute(
                "INSERT INTO ab_segment(first, count, at, only_group, meta, body) VALUES (?, ?, ?, ?, ?, ?)",
                (chunk[0].seq, len(chunk), time.time(), only, rows, body),
            )
        store.execute("UPDATE ab_topic SET last = ? WHERE id = ?", (fresh[-1].seq, topic.id))
        if only is None:
            store.wake_topic(topic.id)
        else:
            store.wake_group(only)
        store.trim(topic)

    def finish(self, error: BrokerError | None) -> None:
        mask = (1 << SHIFT) - 1
        # None: the transaction could not begin, or the store is closed.
        for entry in self._sender.take() if self._entries is None else self._entries:
            outbound = entry.outbound
            if error is not None:
                entry.report(outbound, _copy(error))
            elif entry.refused:
                entry.report(outbound, Rejected(entry.refused))
            else:
                entry.report(outbound, Receipt(outbound.topic, str(entry.seq & mask), None, entry.duplicate))


def _copy(error: BrokerError) -> BrokerError:
    """An error of its own for each event: the core writes the event into it."""
    copy = type(error)(str(error))
    copy.__cause__ = error.__cause__
    return copy


def _chunks(entries: list[_Entry]) -> Iterator[list[_Entry]]:
    """Cut into segments: a receiver reads a segment as a whole."""
    size = begin = 0
    for at, entry in enumerate(entries):
        size += entry.row[6] or 0
        if at > begin and (size > _SEGMENT_BYTES or at - begin == SEGMENT_EVENTS):
            yield entries[begin:at]
            begin, size = at, entry.row[6] or 0
    yield entries[begin:]


class SqliteSender:
    """Encodes, and hands over; everything else happens in the store's thread."""

    def __init__(self, store: Store, recent: RecentIds) -> None:
        self._store = store
        self._recent = recent
        self._limit = store.settings.max_event_bytes
        self._lock = threading.Lock()
        self._waiting: list[_Entry] = []
        self._scheduled = False

    async def submit(self, batch: Sequence[Outbound], report: Report, /) -> None:
        """Sender.submit: committed together with whatever else waits for the disk."""
        entries: list[_Entry] = []
        limit = self._limit
        for outbound in batch:
            row, body, rough = encode(outbound)
            # Measured only where it may matter: the attributes that most events have are short.
            if row[7] is not None or rough > limit // 8:
                try:
                    refused: BrokerError | None = check_size(outbound, size_of(row), limit)
                except ValueError as exc:  # an unpaired surrogate in a header or key
                    refused = Rejected(f"an event for {outbound.topic!r} has text that is not Unicode: {exc}")
                    refused.__cause__ = exc
                if refused is not None:
                    report(outbound, refused)
                    continue
            entries.append(_Entry(outbound, row, body, report))
        with self._lock:
            self._waiting += entries
            schedule = not self._scheduled and bool(self._waiting)
            self._scheduled = self._scheduled or schedule
        if schedule:
            self._store.put(_Publish(self, self._recent))

    def take(self) -> list[_Entry]:
        """In the store's thread: what waits, or as much of it as one transaction should have."""
        with self._lock:
            taken = self._waiting[:_TRANSACTION_EVENTS]
            del self._waiting[:_TRANSACTION_EVENTS]
            self._scheduled = bool(self._waiting)
            again = self._scheduled
        if again:
            self._store.put_again(_Publish(self, self._recent))
        return taken

    async def close(self) -> None:
        """Sender.close. Closing the adapter does the same, so after that there is nothing to do."""
        while not self._store.closed:
            await self._store.call(_nothing)
            if not self._scheduled:
                return


def _nothing(store: Store) -> None:
    """What was handed over before is committed, and reported, before this is."""


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

    def admit(self, store: Store, topic: Topic, group: str | None, entries: list[_Entry]) -> list[_Entry]:
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

    def _one_by_one(self, store: Store, topic: Topic, group: str | None, entries: list[_Entry]) -> list[_Entry]:
        fresh: list[_Entry] = []
        first = topic.last + 1
        for entry in entries:
            found = store.execute(_FIND, (entry.fingerprint,)).fetchone()
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
    f"INSERT OR IGNORE INTO temp.ab_recent{table}(h, seq) SELECT value, ?1 + key FROM json_each(?2) "
    f"WHERE NOT EXISTS (SELECT 1 FROM temp.ab_recent{1 - table} WHERE h = value)"
    for table in (0, 1)
]
_FIND = "SELECT seq FROM temp.ab_recent0 WHERE h = ?1 UNION ALL SELECT seq FROM temp.ab_recent1 WHERE h = ?1"
