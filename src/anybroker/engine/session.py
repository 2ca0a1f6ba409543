"""One receiver at a time: opening it with what belongs to it, its lanes, and replacing it when it is dead."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from time import monotonic

from ..adapter import Adapter, BalancesLanes, BoundsLanes, ExtendsLease, Inbound, Lane, Receiver, TellsHindrance
from ..errors import BrokerError, ConfigError, Unavailable
from ..printable import logger
from .backoff import Backoff
from .balance import Balancer
from .calls import bounded, cancelled_by_nobody
from .holdings import Holdings
from .lanes import LaneState
from .lease import LeaseKeeper
from .ledger import LaneLedger
from .observing import Observers
from .settle import Settler

__all__ = ["Session"]

_log = logger("anybroker.broker")

_LEAVE_TIMEOUT = 10.0
"""Seconds that a receiver has to stop, and to close: one on a dead connection may never answer."""

_LANES_WITHIN = 10.0
"""Seconds after which a member without a lane counts as joined: other members have them all."""


class Session:
    """A subscription's membership in its group. It is the LaneListener of its receivers."""

    def __init__(
        self,
        adapter: Adapter,
        holdings: Holdings,
        lease: float,
        drain: float,
        on_broken: Callable[[], None],
        observers: Observers,
    ) -> None:
        """``lease``, ``drain``: seconds. ``on_broken``: called when the receiver turned out to be dead.
        ``observers``: told when another one is open, and of lost leases."""
        self._adapter = adapter
        self._holdings = holdings
        self._lease_seconds = lease
        self._drain_seconds = drain
        self._on_broken = on_broken
        self._observers = observers
        self._tasks: list[asyncio.Task[None]] = []
        self._balancer: Balancer | None = None
        self._leaving: asyncio.Task[None] | None = None
        self._backoff = Backoff(first=0.1, cap=5.0, floor=0.02)
        self._stop_asked = asyncio.Event()
        self._opened = 0.0
        self._had_lane = False
        self._teller: TellsHindrance | None = None
        self.receiver: Receiver | None = None
        self.broken: BrokerError | None = None
        """Why the receiver has to be replaced."""
        self.settling_problem: str | None = None
        """Why settling fails; it is tried again."""
        self.window: int | None = None
        """The most unsettled events of a lane that the broker hands over; None: no such limit."""

    # ----------------------------------------------------------------------------------------------- opening, closing

    async def open(self) -> None:
        """Open a receiver and what belongs to it. Raises what ``open_receiver`` raises."""
        holdings = self._holdings
        self._had_lane = False
        receiver = await self._adapter.open_receiver(holdings.spec, self)
        self.receiver = receiver
        self._opened = monotonic()
        self._teller = receiver if isinstance(receiver, TellsHindrance) else None
        self.window = receiver.window if isinstance(receiver, BoundsLanes) else None
        try:
            self._begin(receiver)
        except BaseException:
            await self.close()
            raise

    def _begin(self, receiver: Receiver) -> None:
        """Start what settles, extends leases and balances. TypeError for a receiver that cannot do what is declared."""
        holdings, capabilities = self._holdings, self._adapter.capabilities
        if capabilities.lease_extension:
            if not isinstance(receiver, ExtendsLease):
                raise TypeError(f"{capabilities.adapter}: declares lease_extension, but its Receiver has no extend()")
            holdings.lease = LeaseKeeper(receiver, self._lease_seconds, self._lease_lost)
        if capabilities.balance:
            if not isinstance(receiver, BalancesLanes):
                raise TypeError(f"{capabilities.adapter}: declares balance, but its Receiver has no members()")
            self._balancer = Balancer(receiver, self._held_lanes, self._let_go)
        holdings.settler = Settler(
            receiver,
            capabilities.settle_interval,
            holdings.stats,
            self._settled if holdings.lease is not None else None,
            holdings.lanes.__contains__,
            self._settling_fails,
            lambda: holdings.room_changed(False),
        )
        runs = {"settle": holdings.settler, "lease": holdings.lease, "balance": self._balancer}
        self._tasks = [
            asyncio.create_task(each.run(), name=f"anybroker {what} {holdings.name}")
            for what, each in runs.items()
            if each is not None
        ]
        for task in self._tasks:
            task.add_done_callback(self._task_done)

    def _task_done(self, task: asyncio.Task[None]) -> None:
        """One of the receiver's tasks has ended. If it failed, or was not cancelled by us, the receiver is replaced."""
        receiver = self.receiver
        if receiver is None or task not in self._tasks or self.broken is not None:
            return
        if task.cancelled():  # not by us: a cancellation that came out of the client
            self.broken = Unavailable(f"{task.get_name()} was cancelled by the adapter")
        elif (error := task.exception()) is not None:
            self.broken = Unavailable(f"{task.get_name()} failed: {error!r}")
            self.broken.__cause__ = error
            _log.error("%s: the adapter failed", self._holdings.name, exc_info=error)
        else:
            return
        self._holdings.report(str(self.broken))
        self._on_broken()
        if not self._holdings.stopping:  # make the pending receive return, so that another can be opened
            self._leaving = asyncio.create_task(
                self._bounded(receiver.stop(), _LEAVE_TIMEOUT, "stopping the receiver"), name="anybroker stop"
            )

    @property
    def hindrance(self) -> str | None:
        """Why the open receiver receives nothing now, if it can tell."""
        teller = self._teller
        return None if teller is None or self.receiver is None else teller.hindrance

    @property
    def has_joined(self) -> bool:
        """Whether a receiver is open that has had a lane, or was open for long enough to know that others have them."""
        if self.receiver is None or self.broken is not None:
            return False
        return self._had_lane or monotonic() - self._opened > _LANES_WITHIN

    async def close(self) -> None:
        """Forget the lanes, end the tasks, close the receiver."""
        holdings = self._holdings
        receiver, self.receiver = self.receiver, None
        tasks, self._tasks = self._tasks, []
        self.broken = None
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        self.lost(list(holdings.lanes))
        holdings.settler = holdings.lease = self._balancer = None
        self.settling_problem = None
        holdings.not_ours.clear()
        if receiver is not None:
            await self._bounded(receiver.close(), _LEAVE_TIMEOUT, "closing the receiver")

    async def stop_receiving(self) -> None:
        """No more events. What was received can still be settled. Wakes :meth:`reopen`, which returns then."""
        self._stop_asked.set()
        if self.receiver is not None:
            await self._bounded(self.receiver.stop(), _LEAVE_TIMEOUT, "stopping the receiver")

    async def stop_balancing(self, seconds: float) -> None:
        """Give no lane back any more."""
        if self._balancer is not None:
            await self._bounded(self._balancer.stop(), seconds, "giving a lane back")

    async def settle_all(self, seconds: float) -> None:
        """Settle what is finished, in this many seconds at most."""
        if self._holdings.settler is not None:
            self._holdings.commit_all(list(self._holdings.lanes.values()))
            await self._bounded(self._holdings.settler.flush(), seconds, "settling")

    async def _bounded(self, call: Awaitable[None], seconds: float, what: str) -> None:
        await bounded(call, seconds, f"{self._holdings.name}: {what}")

    # ------------------------------------------------------------------------------------------------------ replacing

    def note_success(self) -> None:
        """Events arrived: begin with short waits after the next failure."""
        self._backoff.reset()

    async def reopen(self, why: BrokerError) -> None:
        """The receiver is dead: forget its lanes and open another, however long it takes."""
        holdings = self._holdings
        holdings.report(f"reconnecting: {why}")
        _log.warning("%s: %s; opening another receiver", holdings.name, why)
        began = monotonic()
        self.lost(list(holdings.lanes))  # at once: close() waits for tasks first
        await self.close()
        while not holdings.stopping:
            await self._stoppable_sleep(self._backoff.next())
            if holdings.stopping:
                return
            try:
                await self.open()
            except (BrokerError, ConfigError) as exc:  # a topic that was deleted may be made again
                holdings.report(f"reconnecting: {exc}")
                continue
            except Exception as exc:  # noqa: BLE001 - against the interface, and not a reason to stop consuming
                holdings.report(f"reconnecting: {exc!r}")
                _log.exception("%s: opening a receiver failed", holdings.name)
                continue
            except asyncio.CancelledError as exc:
                if not cancelled_by_nobody():
                    raise
                holdings.report(f"reconnecting: {exc!r}")
                _log.error("%s: opening a receiver failed", holdings.name, exc_info=exc)
                continue
            holdings.stats.reconnects += 1
            holdings.report(None)
            _log.info("%s: receives again, after %.1f s", holdings.name, monotonic() - began)
            if self._observers.reconnected is not None:
                self._observers.reconnected(holdings.spec.topic, holdings.spec.group, why)
            return

    async def reopen_after_failure(self, error: BaseException) -> None:
        """The receiver raised what it may not raise: it is taken for dead."""
        if self._holdings.stopping:
            return
        _log.error("%s: the adapter failed", self._holdings.name, exc_info=error)
        await self.reopen(Unavailable(f"receiving failed: {error!r}"))

    async def _stoppable_sleep(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._stop_asked.wait()
        except TimeoutError:
            pass  # slept to the end

    # ---------------------------------------------------------------------------------------------------------- lanes

    def assigned(self, lane: Lane, note: str = "") -> None:
        """LaneListener: the lane is ours."""
        self._had_lane = True
        self._holdings.lanes[lane] = LaneState(lane, LaneLedger(note) if self._holdings.cumulative else None)
        self._holdings.room_changed(True)

    async def revoked(self, lanes: Collection[Lane], /) -> None:
        """LaneListener: finish what runs, settle, forget."""
        await self._revoke(lanes, self._drain_seconds)

    async def _revoke(self, lanes: Collection[Lane], drain: float | None) -> None:
        holdings = self._holdings
        states = [state for lane in lanes if (state := holdings.lanes.get(lane)) is not None]
        await self._drain(states, drain)
        if holdings.settler is not None:
            holdings.commit_all(states)
            await self._bounded(holdings.settler.flush(), 5.0, "settling")
        for state in states:
            state.lost = True
            holdings.lanes.pop(state.lane, None)
        self._stop_extending(lanes)

    def lost(self, lanes: Collection[Lane], /) -> None:
        """LaneListener: forget at once."""
        for lane in lanes:
            state = self._holdings.lanes.pop(lane, None)
            if state is not None:
                state.gone = state.lost = True
                if state.drained is not None:
                    state.drained.set()
        self._stop_extending(lanes)
        self._holdings.drop_gone()
        self._holdings.room_changed(True)

    def _stop_extending(self, lanes: Collection[Lane]) -> None:
        """What is forgotten must not be kept from other members."""
        if self._holdings.lease is not None:
            self._holdings.lease.gone(lanes)

    async def _drain(self, states: list[LaneState], seconds: float | None) -> None:
        for state in states:
            state.gone = True
        self._holdings.drop_gone()
        waiting = []
        for state in states:
            if state.running:
                state.drained = state.drained or asyncio.Event()
                waiting.append(asyncio.create_task(state.drained.wait()))
        if waiting:
            _, late = await asyncio.wait(waiting, timeout=seconds)
            for task in late:
                task.cancel()
        self._holdings.room_changed(True)

    def _held_lanes(self) -> list[Lane]:
        return [lane for lane, state in self._holdings.lanes.items() if not state.gone]

    async def _let_go(self, lane: Lane) -> None:
        """Balance: drain one lane and give it back. There is no hurry, so handlers are waited for to their end: an
        event must not start elsewhere while it is handled here."""
        receiver = self.receiver
        await self._revoke([lane], None)
        if receiver is not None and receiver is self.receiver:
            self._holdings.stats.lanes_given_back += 1
            await receiver.give_back(lane)

    # --------------------------------------------------------------------------------------------- settlement, leases

    def _settled(self, batch: Sequence[Inbound]) -> None:
        """No lease of these is extended any more, and no worker will see those of them whose lease was lost."""
        if self._holdings.lease is not None:
            self._holdings.lease.settled(batch)
        if self._holdings.not_ours:
            self._holdings.not_ours.difference_update(batch)

    def _settling_fails(self, why: str | None) -> None:
        self.settling_problem = why
        self._holdings.room_changed(True)

    def _lease_lost(self, inbound: Inbound) -> None:
        """Another member may have it: not started here any more. A handler that runs already goes on."""
        holdings = self._holdings
        holdings.stats.leases_lost += 1
        if self._observers.lease_lost is not None:
            self._observers.lease_lost(holdings.spec.topic, holdings.spec.group, inbound.event)
        holdings.not_ours.add(inbound)
        held = holdings.strands.take_held(inbound) or holdings.strands.call_up(inbound)
        if held is not None:  # the worker drops it, and its key goes on
            holdings.ready.append(held)
            holdings.wake_workers()
