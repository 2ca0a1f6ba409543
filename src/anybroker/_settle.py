"""Settling in batches: one task a receiver, one call at a time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ._lanes import LaneState
from ._reconnect import Backoff
from .adapter import Ack, Commit, Inbound, Receiver, Release, Settlement
from .errors import BrokerError, LeaseLost

if TYPE_CHECKING:
    from .delivery import Delivery
    from .stats import SubscriptionStats

__all__ = ["Settler"]

_log = logging.getLogger("anybroker")


class Settler:
    """Collects settlements while the last call is under way, and hands them over together.

    A settlement that comes too late (:class:`LeaseLost`) is counted, never raised. A commit that could not be sent is
    made again with the position reached by then; an acknowledgement that could not be sent comes back by itself as a
    redelivery.
    """

    def __init__(
        self,
        receiver: Receiver,
        interval: float,
        stats: SubscriptionStats,
        settled: Callable[[Sequence[Inbound]], None] | None,
    ) -> None:
        self._receiver = receiver
        self._interval = interval
        self._stats = stats
        self._settled = settled
        self._pending: list[Settlement] = []
        self._dirty: dict[LaneState, None] = {}
        self._wakeup: asyncio.Future[None] | None = None
        self._hurry = asyncio.Event()
        self._busy = False
        self._flushing: list[asyncio.Future[None]] = []
        self._backoff = Backoff(first=0.05, cap=1.0)

    def ack(self, delivery: Delivery) -> None:
        """Per message: this one is done."""
        self._pending.append(Ack(delivery.inbound))
        if self._wakeup is not None:
            self._wake()

    def release(self, delivery: Delivery, attempts: int, delay: float = 0.0, failed: bool = False) -> None:
        """Per message: give this one back."""
        self._pending.append(Release(delivery.inbound, attempts, delay, failed))
        if self._wakeup is not None:
            self._wake()

    def commit(self, state: LaneState) -> None:
        """Cumulative: the lane's ledger has moved."""
        self._dirty[state] = None
        if self._wakeup is not None:
            self._wake()

    def _wake(self) -> None:
        wakeup, self._wakeup = self._wakeup, None
        if wakeup is not None and not wakeup.done():
            wakeup.set_result(None)

    async def flush(self) -> None:
        """Return when all that was given so far is settled, or could not be."""
        if self._pending or self._dirty or self._busy:
            flushed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._flushing.append(flushed)
            self._hurry.set()
            await flushed

    async def run(self) -> None:
        """Settle until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            if not self._pending and not self._dirty:
                self._flushed(self._flushing)
                self._wakeup = loop.create_future()
                await self._wakeup
            if self._interval and not self._hurry.is_set():
                await self._pause(self._interval)
            flushing, self._flushing = self._flushing, []  # what comes later may need another call
            failed = await self._settle_once()
            self._flushed(flushing)
            if failed:
                await self._pause(self._backoff.next())
            else:
                self._backoff.reset()

    def _flushed(self, flushing: list[asyncio.Future[None]]) -> None:
        for future in flushing:
            if not future.done():
                future.set_result(None)
        if flushing is self._flushing:
            self._flushing = []
        if not self._flushing:
            self._hurry.clear()

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._hurry.wait()
        except TimeoutError:
            pass  # the pause is over, nobody was in a hurry

    async def _settle_once(self) -> bool:
        """One call. True: a commit has to be made again."""
        batch = self._pending
        self._pending = []
        commits: list[LaneState] = []
        if self._dirty:
            for state in self._dirty:
                ledger = state.ledger
                if state.lost or ledger is None or ledger.position is None:
                    continue
                batch.append(Commit(state.lane, ledger.position, ledger.note()))
                commits.append(state)
            self._dirty = {}
        if not batch:
            return False
        self._busy = True
        try:
            results = await self._receiver.settle(batch)
        except BrokerError as exc:  # against the interface, but no reason to lose count of what is settled
            _log.warning("a receiver raised from settle(): %s", exc)
            results = [exc] * len(batch)
        finally:
            self._busy = False
        if self._settled is not None:
            self._settled([item.inbound for item in batch if not isinstance(item, Commit)])
        again = False
        if any(result is not None for result in results):
            first = len(batch) - len(commits)
            for at, result in enumerate(results):
                if result is None:
                    continue
                if isinstance(result, LeaseLost):
                    self._stats.stale_settlements += 1
                    continue
                self._stats.failed_settlements += 1
                if at >= first and not commits[at - first].lost:
                    self._dirty[commits[at - first]] = None
                    again = True
        return again
