"""One connection, on which all calls made at the same time go together."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import psycopg

from anybroker.idempotency import StoreUnavailable

from .connection import Connection, connect
from .failures import CONFLICTS, not_open, sqlstate, unavailable
from .options import Target
from .statements import SESSION

__all__ = ["Batches", "Job"]

_BATCH = 1024
"""The most calls that go together."""
_TRIES = 3
"""How often a batch is tried that met a deadlock, or a connection that had ended."""
_ELSEWHERE = ("25006",)
"""Errors after which another server may be the right one: the connection is given up."""


class Job:
    """A call, and the future of its answer."""

    __slots__ = ("answer", "deadline", "future", "kind", "unwanted", "value")

    def __init__(self, kind: str, value: Any, unwanted: Callable[[Any], None] | None = None) -> None:
        self.kind = kind
        self.value = value
        self.unwanted = unwanted
        """Called with the answer if nobody waits for it any more."""
        self.answer: Any = None
        self.deadline = 0.0
        self.future: asyncio.Future[Any] | None = None

    def finish(self, answer: Any) -> None:
        """The answer is known."""
        self.answer = answer
        future, self.future = self.future, None
        if future is None:
            return
        if not future.done():
            future.set_result(answer)
        elif self.unwanted is not None:
            self.unwanted(answer)

    def fail(self, error: Exception) -> None:
        """There is no answer."""
        future, self.future = self.future, None
        if future is not None and not future.done():
            future.set_exception(error)


class Batches:
    """Runs calls, many at a time, one batch after another.

    ``run`` sends a batch and finishes its jobs; what it raises is the failure of those that are not finished. Calls
    made while a batch is under way wait for the next one. Each ends within ``timeout`` seconds: a server that does not
    answer is cut off. ``lost`` is told of the calls that were sent and whose answer did not come; ``connected`` is run
    on each new connection before anything else.
    """

    def __init__(
        self,
        name: str,
        target: Target,
        timeout: float,
        run: Callable[[Connection, list[Job]], Awaitable[None]],
        *,
        connected: Callable[[Connection], Awaitable[None]] | None = None,
        lost: Callable[[Iterable[Job]], None] | None = None,
    ) -> None:
        self._name = name
        self._target = target
        self._timeout = timeout
        self._run = run
        self._connected = connected
        self._lost = lost
        self._jobs: list[Job] = []
        self._wake = asyncio.Event()
        self._closing = False
        self._connection: Connection | None = None
        self._task: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()

    def start(self, connection: Connection | None = None) -> None:
        """Begin, with a connection that was made already, or without one."""
        self._connection = connection
        self._task = asyncio.create_task(self._work(), name=f"anybroker postgres {self._name}")

    async def call(self, job: Job) -> Any:
        """The job's answer. Raises its error, or ``StoreUnavailable``."""
        self.put(job)
        assert job.future is not None
        return await job.future

    def put(self, job: Job) -> None:
        """Queue a job. Raises ``StoreUnavailable`` if the store is not open."""
        if self._task is None or self._closing:
            raise not_open(self._target)
        job.deadline = self._loop.time() + self._timeout
        job.future = self._loop.create_future()
        self._jobs.append(job)
        self._wake.set()

    async def stop(self) -> None:
        """Finish what was called before, and close the connection."""
        if self._task is None:
            return
        self._closing = True
        self._wake.set()
        task, self._task = self._task, None
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            task.cancel()
            await asyncio.wait([task])
            raise
        finally:
            await self._drop()
            for job in self._jobs:
                job.fail(not_open(self._target))

    async def _work(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._jobs:
                batch, self._jobs = self._jobs[:_BATCH], self._jobs[_BATCH:]
                await self._finish(batch)
            if self._closing:
                return

    async def _finish(self, batch: list[Job]) -> None:
        """Run the batch until each job has an answer or an error."""
        deadline = batch[0].deadline
        for left in reversed(range(_TRIES)):
            jobs = [job for job in batch if job.future is not None]
            try:
                await self._send(jobs, deadline)
            except CONFLICTS as exc:
                if not left:
                    self._fail(jobs, unavailable(self._target, exc))
            except StoreUnavailable as exc:
                self._fail(jobs, exc)
                return
            except (psycopg.Error, OSError) as exc:
                if self._connection is None or self._connection.closed or sqlstate(exc) in _ELSEWHERE:
                    await self._drop()
                    if left and self._loop.time() < deadline - self._timeout / 4:
                        continue  # it may have ended long ago: the next connection tells
                self._fail(jobs, unavailable(self._target, exc))
                return
            except Exception as exc:  # noqa: BLE001 - a bug: the callers get it, and the next batch is run
                await self._drop()
                self._fail(jobs, exc)
                return
            except BaseException:
                self._fail(jobs, not_open(self._target))
                raise
            else:
                return

    async def _send(self, jobs: list[Job], deadline: float) -> None:
        connection = self._connection
        if connection is None:
            connection = await self._connect(deadline)
        timer = self._loop.call_at(deadline, connection.cut)
        try:
            await self._run(connection, jobs)
        except BaseException as exc:
            if self._lost is not None and connection.closed:
                self._lost(job for job in jobs if job.future is not None)
            if self._loop.time() >= deadline:
                error = StoreUnavailable(
                    f"the idempotency store {self._target} did not answer within {self._timeout:g} s"
                )
                error.__cause__ = exc
                await self._drop()
                raise error from exc
            raise
        finally:
            timer.cancel()

    async def _connect(self, deadline: float) -> Connection:
        session = (*SESSION, ("statement_timeout", str(max(1, int(self._timeout * 1000)))))
        try:
            connection = await connect(self._target, deadline, session)
            if self._connected is not None:
                timer = self._loop.call_at(deadline, connection.cut)
                try:
                    await self._connected(connection)
                except BaseException:
                    await connection.close()
                    raise
                finally:
                    timer.cancel()
        except TimeoutError as exc:
            raise StoreUnavailable(
                f"the idempotency store {self._target}: no connection within {self._timeout:g} s"
            ) from exc
        except (psycopg.Error, OSError) as exc:
            raise unavailable(self._target, exc) from exc
        self._connection = connection
        return connection

    async def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.cut()
            await connection.close()

    @staticmethod
    def _fail(jobs: Iterable[Job], error: Exception) -> None:
        for job in jobs:
            job.fail(error)
