"""Settling in batches: one task per receiver, one call at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ..adapter import Ack, Commit, Inbound, Lane, Receiver, Release, Settlement
from ..errors import BrokerError, LeaseLost
from .backoff import Backoff
from .lanes import LaneState

if TYPE_CHECKING:
    from ..delivery import Delivery
    from ..stats import SubscriptionStats
from ..printable import logger

__all__ = ["Settler"]

_log = logger("anybroker.broker")

_FLUSH_TRIES = 6
"""How often a failed settlement is sent again while closing waits for it: about two seconds in total."""


class Settler:
    """Collects settlements while the last call is in progress, and hands them over together.

    A settlement that comes too late (:class:`LeaseLost`) is counted, never raised. One that could not be sent is
    counted, and sent again with a growing wait for as long as this member has its lane: a commit with the position
    reached by then, an acknowledgement unchanged, with its lease extended. A second failure is reported to ``trouble``.
    """

    def __init__(
        self,
        receiver: Receiver,
        interval: float,
        stats: SubscriptionStats,
        settled: Callable[[Sequence[Inbound]], None] | None,
        ours: Callable[[Lane], bool],
        trouble: Callable[[str | None], None],
        room: Callable[[], None] = lambda: None,
    ) -> None:
        self._receiver = receiver
        self._interval = interval
        self._stats = stats
        self._settled = settled
        self._ours = ours
        self._trouble = trouble
        self._room = room
        """Called when a call has ended and fewer deliveries are unsettled."""
        self._failed_in_a_row = 0
        self._again: list[Ack | Release] = []
        self._in_call = 0
        self._pending: list[Settlement] = []
        self._dirty: dict[LaneState, None] = {}
        self._wakeup: asyncio.Future[None] | None = None
        self._hurry = asyncio.Event()
        self._busy = self._ended = False
        self._flushing: list[asyncio.Future[None]] = []
        self._backoff = Backoff(first=0.05, cap=1.0)

    @property
    def unsettled(self) -> int:
        """How many settlements failed and are to be made again, are in the current call, or wait behind it."""
        return len(self._again) + self._in_call + (len(self._pending) if self._busy else 0)

    def ack(self, delivery: Delivery) -> None:
        """Per message: this delivery is done."""
        self._pending.append(Ack(delivery.inbound))
        if self._wakeup is not None:
            self._wake()

    def release(self, delivery: Delivery, attempts: int, delay: float = 0.0, failed: bool = False) -> None:
        """Per message: give this delivery back."""
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
        """Return when everything given so far is settled, or could not be settled in a few tries."""
        if (self._pending or self._dirty or self._busy or self._again) and not self._ended:
            flushed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._flushing.append(flushed)
            self._hurry.set()
            await flushed

    async def run(self) -> None:
        """Settle until cancelled. Raises what ``settle`` raised: the receiver is dead then."""
        try:
            await self._run()
        finally:
            self._ended = True
            self._flushed(self._flushing)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            if not self._pending and not self._dirty and not self._again:
                self._flushed(self._flushing)
                self._wakeup = loop.create_future()
                await self._wakeup
            if self._interval and not self._hurry.is_set():
                await self._pause(self._interval)
            flushing, self._flushing = self._flushing, []  # later ones may need another call
            failed = await self._settle_once()
            tries = 0
            while failed and flushing and tries < _FLUSH_TRIES:
                tries += 1
                await asyncio.sleep(self._backoff.next())
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
            pass  # the pause is over, and nobody cut it short

    async def _settle_once(self) -> bool:
        """Make one call. True: something must be settled again."""
        batch = self._pending
        self._pending = []
        if self._again:
            again = [item for item in self._again if self._ours(item.inbound.lane)]
            self._stats.stale_settlements += len(self._again) - len(again)
            batch[:0] = again
            self._again = []
        count = len(batch)
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
            self._report(None)
            return False
        self._busy, self._in_call = True, count
        try:
            results = await self._receiver.settle(batch)
        except BrokerError as exc:  # against the interface, but not a reason to lose count of what is settled
            _log.warning("a receiver raised from settle(): %s", exc)
            results = [exc] * len(batch)
        finally:
            self._busy, self._in_call = False, 0
        if not any(results):  # errors are truthy
            if self._settled is not None:
                self._settled([item.inbound for item in batch if not isinstance(item, Commit)])
            if self._failed_in_a_row:
                self._report(None)
            if count:
                self._room()
            return False
        return self._sort_out(batch, results, commits)

    def _sort_out(
        self, batch: Sequence[Settlement], results: Sequence[BrokerError | None], commits: Sequence[LaneState]
    ) -> bool:
        """Handle results of which some failed. True: something must be settled again."""
        first = len(batch) - len(commits)
        over: list[Inbound] = []
        why: BrokerError | None = None
        for at, (item, result) in enumerate(zip(batch, results, strict=True)):
            if result is not None:
                if not isinstance(result, LeaseLost):
                    self._stats.failed_settlements += 1
                    if isinstance(item, Commit):
                        state = commits[at - first]
                        if not state.lost:
                            self._dirty[state] = None
                            why = result
                        continue
                    if self._ours(item.inbound.lane):
                        self._again.append(item)
                        why = result
                        continue
                self._stats.stale_settlements += 1
            if not isinstance(item, Commit):
                over.append(item.inbound)
        if self._settled is not None and over:
            self._settled(over)
        self._report(why)
        return why is not None

    def _report(self, why: BrokerError | None) -> None:
        """After each call: why something must be settled again, or None. Reported from the second time on."""
        if why is None:
            if self._failed_in_a_row > 1:
                _log.info("settling works again")
                self._trouble(None)
            self._failed_in_a_row = 0
            return
        self._failed_in_a_row += 1
        if self._failed_in_a_row == 2:
            _log.warning("%d settlements failed, trying again: %s", len(self._again) + len(self._dirty), why)
        if self._failed_in_a_row > 1:
            self._trouble(f"settling fails and is tried again: {why}")
