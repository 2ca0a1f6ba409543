"""The sender: submitted events become segments of their topics."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence

from pydantic_core import to_json

from anybroker.adapter import Outbound, Receipt, Report, check_size, unwritable
from anybroker.errors import BrokerError, Rejected

from .recent import Entry, RecentIds
from .retention import trim
from .schema import SEGMENT_EVENTS, SHIFT
from .store import PUBLISH, Job, Store
from .wire import encode, size_of

__all__ = ["SqliteSender"]

_SEGMENT_BYTES = 1024 * 1024
_TRANSACTION_EVENTS = 8192
_HARD_LIMIT = 1_000_000_000 - 65_536
"""The most bytes that SQLite accepts for a segment's text or body [SQLITE_MAX_LENGTH], less the rest of the row."""


class _Publish:
    """The events that wait in the sender when the thread gets to them, as a job."""

    rank = PUBLISH

    def __init__(self, sender: SqliteSender, recent: RecentIds, entries: list[Entry] | None = None) -> None:
        self._sender = sender
        self._recent = recent
        self._entries = entries

    def parts(self) -> Sequence[Job]:
        """One job for each event: an event that cannot be stored fails alone."""
        return [_Publish(self._sender, self._recent, [entry]) for entry in self._entries or ()] or (self,)

    def run(self, store: Store) -> None:
        if self._entries is None:
            self._entries = self._sender.take()
        grouped: dict[tuple[str, str | None], list[Entry]] = {}
        for entry in self._entries:
            where = (entry.outbound.topic, entry.outbound.group)
            entries = grouped.get(where)
            if entries is None:
                grouped[where] = [entry]
            else:
                entries.append(entry)
        for (topic, group), entries in grouped.items():
            self._store(store, topic, group, entries)

    def _store(self, store: Store, name: str, group: str | None, entries: list[Entry]) -> None:
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
        trim(store, topic)

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
    """Each event needs its own error, because the core writes the event into it."""
    copy = type(error)(str(error))
    copy.__cause__ = error.__cause__
    return copy


def _chunks(entries: list[Entry]) -> Iterator[list[Entry]]:
    """Split into segments; a receiver reads a whole segment at a time."""
    size = begin = 0
    for at, entry in enumerate(entries):
        size += entry.row[6] or 0
        if at > begin and (size > _SEGMENT_BYTES or at - begin == SEGMENT_EVENTS):
            yield entries[begin:at]
            begin, size = at, entry.row[6] or 0
    yield entries[begin:]


class SqliteSender:
    """Encodes events and hands them to the store's thread, which does everything else."""

    def __init__(self, store: Store, recent: RecentIds) -> None:
        self._store = store
        self._recent = recent
        self._limit = store.settings.max_event_bytes
        self._lock = threading.Lock()
        self._waiting: list[Entry] = []
        self._scheduled = False

    async def submit(self, batch: Sequence[Outbound], report: Report, /) -> None:
        """Sender.submit: committed together with all other work that is waiting."""
        entries: list[Entry] = []
        limit = self._limit
        for outbound in batch:
            refused: BrokerError | None = None
            try:
                row, body, rough = encode(outbound)
                # Measured only where it may matter: the usual attributes are short.
                if row[7] is not None or rough > limit // 8:
                    refused = check_size(outbound, size_of(row), limit, _HARD_LIMIT)
            except Exception as exc:  # noqa: BLE001 - any error belongs to this event and must not fail the others
                report(outbound, unwritable(outbound, exc, "row"))
                continue
            if refused is not None:
                report(outbound, refused)
                continue
            entries.append(Entry(outbound, row, body, report))
        with self._lock:
            self._waiting += entries
            schedule = not self._scheduled and bool(self._waiting)
            self._scheduled = self._scheduled or schedule
        if schedule:
            self._store.put(_Publish(self, self._recent))

    def take(self) -> list[Entry]:
        """In the store's thread: the waiting entries, at most as many as one transaction should have."""
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
            try:
                await self._store.call(_nothing)
            except BrokerError:
                pass  # the events handed over before failed in the same way, and that was reported
            if not self._scheduled:
                return


def _nothing(store: Store) -> None:
    """Runs after everything handed over before it is committed and reported."""
