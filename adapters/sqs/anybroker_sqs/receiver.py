"""A member of a group: long polls in its own threads, as many as the traffic needs."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import chain
from time import monotonic
from typing import TypeVar

from anybroker.adapter import Ack, Commit, Inbound, Lane, LaneListener, Release, Settlement
from anybroker.errors import AnybrokerError, BrokerError, LeaseLost, Unavailable
from anybroker.kit.waker import Waker
from anybroker.printable import logger

from .failures import is_passing, may_be_done
from .queue import ENTRIES, Queue

__all__ = ["SqsReceiver"]

_log = logger("anybroker.sqs")
_R = TypeVar("_R")

KEEP = 10.0
"""Seconds between two checks of the queue's subscription."""
_BETWEEN_FAILURES = 1.0
"""Seconds between two polls while SQS does not answer."""


class SqsReceiver:
    """See :class:`anybroker.adapter.Receiver`. One lane: SQS itself keeps each message group with one member, and
    closed until its deliveries are settled.

    A poll is never given up, because SQS would still hand messages to it: what it brings after the end goes back.
    A poll that fails does not affect earlier deliveries, which can still be settled. The member is dead only when polls
    have failed for a whole lease, or for a reason that only a person can fix. Expired credentials, a wrong clock and
    too many messages in flight are not such reasons.

    A delivery whose settlement failed is still ours: it is extended, and may be settled again.
    """

    def __init__(
        self,
        queue: Queue,
        lane: Lane,
        listener: LaneListener,
        pool: ThreadPoolExecutor,
        *,
        wait: int,
        pollers: int,
        keep: Callable[[], None] | None = None,
    ) -> None:
        self._queue = queue
        self._lane = lane
        self._pool = pool
        self._wait = wait
        self._pollers = pollers
        self._keep = keep
        """Makes sure that the queue is still subscribed to its topic; blocks."""
        self._keep_at = asyncio.get_running_loop().time() + KEEP
        self._keeping: asyncio.Future[None] | None = None
        self._threads = ThreadPoolExecutor(pollers, "anybroker-sqs-poll")
        self._polls: dict[asyncio.Future[tuple[float, list[Inbound]]], int] = {}
        """Polls under way, and how many messages each may bring."""
        self._wide = 1
        """How many polls are wanted at once."""
        self._buffer: deque[tuple[float, Inbound]] = deque()
        """Deliveries that the core has not taken yet, and until when they may still be handed out."""
        self._unsettled: dict[Inbound, None] = {}
        self._settling: frozenset[Inbound] = frozenset()
        """The deliveries of the settlement under way."""
        self._releasing: frozenset[Inbound] = frozenset()
        """Those that it gives back. Extending them would hide them from other members."""
        self._acked: dict[Inbound, bool] = {}
        """Deliveries that could not be deleted. True: they may be deleted, as the answer was lost."""
        self._position = 0
        self._waker = Waker()
        self._failure: BrokerError | None = None
        self._failing_since: float | None = None
        self._poll_at = 0.0
        """When the next poll may begin: later than now after one that failed."""
        self._leaving: asyncio.Task[None] | None = None
        self._closed = False
        listener.assigned(lane)

    # ------------------------------------------------------------------------------------------------- receiving

    async def receive(self, limit: int, /, *, lanes: Collection[Lane] | None, timeout: float) -> Sequence[Inbound]:
        """See :meth:`anybroker.adapter.Receiver.receive`."""
        loop = asyncio.get_running_loop()
        end = loop.time() + timeout
        limit = limit if lanes is None or self._lane in lanes else 0
        while self._leaving is None:
            if self._failure is not None:
                raise self._failure
            batch = await self._take(limit)
            self._ask(limit - len(batch))
            now = loop.time()
            if self._keep is not None and now >= self._keep_at:
                self._keep_at = now + KEEP
                if self._keeping is None or self._keeping.done():
                    self._keeping = loop.run_in_executor(self._pool, self._keep)
            if batch or now >= end:
                return batch
            await self._waker.wait(min(end, self._poll_at) if self._poll_at > now else end)
        return ()

    def _ask(self, room: int) -> None:
        """Begin polls for the room that is left."""
        room -= sum(self._polls.values()) + len(self._buffer)
        loop = asyncio.get_running_loop()
        if self._failure is not None or self._leaving is not None or loop.time() < self._poll_at:
            return
        while room > 0 and len(self._polls) < self._wide:
            count = min(room, ENTRIES)
            room -= count
            poll = loop.run_in_executor(self._threads, self._queue.poll, count, self._wait)
            self._polls[poll] = count
            poll.add_done_callback(self._polled)

    def _polled(self, poll: asyncio.Future[tuple[float, list[Inbound]]]) -> None:
        count = self._polls.pop(poll)
        if poll.cancelled():
            return
        error = poll.exception()
        if error is None:
            if self._failing_since is not None:
                _log.info("%s: polls are answered again", self._lane.name)
            self._failing_since = None
            since, batch = poll.result()
            self._arrived(batch, monotonic() - since)
            self._wide = min(self._wide * 2, self._pollers) if len(batch) == count else max(self._wide // 2, 1)
        elif self._failure is None:
            self._failed(error)
        self._waker.wake()

    def _arrived(self, batch: Collection[Inbound], ago: float) -> None:
        """A poll has brought these, ``ago`` seconds ago: its thread or the event loop may have been slow."""
        if batch and ago >= self._queue.lease:
            # Other members may have had them meanwhile, as SQS has opened their message groups: handing them over now
            # would break the order. Giving them back could take them from another member.
            _log.warning(
                "%s: %d messages came %.0f s after SQS had handed them over, later than the lease of %d s: another "
                "member may have them, and they are left alone",
                self._lane.name,
                len(batch),
                ago,
                self._queue.lease,
            )
            return
        until = self._until() - ago
        self._buffer.extend((until, inbound) for inbound in batch)

    def _failed(self, error: BaseException) -> None:
        """A poll has failed: try again once a second, as long as the deliveries that we hold can be ours."""
        now = asyncio.get_running_loop().time()
        self._wide = 1
        self._poll_at = now + _BETWEEN_FAILURES
        if self._failing_since is None:
            self._failing_since = now
            _log.warning("%s: a poll failed, and is made again: %s", self._lane.name, error)
        passing = isinstance(error, Unavailable) or is_passing(error.__cause__)
        if not passing or now - self._failing_since >= self._queue.lease:
            self._failure = error if isinstance(error, BrokerError) else Unavailable(str(error))
            self._failure.__cause__ = error.__cause__ if isinstance(error, AnybrokerError) else error

    async def _take(self, limit: int) -> list[Inbound]:
        """Deliveries from the buffer. Those that were in it for too long go back first."""
        now = asyncio.get_running_loop().time()
        late = {inbound for until, inbound in self._buffer if until < now}
        if late:  # those that cannot go back now do so by themselves when their lease ends
            await self._hide(self._drop_from_buffer(late), 0)
        buffer = self._buffer
        batch: list[Inbound] = []
        while buffer and len(batch) < limit:
            inbound = buffer.popleft()[1]
            self._position += 1
            inbound.position = self._position
            self._unsettled[inbound] = None
            batch.append(inbound)
        return batch

    # -------------------------------------------------------------------------------------------------- settling

    async def settle(self, batch: Sequence[Settlement], /) -> Sequence[BrokerError | None]:
        """See :meth:`anybroker.adapter.Receiver.settle`."""
        acked: dict[Inbound, None] = {}
        released: dict[Inbound, int] = {}
        for item in batch:
            if not isinstance(item, Ack | Release):
                raise TypeError("SQS settles each message by itself")
            if item.inbound in self._unsettled:
                if isinstance(item, Ack):
                    acked[item.inbound] = None
                else:
                    released[item.inbound] = item.attempts
        self._settling, self._releasing = frozenset((*acked, *released)), frozenset(released)
        try:
            attempts = {inbound.raw["MessageId"]: starts for inbound, starts in released.items() if starts}
            if attempts:
                await self._note(attempts)
            results = {**await self._in_tens(acked, self._queue.delete), **await self._hide(released, 0)}
        finally:
            self._settling = self._releasing = frozenset()
        for inbound, result in results.items():
            if result is None or isinstance(result, LeaseLost):
                self._forget(inbound)
            elif inbound in acked:
                self._acked[inbound] = self._acked.get(inbound, False) or may_be_done(result.__cause__)
        gone = LeaseLost("a delivery is settled already, or no longer ours")
        return [results.pop(item.inbound, gone) for item in batch if not isinstance(item, Commit)]

    async def _note(self, attempts: Mapping[str, int]) -> None:
        try:
            await self._run(partial(self._queue.notes.write, attempts))
        except (AnybrokerError, RuntimeError) as exc:  # attempts start again then; the events must not wait for that
            _log.warning(
                "%s: the attempts of %d messages could not be noted, and will count from 0 again: %s",
                self._lane.name,
                len(attempts),
                exc,
            )

    async def extend(self, batch: Sequence[Inbound], /) -> Sequence[BrokerError | None]:
        """See :meth:`anybroker.adapter.ExtendsLease.extend`. Deliveries in the buffer are extended too."""
        ours = [inbound for inbound in batch if inbound in self._unsettled and inbound not in self._releasing]
        settling = self._being_settled()
        results = await self._hide([*ours, *(inbound for _, inbound in self._buffer)], self._queue.lease)
        until = self._until()
        self._buffer = deque(
            (until if inbound in results and results[inbound] is None else old, inbound)
            for old, inbound in self._buffer
        )
        settling |= self._being_settled()
        refused = {inbound for inbound, result in results.items() if isinstance(result, LeaseLost)} - settling
        results.update(dict.fromkeys(refused))  # a delivery that was settled meanwhile is not lost
        lost = LeaseLost("a delivery is settled already, or no longer ours")
        results.update(dict.fromkeys(await self._give_up(refused), lost))
        return [None if inbound in settling else results.get(inbound, lost) for inbound in batch]

    def _being_settled(self) -> frozenset[Inbound]:
        """Deliveries that may be settled already, so that SQS may no longer know them."""
        return self._settling.union(inbound for inbound, perhaps in self._acked.items() if perhaps)

    async def _give_up(self, lost: Collection[Inbound]) -> list[Inbound]:
        """Forget lost deliveries, and give back those behind them in their message groups, which would overtake them.
        Returns all of them."""
        if not lost:
            return []
        gone = _with_followers(lost, (*self._unsettled, *(inbound for _, inbound in self._buffer)))
        self._drop_from_buffer(gone)
        for inbound in gone:
            self._forget(inbound)
        await self._hide([inbound for inbound in gone if inbound not in lost], 0)
        return gone

    def _forget(self, inbound: Inbound) -> None:
        """It is settled, or no longer ours."""
        self._unsettled.pop(inbound, None)
        self._acked.pop(inbound, None)

    def _drop_from_buffer(self, these: Collection[Inbound]) -> list[Inbound]:
        """Take them out of the buffer, with those behind them in their message groups. Returns all of them."""
        dropped = _with_followers(these, [inbound for _, inbound in self._buffer])
        gone = set(dropped)
        self._buffer = deque((until, inbound) for until, inbound in self._buffer if inbound not in gone)
        return dropped

    def _until(self) -> float:
        """Until when a delivery that is hidden now may be handed out. The core extends it every third of the lease."""
        return asyncio.get_running_loop().time() + self._queue.lease / 2

    async def _hide(self, batch: Iterable[Inbound], seconds: int) -> dict[Inbound, BrokerError | None]:
        return await self._in_tens(batch, lambda ten: self._queue.hide(dict.fromkeys(ten, seconds)))

    async def _in_tens(
        self, batch: Iterable[Inbound], request: Callable[[Sequence[Inbound]], list[BrokerError | None]]
    ) -> dict[Inbound, BrokerError | None]:
        """One request for every ten of them, side by side; the result of each delivery."""
        items = list(batch)
        tens = [items[at : at + ENTRIES] for at in range(0, len(items), ENTRIES)]
        try:
            answers = await asyncio.gather(*(self._run(partial(request, ten)) for ten in tens))
        except RuntimeError as exc:  # the threads are gone
            closed = Unavailable("the SQS adapter is closed")
            closed.__cause__ = exc
            return dict.fromkeys(items, closed)
        return dict(zip(items, chain.from_iterable(answers), strict=True))

    async def _run(self, function: Callable[[], _R]) -> _R:
        return await asyncio.get_running_loop().run_in_executor(self._pool, function)

    # ------------------------------------------------------------------------------------------------------- end

    async def give_back(self, lane: Lane, /) -> None:
        """See :meth:`anybroker.adapter.Receiver.give_back`. SQS shares message groups out as they come."""

    async def stop(self) -> None:
        """See :meth:`anybroker.adapter.Receiver.stop`."""
        if self._leaving is None:
            self._leaving = asyncio.create_task(self._leave(), name=f"anybroker leave {self._lane.name}")
            self._waker.wake()

    async def _leave(self) -> None:
        """Give back the buffer, now and when the polls under way have ended."""
        while self._buffer or self._polls:
            batch = [inbound for _, inbound in self._buffer]
            self._buffer.clear()
            await self._hide(batch, 0)
            if self._polls:
                await asyncio.wait(self._polls, return_when=asyncio.FIRST_COMPLETED)
                await asyncio.sleep(0)  # their callbacks have run then

    async def close(self) -> None:
        """See :meth:`anybroker.adapter.Receiver.close`. Waits for the polls under way."""
        await self.stop()
        if self._closed or self._leaving is None:
            return
        self._closed = True
        try:
            await self._leaving
            acked = list(self._acked)
            unsettled = [inbound for inbound in self._unsettled if inbound not in self._acked]
            self._unsettled.clear()
            self._acked.clear()
            # Handled messages that could not be deleted are not given back: that would make sure of a duplicate.
            results = await self._in_tens(acked, self._queue.delete)
            await self._hide(unsettled, 0)
            left = sum(isinstance(result, Unavailable) for result in results.values())
            if left:
                _log.warning("%s: %d handled messages could not be deleted, and come again", self._lane.name, left)
        finally:
            self._threads.shutdown(wait=False)


def _with_followers(these: Collection[Inbound], among: Iterable[Inbound]) -> list[Inbound]:
    """The deliveries that are in ``these``, and those behind one of them in its message group."""
    groups: set[str] = set()
    taken: list[Inbound] = []
    for inbound in among:
        group = inbound.raw["Attributes"].get("MessageGroupId")
        if inbound in these or group in groups:
            taken.append(inbound)
            if group is not None:
                groups.add(group)
    return taken
