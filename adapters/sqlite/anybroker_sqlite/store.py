"""The one thread that talks to SQLite, and how work reaches it.

All work that is waiting when the thread becomes free (publishes, settlements and claims of all senders and receivers of
this adapter) goes into one transaction, with one sync of the disk. Publishes come first, then settlements, then claims,
which therefore see both.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import sqlite3
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from anybroker.errors import AnybrokerError, BrokerError, PublishOutcomeUnknown, Rejected, Unavailable
from anybroker.kit.sqlite_file import FileGone, Files
from anybroker.printable import logger

from .failures import in_use, text_of
from .schema import connect
from .settings import SqliteSettings
from .wake import Bells
from .wire import Segment

__all__ = ["ADMIN", "CLAIM", "PUBLISH", "SETTLE", "Job", "Store", "Topic"]

T = TypeVar("T")

_log = logger("anybroker.sqlite")

PUBLISH, SETTLE, ADMIN, CLAIM = range(4)
"""The order of work within a transaction."""

_MAX_JOBS = 256
"""The most jobs in one transaction."""
_CACHED_BYTES = 16 * 1024 * 1024


class Topic(NamedTuple):
    """A row of ``ab_topic``."""

    id: int
    name: str
    ordered: int
    retention: float | None
    last: int
    trimmed: float


class Job(Protocol):
    """A piece of work. ``run`` is called in the thread, inside the transaction. ``finish`` is called in the event loop,
    after the commit or with the error that ended the transaction (PublishOutcomeUnknown if it may be stored)."""

    rank: int

    def run(self, store: Store) -> None: ...
    def parts(self) -> Sequence[Job]:
        """After a run that failed unexpectedly: the same work in smaller pieces; one piece if it cannot be split."""
        ...

    def finish(self, error: BrokerError | None) -> None: ...


class _Call(Generic[T]):
    """A function as a job; its result goes into a future."""

    def __init__(self, function: Callable[[Store], T], rank: int, future: asyncio.Future[T]) -> None:
        self.rank = rank
        self._function = function
        self._future = future
        self._result: T | None = None
        self._error: AnybrokerError | None = None

    def parts(self) -> Sequence[Job]:
        return (self,)

    def run(self, store: Store) -> None:
        self._error = None  # it may have run before, in a transaction that failed
        if self.rank != ADMIN:  # these raise only before they write anything
            try:
                self._result = self._function(store)
            except AnybrokerError as exc:
                self._error = exc
            return
        store.execute("SAVEPOINT ab")
        try:
            self._result = self._function(store)
        except AnybrokerError as exc:
            self._error = exc
            store.execute("ROLLBACK TO ab")
        store.execute("RELEASE ab")

    def finish(self, error: BrokerError | None) -> None:
        if self._future.done():
            return  # cancelled meanwhile
        failure = error or self._error
        if isinstance(failure, PublishOutcomeUnknown):
            failure = Unavailable(str(failure)).with_traceback(None)
            failure.__cause__ = error
        if failure is not None:
            self._future.set_exception(failure)
        else:
            self._future.set_result(self._result)  # type: ignore[arg-type]  # set by run, whatever T is


class Store:
    """The database, its thread, and what is cached of it. Made in the event loop."""

    def __init__(self, path: Path, settings: SqliteSettings) -> None:
        self.path = path
        self.settings = settings
        self.wake_folder = Path(settings.wake_folder or f"{path}-wake")
        self.bells = Bells(self.wake_folder, path)
        self.epoch = 0
        """Grows with each rollback, which invalidates everything cached of the database."""
        self.members: dict[int, Callable[[], None]] = {}
        """Wakes each receiver of this adapter, by member id; changed in the event loop only."""
        self._groups: dict[int, int] = {}
        self._loop = asyncio.get_running_loop()
        self._queue: SimpleQueue[Job | None] = SimpleQueue()
        self.closed = False
        self._begun = False
        self._synced = True
        self._ending = False
        self._ended: asyncio.Future[None] | None = None
        self._thread: threading.Thread | None = None
        self._connection: sqlite3.Connection | None = None
        self._file_turn: threading.Lock
        """Held by the thread of this process that is writing the file; several Buses may share the file."""
        self._patience = 0.0
        self._files: Files
        self._segments: OrderedDict[int, Segment] = OrderedDict()
        self._cached = 0
        self._woken: set[int] = set()
        self.next_trim: dict[int, float] = {}
        """By topic, when to look again for events that retention may delete (on the monotonic clock)."""

    # ------------------------------------------------------------------------------------------- in the loop

    async def open(self, timeout: float) -> None:
        """Start the thread and open the file. Raises what :func:`connect` raises; then nothing is left open."""
        opened: asyncio.Future[None] = self._loop.create_future()
        # A daemon thread: a program that forgets to close can still exit. Committed events are safe.
        self._patience = max(timeout, self.settings.busy_timeout)
        self._thread = threading.Thread(target=self._main, args=(opened, timeout), name="anybroker sqlite", daemon=True)
        self._thread.start()
        try:
            await opened
        except BaseException:
            self.closed = True
            self._queue.put(None)
            raise

    def put(self, job: Job) -> None:
        """Hand a piece of work to the thread."""
        if self.closed:
            job.finish(Unavailable(f"{self.path} is closed"))
        else:
            self._queue.put(job)

    def put_again(self, job: Job) -> None:
        """In the thread: queue more work for another transaction."""
        self._queue.put(job)

    def call(self, function: Callable[[Store], T], rank: int = ADMIN) -> asyncio.Future[T]:
        """Run a function in a transaction; the future has its result once that is committed."""
        future: asyncio.Future[T] = self._loop.create_future()
        self.put(_Call(function, rank, future))
        return future

    async def close(self) -> None:
        """Finish the queued work, close the file and end the thread. Idempotent."""
        if self.closed or self._thread is None:
            return
        self.closed = True
        self._ended = ended = self._loop.create_future()
        self._queue.put(None)
        await ended
        self._thread.join()

    def _finish(self, jobs: Sequence[Job], error: BrokerError | None, woken: set[int]) -> None:
        for job in jobs:
            job.finish(error)
        if woken:
            for member, wake in list(self.members.items()):
                if self._groups.get(member) in woken:
                    wake()

    def add_member(self, member: int, group: int, wake: Callable[[], None]) -> None:
        """Let a receiver be woken for its group."""
        self._groups[member] = group
        self.members[member] = wake

    def remove_member(self, member: int) -> None:
        """Forget a closed receiver."""
        self.members.pop(member, None)
        self._groups.pop(member, None)

    # ----------------------------------------------------------------------------------------- in the thread

    def _main(self, opened: asyncio.Future[None], timeout: float) -> None:
        try:
            busy_timeout = min(timeout, self.settings.busy_timeout)
            self._connection, self._file_turn = connect(self.path, busy_timeout, timeout)
        except Exception as exc:  # noqa: BLE001 - every error goes to the coroutine that waits
            self._tell(_fail, opened, exc)
            return
        self._files = Files(self.path)
        self.execute = self._connection.execute
        self._script = self._connection.executescript
        self._tell(_succeed, opened)
        try:
            while self._turn():
                pass
        finally:
            self._connection.close()
        if self._ended is not None:
            self._tell(_succeed, self._ended)

    def _tell(self, function: Callable[..., None], *args: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the loop was closed before the adapter: nobody listens
            self._loop.call_soon_threadsafe(function, *args)

    def _turn(self) -> bool:
        """Wait for work and do all of it. False: no more work will come."""
        get = self._queue.get
        jobs: list[Job] = []
        job = get()
        try:
            while True:
                if job is None:
                    self._ending = True
                else:
                    jobs.append(job)
                if len(jobs) == _MAX_JOBS:
                    break
                job = get(False)
        except Empty:
            pass
        jobs.sort(key=_rank)
        if jobs:
            self._do(jobs)
        return not (self._ending and self._queue.empty())

    def _do(self, jobs: list[Job]) -> None:
        error: BrokerError | None = None
        try:
            error = self._transact(jobs)
        except Exception as exc:  # noqa: BLE001 - a fault in one job must neither end the thread nor fail other jobs
            parts = jobs if len(jobs) > 1 else jobs[0].parts()
            if len(parts) > 1:
                for job in parts:
                    self._do([job])
                return
            text = f"{self.path}: {type(exc).__name__}: {exc}"
            if jobs[0].rank == CLAIM:  # not transient: its receiver has to be opened again
                error = BrokerError(text)
            elif jobs[0].rank == PUBLISH and not isinstance(exc, MemoryError):
                error = Rejected(f"{text}. Nothing was stored")
            else:
                error = Unavailable(f"{text}. Nothing was stored")
            error.__cause__ = exc
            _log.error("%s", text, exc_info=exc)
        woken, self._woken = self._woken, set()
        self._tell(self._finish, jobs, error, woken)

    def _transact(self, jobs: list[Job]) -> BrokerError | None:
        """One transaction. Returns the error if nothing was stored, or if that is unknown."""
        if not self._file_turn.acquire(timeout=self._patience):
            return Unavailable(in_use(self.path, self._patience))
        try:
            return self._transact_in_turn(jobs)
        finally:
            self._file_turn.release()

    def _transact_in_turn(self, jobs: list[Job]) -> BrokerError | None:
        committing = False
        try:
            self._sync(jobs[0].rank != CLAIM)
            self._begin()
            self._begun = True
            self._files.check()
            for job in jobs:
                job.run(self)
            bells = self._names_of_bells() if self._woken else ()
            committing = True
            self.execute("COMMIT")
            self._begun = False
        except sqlite3.Error as exc:
            self._roll_back()
            text = text_of(exc, self.path)
            code = exc.sqlite_errorcode & 0xFF if getattr(exc, "sqlite_errorcode", None) else 0
            # A failed write or sync of the log may still have reached the disk, and count after a loss of power.
            unknown = committing and code not in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_FULL)
            error = PublishOutcomeUnknown(f"{text}, while committing") if unknown else Unavailable(text)
            error.__cause__ = exc
            return error
        except FileGone as exc:
            self._roll_back()
            return exc
        except Exception as exc:
            self._roll_back()
            if committing:
                text = f"{self.path}: {type(exc).__name__}: {exc}, while committing"
                error = PublishOutcomeUnknown(text)
                error.__cause__ = exc
                return error
            raise
        if bells:
            self.bells.ring(bells)
        return None

    def _sync(self, full: bool) -> None:
        """Set whether the next commit waits for the disk. A transaction of claims alone need not wait: a loss of power
        ends their owners too, and the next commit that waits makes them durable. Everything else runs with FULL.

        Run as a script, because this PRAGMA acts when it is prepared, and the statement cache would not prepare it
        again.
        """
        if full != self._synced:
            self._script(f"PRAGMA synchronous={'FULL' if full else 'NORMAL'}")
            self._synced = full

    def _begin(self) -> None:
        """Take the write lock, retrying every millisecond or less. SQLite's own busy handler waits up to 100 ms between
        tries and would starve: a busy process frees the lock for a fraction of a millisecond only."""
        deadline = 0.0
        while True:
            try:
                self.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError as exc:
                now = time.monotonic()
                deadline = deadline or now + self.settings.busy_timeout
                if exc.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or now >= deadline:
                    raise
                time.sleep(random.uniform(0.0002, 0.001))
            else:
                return

    def _roll_back(self) -> None:
        self._woken.clear()
        if not self._begun:
            return
        self._begun = False
        self.epoch += 1
        self._segments.clear()
        self._cached = 0
        try:
            self.execute("ROLLBACK")
        except sqlite3.Error:
            pass  # SQLite has already rolled back

    # For jobs, inside the transaction.

    _script: Callable[[str], sqlite3.Cursor]
    execute: Callable[..., sqlite3.Cursor]
    """``Connection.execute``."""

    def topic(self, name: str) -> Topic | None:
        """The topic of that name."""
        row = self.execute(
            "SELECT id, name, ordered, retention, last, trimmed FROM ab_topic WHERE name = ?", (name,)
        ).fetchone()
        return None if row is None else Topic(*row)

    def wake_group(self, group: int) -> None:
        """After the commit, wake the waiting members of this group."""
        self._woken.add(group)

    def wake_topic(self, topic: int) -> None:
        """After the commit, wake the waiting members of all groups of this topic."""
        for (group,) in self.execute("SELECT id FROM ab_group WHERE topic = ?", (topic,)).fetchall():
            self._woken.add(group)

    def _names_of_bells(self) -> list[str]:
        """The FIFOs of members in other processes that must be woken."""
        woken, members = self._woken, self.members
        rows = self.execute("SELECT id, grp, wake FROM ab_member").fetchall()
        return [wake for member, group, wake in rows if group in woken and member not in members]

    def segment(self, seq: int) -> Segment | None:
        """The segment that holds this sequence number, or else the next one of the topic; None at the end."""
        row = self.execute(
            "SELECT first FROM ab_segment WHERE first BETWEEN (:seq >> 40 << 40) AND :seq ORDER BY first DESC LIMIT 1",
            {"seq": seq},
        ).fetchone()
        if row is not None:
            segment = self._load(row[0])
            if segment.last >= seq:
                return segment
        row = self.execute(
            "SELECT first FROM ab_segment WHERE first > :seq AND first < ((:seq >> 40) + 1 << 40) "
            "ORDER BY first LIMIT 1",
            {"seq": seq},
        ).fetchone()
        return None if row is None else self._load(row[0])

    def following(self, segment: Segment, seq: int) -> Segment | None:
        """:meth:`segment`, faster where the segment before is given."""
        if segment.first <= seq <= segment.last:
            return segment
        if seq == segment.last + 1 and seq in self._segments:
            return self._load(seq)
        return self.segment(seq)

    def _load(self, first: int) -> Segment:
        segments = self._segments
        segment = segments.get(first)
        if segment is not None:
            segments.move_to_end(first)
            return segment
        row = self.execute(
            "SELECT first, count, only_group, meta, body FROM ab_segment WHERE first = ?", (first,)
        ).fetchone()
        segment = segments[first] = Segment(*row)
        self._cached += segment.size
        while len(segments) > 1 and self._cached > _CACHED_BYTES:
            self._cached -= segments.popitem(last=False)[1].size
        return segment


def _rank(job: Job) -> int:
    return job.rank


def _succeed(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _fail(future: asyncio.Future[None], exc: Exception) -> None:
    if not future.done():
        future.set_exception(exc)
