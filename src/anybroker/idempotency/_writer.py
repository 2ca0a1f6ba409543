"""How the SQLite store writes: one thread, one connection, many jobs per commit."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from typing import Any

from ..kit.sqlite_file import FileGone
from ..printable import logger
from ._store import StoreUnavailable

__all__ = ["Job", "RolledBack", "Writer"]

_log = logger("anybroker.store")

_BATCH = 1024
"""The most jobs in one transaction."""


class Job:
    """Work to do in a transaction, and the future that waits for it."""

    __slots__ = ("error", "future", "kind", "loop", "result", "unwanted", "value")

    def __init__(self, kind: int, value: Any = None, unwanted: Callable[[Any], None] | None = None) -> None:
        self.kind = kind
        self.value = value
        self.unwanted = unwanted
        """Called with the result if its waiter was cancelled."""
        self.loop: asyncio.AbstractEventLoop | None = None
        self.future: asyncio.Future[Any] | None = None
        self.result: Any = None
        self.error: Exception | None = None


class RolledBack(Exception):
    """A user's job has rolled back the whole transaction: it keeps its error, and the other jobs must run again."""

    def __init__(self, job: Job) -> None:
        self.job = job
        super().__init__("the whole transaction was rolled back")


class Writer:
    """Runs jobs in its own thread; jobs that wait together are committed together (group commit).

    ``connect`` opens the connection, in that thread; after an error it is closed, which rolls back, and opened again.
    ``check`` raises ``FileGone`` within a transaction that would be lost.
    ``apply`` runs a batch inside a transaction and stores each job's result or error. What it raises, except
    RolledBack, is the error of the whole batch. Results are delivered only after the commit.
    """

    def __init__(
        self,
        name: str,
        connect: Callable[[], sqlite3.Connection],
        apply: Callable[[sqlite3.Connection, Sequence[Job]], None],
        check: Callable[[], None],
    ) -> None:
        self._name = name
        self._connect = connect
        self._check = check
        self._apply = apply
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread."""
        self._thread = threading.Thread(target=self._run, name=f"anybroker {self._name}", daemon=True)
        self._thread.start()

    async def call(self, job: Job) -> Any:
        """The job's result, after the commit. Raises the job's error, or ``StoreUnavailable``."""
        job.loop = loop = asyncio.get_running_loop()
        job.future = future = loop.create_future()
        self.put(job)
        return await future

    def put(self, job: Job) -> None:
        """Queue a job without waiting for it; see :meth:`call`."""
        if self._thread is None:
            raise StoreUnavailable(f"{self._name} is not open")
        self._jobs.put(job)

    async def stop(self) -> None:
        """Finish what was queued before, and end the thread."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._jobs.put(None)
            await asyncio.to_thread(thread.join)

    # ---------------------------------------------------------------------------------------- in the thread

    def _run(self) -> None:
        connection: sqlite3.Connection | None = None
        going = True
        while going:
            batch: list[Job] = []
            job = self._jobs.get()
            while True:
                if job is None:
                    going = False
                    break
                batch.append(job)
                if len(batch) == _BATCH:
                    break
                try:
                    job = self._jobs.get_nowait()
                except Empty:
                    break
            if batch:
                connection = self._commit(connection, batch)
                self._answer(batch)
        if connection is not None:
            connection.close()

    def _commit(self, connection: sqlite3.Connection | None, batch: list[Job]) -> sqlite3.Connection | None:
        """Run the batch in one transaction. Returns the connection, or None if it must be opened again."""
        try:
            if connection is None:
                connection = self._connect()
            connection.execute("BEGIN IMMEDIATE -- anybroker")
            self._check()
            self._apply(connection, batch)
            connection.execute("COMMIT -- anybroker")
        except RolledBack as exc:
            return self._commit(connection, [job for job in batch if job is not exc.job])
        except Exception as exc:  # noqa: BLE001 - each waiter gets it
            error = exc
            if isinstance(exc, FileGone | sqlite3.OperationalError) or type(exc) is sqlite3.DatabaseError:
                error = StoreUnavailable(f"{self._name}: {exc}")
                error.__cause__ = exc
            for job in batch:
                job.result, job.error = None, error
            if connection is not None:
                connection.close()
            return None
        return connection

    def _answer(self, batch: list[Job]) -> None:
        waiting: dict[asyncio.AbstractEventLoop, list[Job]] = {}
        for job in batch:
            if job.loop is not None:
                waiting.setdefault(job.loop, []).append(job)
            elif job.error is not None:
                _log.warning("a write that nobody waits for failed: %s", job.error)
        for loop, jobs in waiting.items():
            try:
                loop.call_soon_threadsafe(_deliver, jobs)
            except RuntimeError:
                _log.debug("%s: the event loop ended before its %d answers came", self._name, len(jobs))


def _deliver(jobs: list[Job]) -> None:
    """In the event loop: wake the waiters."""
    for job in jobs:
        future = job.future
        if future is None or future.done():  # its waiter was cancelled
            if job.unwanted is not None and job.error is None:
                job.unwanted(job.result)
        elif job.error is not None:
            future.set_exception(job.error)
        else:
            future.set_result(job.result)
