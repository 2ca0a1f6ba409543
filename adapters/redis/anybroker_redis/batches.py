"""Many calls, one round trip: the operations that wait for one server, and the task that sends them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import MovedError, RedisError, ResponseError

from anybroker.errors import AnybrokerError
from anybroker.idempotency import StoreUnavailable
from anybroker.printable import logger

from .connecting import Link
from .failures import Unsuitable, gone, unavailable
from .operations import (
    CheckOperation,
    ClaimOperation,
    EndOperation,
    Operation,
    RedisClaim,
    Transition,
    calls_of,
)

__all__ = ["Batches"]

_log = logger("anybroker.redis")

_MOST = 512
"""Operations in one round trip. A script holds the server up while it runs: about a millisecond for so many."""
_MOST_UNDONE = 10_000
"""Claims of unknown outcome that are kept to be undone; the others end with their lease."""


class Batches:
    """Sends the operations for one server, one batch at a time: what is called in one tick of the event loop, and while
    a batch is under way, goes together.

    :param connect: makes the connection, by a moment on the loop's clock.
    :param where: the store's URL, for errors.
    :param timeout: seconds by which an operation has ended.
    :param moved: takes operations whose slot another node has now; None: this is not a cluster.
    :param failed: called when the server could not be reached.
    """

    def __init__(
        self,
        connect: Callable[[float], Awaitable[Link]],
        counters: Sequence[bytes],
        where: str,
        timeout: float,
        moved: Callable[[Sequence[Transition]], None] | None,
        failed: Callable[[], None],
    ) -> None:
        self._connect = connect
        self._counters = counters
        self._where = where
        self._timeout = timeout
        self._moved = moved
        self._failed = failed
        self._loop = asyncio.get_running_loop()
        self._waiting: list[Operation] = []
        self._undo: list[tuple[ClaimOperation, float]] = []
        """Claims that may have been made although their callers were told that the store failed, and when they have
        surely ended by themselves."""
        self._written = False
        """Whether anything of the current batch may have reached the server."""
        self._wake = asyncio.Event()
        self._closing = False
        self._link: Link | None = None
        self._task = self._loop.create_task(self._run(), name="anybroker redis")

    def adopt(self, link: Link) -> None:
        """Use this connection first."""
        self._link = link

    def put(self, operation: Operation) -> None:
        """Queue an operation; its future gets the answer."""
        if self._task.done():
            operation.fail(self._closed())
            return
        self._waiting.append(operation)
        self._wake.set()

    async def close(self) -> None:
        """Complete what was put before, and end. Cancelled: drops it."""
        self._closing = True
        self._wake.set()
        try:
            await asyncio.wait([self._task])
        finally:
            self._task.cancel()
            if self._link is not None:
                await self._link.close()
                self._link = None

    async def _run(self) -> None:
        batch: list[Operation] = []
        try:
            while True:
                while not self._waiting:
                    if self._closing:
                        return
                    self._wake.clear()
                    await self._wake.wait()
                batch, self._waiting = self._waiting[:_MOST], self._waiting[_MOST:]
                batch = [each for each in batch if not (isinstance(each, ClaimOperation) and each.future.done())]
                if batch:
                    await self._send(batch)
        finally:  # cancelled: nobody may wait for ever
            for each in (*batch, *self._waiting):
                each.fail(self._closed())

    def _closed(self) -> StoreUnavailable:
        return StoreUnavailable(f"the idempotency store {self._where} was closed")

    async def _send(self, batch: Sequence[Operation]) -> None:
        """Send a batch, and answer each operation of it."""
        deadline = min(each.deadline for each in batch)
        self._written = False
        undo = self._undone(deadline)
        try:
            async with asyncio.timeout_at(deadline):
                await self._exchange([*undo, *batch], deadline)
            del self._undo[: len(undo)]
        except TimeoutError as exc:
            await self._drop()
            error = StoreUnavailable(f"the idempotency store {self._where}: no answer in {self._timeout:g} s")
            error.__cause__ = exc
            self._fail(batch, error, unknown=self._written)
        except (RedisError, OSError, Unsuitable) as exc:
            await self._drop()
            self._fail(batch, unavailable(exc, self._where), unknown=self._written)
        except Exception as exc:  # noqa: BLE001 - callers must get an answer, whatever happened, and this task must go on
            await self._drop()
            _log.exception("the idempotency store %s: a batch failed", self._where)
            self._fail(batch, exc, unknown=self._written)

    async def _exchange(self, batch: Sequence[Operation], deadline: float) -> None:
        calls = calls_of(batch, self._counters, self._moved is not None, self._unwanted)
        scripts = [call for call, _ in calls]
        kept = self._link is not None
        link = await self._linked(deadline)
        self._written = True
        try:
            answers = await link.run(scripts)
        except RedisConnectionError:
            # A connection that nobody has used for a while may be gone without a word. Again, once, on a new one: each
            # transition may be repeated (see scripts.py), and a claim gets the answer that was lost.
            await self._drop()
            if not kept:
                raise
            link = await self._linked(deadline)
            answers = await link.run(scripts)
        for each in batch:
            if isinstance(each, CheckOperation):
                await link.check()
                each.succeed()
        for (call, operations), answer in zip(calls, answers, strict=True):
            if isinstance(answer, ResponseError):
                await self._refused(operations, answer)
            else:
                call[3](answer)

    async def _linked(self, deadline: float) -> Link:
        if self._link is None:
            self._link = await self._connect(deadline)
        return self._link

    async def _refused(self, operations: Sequence[Transition], answer: ResponseError) -> None:
        """The server refused a call, and changed nothing."""
        if self._moved is not None and isinstance(answer, MovedError):
            self._moved(operations)
            return
        if gone(answer):
            await self._drop()
        self._fail(operations, unavailable(answer, self._where), unknown=False)

    async def _drop(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            await link.close()
        self._failed()

    def _fail(self, operations: Sequence[Operation], error: Exception, *, unknown: bool) -> None:
        """Tell the callers. ``unknown``: the claims may have been made, and are to be undone."""
        now = self._loop.time()
        for each in operations:
            if unknown and isinstance(each, ClaimOperation) and not each.is_known and len(self._undo) < _MOST_UNDONE:
                self._undo.append((each, now + each.claim.lease))
            each.fail(error if isinstance(error, AnybrokerError) else _again(error, self._where))

    def _undone(self, deadline: float) -> list[Operation]:
        """What takes back the claims of unknown outcome, to go before the next batch."""
        now = self._loop.time()
        while self._undo and self._undo[0][1] < now:
            del self._undo[0]
        return [EndOperation.undo(claimed, deadline) for claimed, _ in self._undo[:_MOST]]

    def _unwanted(self, claim: RedisClaim) -> None:
        """Release a claim whose waiter was cancelled."""
        self.put(EndOperation.release(claim, None, self._loop.time() + self._timeout))


def _again(error: Exception, where: str) -> StoreUnavailable:
    failure = StoreUnavailable(f"the idempotency store {where}: {type(error).__name__}: {error}")
    failure.__cause__ = error
    return failure
