"""The receiver: it waits, is woken, and hands its work to the store's thread."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from functools import partial

from anybroker.adapter import Inbound, Lane, Settlement, SubscriptionSpec
from anybroker.errors import BrokerError, Unavailable
from anybroker.kit.sqlite_file import FileGone
from anybroker.kit.waker import Waker
from anybroker.printable import logger

from .claims import Member, Taken
from .schema import SHIFT
from .store import CLAIM, SETTLE, Store
from .wake import Fifo
from .wire import decode

__all__ = ["SqliteReceiver"]

_log = logger("anybroker.sqlite")


class SqliteReceiver:
    """A member of a group. It has one lane, the whole topic: order is kept by key, in the database."""

    def __init__(self, store: Store, spec: SubscriptionSpec, group: int, member: int, fifo: Fifo, lease: float) -> None:
        self.lane = Lane(f"{spec.topic}/{member:x}", 1)
        self._store = store
        self._member = Member(member, group, spec.topic, spec.ordered, self.lane, lease)
        self._fifo = fifo
        self._lease = lease
        self._loop = asyncio.get_running_loop()
        self._stopped = False
        self._closed = False
        self._rung = False
        self._failing_since: float | None = None
        self._waker = Waker()
        store.add_member(member, group, self._wake)

    # --------------------------------------------------------------------------------------------- receiving

    async def receive(self, limit: int, /, *, lanes: Collection[Lane] | None, timeout: float) -> Sequence[Inbound]:
        """Receiver.receive."""
        loop, store = self._loop, self._store
        deadline = loop.time() + timeout
        poll = store.settings.poll
        if lanes is not None and self.lane not in lanes:
            while not self._stopped and loop.time() < deadline:
                self._rung = False
                await self._wait(deadline - loop.time())
            return ()
        while not self._stopped:
            self._rung = False
            try:
                taken, pause = await store.call(partial(self._member.claim, limit), CLAIM)
                if self._failing_since is not None:
                    self._failing_since = None
                    _log.info("%s: the file is writable again", self.lane.name)
            except FileGone:
                raise
            except Unavailable as exc:
                # Locked, or the disk is full. Claimed events stay ours until the lease ends, so keep trying until then.
                if self._failing_since is None:
                    self._failing_since = loop.time()
                    _log.warning("%s: looking for events failed and will be retried: %s", self.lane.name, exc)
                if loop.time() > self._failing_since + self._lease:
                    raise
                taken, pause = [], poll
            if taken:
                return self._inbounds(taken)
            left = deadline - loop.time()
            if left <= 0:
                break
            await self._wait(min(left, poll, pause))
        return ()

    async def _wait(self, seconds: float) -> None:
        """Wait until woken, at most this many seconds."""
        if self._rung or seconds <= 0:
            return
        loop = self._loop
        loop.add_reader(self._fifo.fd, self._ring)
        try:
            await self._waker.wait(loop.time() + seconds)
        finally:
            loop.remove_reader(self._fifo.fd)

    def _ring(self) -> None:
        self._fifo.drain()
        self._wake()

    def _wake(self) -> None:
        self._rung = True
        self._waker.wake()

    def _inbounds(self, taken: list[Taken]) -> list[Inbound]:
        lane, mask = self.lane, (1 << SHIFT) - 1
        result: list[Inbound] = []
        for seq, attempts, deliveries, segment in taken:
            at = seq - segment.first
            row = segment.rows[at]
            event, headers = decode(row, segment.body(at))
            inlet = segment.only_group is not None
            result.append(
                Inbound(event, lane, seq & mask, row[5], headers, row, seq, attempts, deliveries, inlet=inlet)
            )
        return result

    # ------------------------------------------------------------------------------------------------ settling

    async def settle(self, batch: Sequence[Settlement], /) -> Sequence[BrokerError | None]:
        """Receiver.settle: in one transaction, with all other work that is waiting."""
        self._member.settling(batch)
        try:
            results = await self._store.call(partial(self._member.settle, batch), SETTLE)
        except BrokerError as exc:
            return [exc] * len(batch)
        self._member.settled(batch)
        return results

    async def extend(self, batch: Sequence[Inbound], /) -> Sequence[BrokerError | None]:
        """ExtendsLease.extend."""
        try:
            return await self._store.call(partial(self._member.extend, batch), SETTLE)
        except BrokerError as exc:
            return [exc] * len(batch)

    # ------------------------------------------------------------------------------------------------- leaving

    async def give_back(self, lane: Lane, /) -> None:
        """Receiver.give_back: nothing to do; members share keys event by event."""

    async def stop(self) -> None:
        """Receiver.stop."""
        self._stopped = True
        self._wake()

    async def close(self) -> None:
        """Receiver.close: in one transaction."""
        if self._closed:
            return
        self._closed = True
        await self.stop()
        self._store.remove_member(self._member.member)
        try:
            await self._store.call(self._member.leave, SETTLE)
        except BrokerError as exc:  # the next member notices that the FIFO has no reader
            _log.warning(
                "%s: leaving the group failed; another member will give its events back: %s", self.lane.name, exc
            )
        finally:
            self._fifo.close()
