"""From the receiver to the handlers and back: one pump a subscription.

One task fetches what there is room for; workers take ready deliveries, one task a worker for its whole life; one task
settles; one extends leases. Per event there is no task, no timer and no lock.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from hashlib import blake2b
from math import inf
from typing import Any

from ..adapter import (
    Adapter,
    BalancesLanes,
    BoundsLanes,
    ExtendsLease,
    Inbound,
    Lane,
    Receiver,
    SubscriptionSpec,
    count_of,
)
from ..capabilities import Acknowledgement
from ..delivery import Delivery, current_delivery
from ..errors import AnybrokerError, BrokerError, ConfigError, HandlerExit, PoisonedError, Retry, Unavailable, text_of
from ..names import SHORT_KEY, bounded_key
from ..printable import logger
from ..stats import SubscriptionStats
from .backoff import Backoff
from .balance import Balancer
from .calls import as_failure, bounded, cancelled_by_nobody
from .lanes import LaneState, Strands
from .lease import LeaseKeeper
from .ledger import LaneLedger
from .seldom import Seldom
from .settle import Settler
from .starting import cancelled_from_outside, start

__all__ = ["ATTEMPTS_HEADER", "NOT_BEFORE_HEADER", "Pump", "PumpSettings"]

_log = logger("anybroker")

ATTEMPTS_HEADER = "anybroker-attempts"
"""Handler starts so far, on a copy that the core sent to a group's inlet."""
NOT_BEFORE_HEADER = "anybroker-not-before"
"""Seconds since the epoch before which the core does not start a handler."""
LONGEST_RELEASE = 43_200.0
"""Seconds of the longest delay for which a copy goes to a group's inlet: twelve hours, the same on every broker. What
is to wait for longer is held in place; and what asks there to wait for longer, the library has not written."""

_RECEIVE_TIMEOUT = 5.0
_RESTRICTED_TIMEOUT = 0.2
"""How long to wait in a receive that leaves full lanes out: so long may one of them have room and get nothing."""
_AHEAD = 60.0
"""Seconds that the clock of a member may be ahead of another's."""
_YIELD_EVERY = 32
"""Deliveries that a worker handles without giving the loop a turn, where the handler itself never waits."""
_LEAVE_TIMEOUT = 10.0
"""Seconds that a receiver has to stop, and to close: one on a dead connection may never answer."""
_CANCEL_GRACE = 10.0
"""Seconds that cancelled handlers have for their clean-up; whoever takes longer is left behind."""

Handle = Callable[[Delivery], Awaitable[None]]
ReleaseCopy = Callable[[Delivery, int, float], Awaitable[None]]


@dataclass(frozen=True)
class PumpSettings:
    """The numbers of one subscription."""

    max_in_flight: int = 100
    max_ahead: int = 10_000
    poison_after: int = 100
    lease: float = 20.0
    drain: float = 25.0
    prefetch: int = field(default=0)
    in_threads: bool = False
    """Some handlers run in threads: they cannot be cancelled, and are waited for to the end."""


class Pump:
    """Runs one subscription. ``handle`` is the composed chain; it returns, or raises to say what failed."""

    def __init__(
        self,
        adapter: Adapter,
        spec: SubscriptionSpec,
        settings: PumpSettings,
        handle: Handle,
        release_copy: ReleaseCopy | None,
        stats: SubscriptionStats,
    ) -> None:
        self._adapter = adapter
        self._spec = spec
        self._settings = settings
        self._handle = handle
        self._release_copy = release_copy
        self.stats = stats
        self._cumulative = adapter.capabilities.acknowledgement is Acknowledgement.CUMULATIVE
        self._strands = Strands(spec.ordered)
        self._ready = self._strands.ready
        self._context: Context = copy_context()
        self._context.run(current_delivery.set, None)
        self._lanes: dict[Lane, LaneState] = {}
        self._receiver: Receiver | None = None
        self._settler: Settler | None = None
        self._lease: LeaseKeeper | None = None
        self._balancer: Balancer | None = None
        self._session_tasks: list[asyncio.Task[None]] = []
        self._fetcher: asyncio.Task[None] | None = None
        self._workers: set[asyncio.Task[None]] = set()
        self._copies: set[asyncio.Task[None]] = set()
        self._busy_workers = 0
        self._idle: list[asyncio.Future[None]] = []
        self._waking = 0
        self._room_waiter: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._outstanding = 0
        self._stopping = False
        self._stop_asked = asyncio.Event()
        self._paused = False
        self._resumed = asyncio.Event()
        self._resumed.set()
        self._not_ours: set[Inbound] = set()
        self._stuck_for: dict[Inbound, int] = {}
        self._stuck_backoff = Backoff(first=0.5, cap=10.0, floor=0.1)
        self.giving_up = False
        """Whether handlers are being cancelled: the drain time is over."""
        self._broken: BrokerError | None = None
        self._leaving: asyncio.Task[None] | None = None
        self._unsettled: str | None = None
        self._window: int | None = None
        self._stalled: str | None = None
        delay = adapter.capabilities.max_delay
        self._most_ahead = inf if delay is None else max(delay, LONGEST_RELEASE) + _AHEAD
        """Seconds that an adapter may say an event has to wait."""
        self._say_not_believed = Seldom()
        self.problem: str | None = None
        """Why the subscription is unhealthy, unless :attr:`hindrance` says so; None while it is well."""
        self.max_running = 0
        """The most handlers that were in flight at once."""

    # ------------------------------------------------------------------------------------------------- life

    async def start(self) -> None:
        """Join the group and begin to fetch. Raises what ``open_receiver`` raises."""
        await as_failure("joining the group", self._open())
        self._fetcher = asyncio.create_task(self._fetch(), name=f"anybroker fetch {self._name}")

    @property
    def _name(self) -> str:
        return f"{self._spec.topic}/{self._spec.group}"

    @property
    def hindrance(self) -> str | None:
        """What keeps back more than the event that it is about, and goes on by itself: None while nothing does."""
        return self._unsettled or self._stalled

    @property
    def running(self) -> int:
        """Handlers in flight now."""
        return self._busy_workers

    @property
    def buffered(self) -> int:
        """Deliveries received and not finished."""
        return self._outstanding

    def runs_in(self, task: asyncio.Task[Any] | None) -> bool:
        """Whether this task runs handlers."""
        return task in self._workers

    def pause(self) -> None:
        """Start no more handlers and fetch nothing, until :meth:`resume`; what runs goes on, leases are kept."""
        self._paused = True
        self._resumed.clear()

    def resume(self) -> None:
        """Go on after :meth:`pause`."""
        self._paused = False
        self._resumed.set()
        self._wake_workers()

    async def close(self, drain: float) -> None:
        """Stop fetching, wait for the handlers in flight, settle, give back what was not started, leave the group.

        After ``drain`` seconds the handlers still running are cancelled and their events left for redelivery.
        """
        try:
            await self._finish_and_settle(drain)
        finally:  # cancelled too: nothing of it may go on, nor keep the events
            self.giving_up = True
            for task in (self._fetcher, *self._workers, *self._copies):
                if task is not None:
                    task.cancel()
            if self._timer is not None:
                self._timer.cancel()
            await self._close_session()

    def give_up(self) -> None:
        """Cancel the handlers in flight now instead of after the drain time; :meth:`close` goes on from there."""
        self.giving_up = True
        for task in (*self._workers, *self._copies):
            task.cancel()

    async def _finish_and_settle(self, drain: float) -> None:
        deadline = asyncio.get_running_loop().time() + drain
        self._stopping = True
        self._stop_asked.set()
        self._resumed.set()
        self._room_changed(force=True)
        receiver = self._receiver
        if receiver is not None:
            await self._bounded(receiver.stop(), _LEAVE_TIMEOUT, "stopping the receiver")
        if self._fetcher is not None:
            await asyncio.wait([self._fetcher], timeout=max(self._adapter.capabilities.poll + 1.0, drain))
            if not self._fetcher.done():
                self._fetcher.cancel()
                await asyncio.wait([self._fetcher])
        if self._balancer is not None:
            await self._bounded(
                self._balancer.stop(), max(deadline - asyncio.get_running_loop().time(), 1.0), "giving a lane back"
            )
        for delivery in self._strands.clear():
            self._give_back(delivery, _starts(delivery))
        busy = [task for task in (*self._workers, *self._copies) if not task.done()]
        for future in self._idle:
            future.cancel()
        self._idle.clear()
        if busy:
            await asyncio.wait(busy, timeout=max(deadline - asyncio.get_running_loop().time(), 0.0))
            late = [worker for worker in busy if not worker.done()]
            if late:
                _log.warning(
                    "%s: %d handlers did not end within %.0f s and are cancelled%s; their events come again",
                    self._name,
                    len(late),
                    drain,
                    ", but for plain 'def' ones: these run in threads, go on, and are waited for"
                    if self._settings.in_threads
                    else "",
                )
                self.giving_up = True
                for worker in late:
                    worker.cancel()
                _, left = await asyncio.wait(late, timeout=None if self._settings.in_threads else _CANCEL_GRACE)
                if left:
                    _log.error("%s: %d handlers ignore their cancellation and are left behind", self._name, len(left))
                    for state in self._lanes.values():
                        state.lost = bool(state.running)
        if self._settler is not None:
            if self._cumulative:
                for state in self._lanes.values():
                    self._settler.commit(state)
            await self._bounded(
                self._settler.flush(), max(deadline - asyncio.get_running_loop().time(), 5.0), "settling"
            )

    async def _bounded(self, call: Awaitable[None], seconds: float, what: str) -> None:
        await bounded(call, seconds, f"{self._name}: {what}")

    def only_blocked(self, collected: int) -> bool:
        """Whether nothing is ready and all that runs is among ``collected``, with others waiting behind it."""
        return not self._ready and self._strands.blocked > 0 and self._busy_workers <= collected

    # ---------------------------------------------------------------------------------------------- session

    async def _open(self) -> None:
        """Open a receiver and what belongs to it."""
        receiver = await self._adapter.open_receiver(self._spec, self)
        self._receiver = receiver
        self._window = receiver.window if isinstance(receiver, BoundsLanes) else None
        capabilities = self._adapter.capabilities
        if capabilities.lease_extension:
            if not isinstance(receiver, ExtendsLease):
                raise TypeError(f"{capabilities.adapter}: declares lease_extension, but its Receiver has no extend()")
            self._lease = LeaseKeeper(receiver, self._settings.lease, self._lease_lost)
        self._settler = Settler(
            receiver,
            capabilities.settle_interval,
            self.stats,
            self._settled if self._lease is not None else None,
            self._lanes.__contains__,
            self._settling_fails,
            self._room_changed,
        )
        tasks = [asyncio.create_task(self._settler.run(), name=f"anybroker settle {self._name}")]
        if self._lease is not None:
            tasks.append(asyncio.create_task(self._lease.run(), name=f"anybroker lease {self._name}"))
        if capabilities.balance:
            if not isinstance(receiver, BalancesLanes):
                raise TypeError(f"{capabilities.adapter}: declares balance, but its Receiver has no members()")
            self._balancer = Balancer(receiver, self._held_lanes, self._let_go)
            tasks.append(asyncio.create_task(self._balancer.run(), name=f"anybroker balance {self._name}"))
        for task in tasks:
            task.add_done_callback(self._session_task_done)
        self._session_tasks = tasks

    def _session_task_done(self, task: asyncio.Task[None]) -> None:
        """One of the receiver's tasks has ended. Unless it was to, the receiver is taken for dead, and replaced."""
        receiver = self._receiver
        if receiver is None or task not in self._session_tasks or self._broken is not None:
            return
        if task.cancelled():  # not by us: a cancellation that came out of the client
            self._broken = Unavailable(f"{task.get_name()} was cancelled by the adapter")
        elif (error := task.exception()) is not None:
            self._broken = Unavailable(f"{task.get_name()} failed: {error!r}")
            self._broken.__cause__ = error
            _log.error("%s: the adapter failed", self._name, exc_info=error)
        else:
            return
        self.problem = str(self._broken)
        self._resumed.set()
        self._room_changed(force=True)
        if not self._stopping:  # what is being received has to return, so that another receiver can be opened
            self._leaving = asyncio.create_task(
                self._bounded(receiver.stop(), _LEAVE_TIMEOUT, "stopping the receiver"), name="anybroker stop"
            )

    def _settling_fails(self, why: str | None) -> None:
        self._unsettled = why
        self._room_changed(force=True)

    async def _close_session(self) -> None:
        receiver, self._receiver = self._receiver, None
        tasks, self._session_tasks = self._session_tasks, []
        self._broken = None
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        self.lost(list(self._lanes))
        self._settler = self._lease = self._balancer = None
        self._unsettled = None
        self._not_ours.clear()
        if receiver is not None:
            await self._bounded(receiver.close(), _LEAVE_TIMEOUT, "closing the receiver")

    async def _reopen(self, backoff: Backoff, why: BrokerError) -> None:
        """The receiver is dead: forget its lanes and open another, for as long as it takes."""
        self.problem = f"reconnecting: {why}"
        _log.warning("%s: %s; opening another receiver", self._name, why)
        self.lost(list(self._lanes))
        await self._close_session()
        while not self._stopping:
            await self._stoppable_sleep(backoff.next())
            if self._stopping:
                return
            try:
                await self._open()
            except (BrokerError, ConfigError) as exc:  # a topic that was deleted may be made again
                self.problem = f"reconnecting: {exc}"
                continue
            except Exception as exc:  # noqa: BLE001 - against the interface, and not a reason to stop consuming
                self.problem = f"reconnecting: {exc!r}"
                _log.exception("%s: opening a receiver failed", self._name)
                continue
            except asyncio.CancelledError as exc:
                if not cancelled_by_nobody():
                    raise
                self.problem = f"reconnecting: {exc!r}"
                _log.error("%s: opening a receiver failed", self._name, exc_info=exc)
                continue
            self.stats.reconnects += 1
            self.problem = None
            return

    async def _stoppable_sleep(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._stop_asked.wait()
        except TimeoutError:
            pass  # slept to the end

    # ------------------------------------------------------------------------------------------------ lanes

    def assigned(self, lane: Lane, note: str = "") -> None:
        """LaneListener: the lane is ours."""
        self._lanes[lane] = LaneState(lane, LaneLedger(note) if self._cumulative else None)
        self._room_changed(force=True)

    async def revoked(self, lanes: Collection[Lane], /) -> None:
        """LaneListener: finish what runs, settle, forget."""
        await self._revoke(lanes, self._settings.drain)

    async def _revoke(self, lanes: Collection[Lane], drain: float | None) -> None:
        states = [state for lane in lanes if (state := self._lanes.get(lane)) is not None]
        await self._drain_lanes(states, drain)
        if self._settler is not None:
            for state in states:
                if self._cumulative:
                    self._settler.commit(state)
            await self._bounded(self._settler.flush(), 5.0, "settling")
        for state in states:
            state.lost = True
            self._lanes.pop(state.lane, None)
        self._release_leases(lanes)

    def lost(self, lanes: Collection[Lane], /) -> None:
        """LaneListener: forget at once."""
        for lane in lanes:
            state = self._lanes.pop(lane, None)
            if state is not None:
                state.gone = state.lost = True
                if state.drained is not None:
                    state.drained.set()
        self._release_leases(lanes)
        self._drop_gone()
        self._room_changed(force=True)

    def _release_leases(self, lanes: Collection[Lane]) -> None:
        """What is forgotten must not be kept from other members."""
        if self._lease is not None:
            self._lease.gone(lanes)

    async def _drain_lanes(self, states: list[LaneState], drain: float | None) -> None:
        for state in states:
            state.gone = True
        self._drop_gone()
        waiting = []
        for state in states:
            if state.running:
                state.drained = state.drained or asyncio.Event()
                waiting.append(asyncio.create_task(state.drained.wait()))
        if waiting:
            _, late = await asyncio.wait(waiting, timeout=drain)
            for task in late:
                task.cancel()
        self._room_changed(force=True)

    def _drop_gone(self) -> None:
        """Forget what was not started of lanes that are gone."""
        for head in self._strands.take_gone():
            delivery: Delivery | None = head
            while delivery is not None and delivery.lane_state.gone:
                self._forget(delivery)
                delivery = self._strands.leave(delivery)
            if delivery is not None:
                self._ready.append(delivery)
        self._wake_workers()

    def _forget(self, delivery: Delivery) -> None:
        """It is not started any more: another member has it already, or gets it with the starts it had."""
        if delivery.lane_state.lost or delivery.inbound in self._not_ours:
            self._not_ours.discard(delivery.inbound)
            self.recovered(delivery)
            delivery.lane_state.outstanding -= 1
            self._outstanding -= 1
        else:
            self._give_back(delivery, _starts(delivery))

    def _held_lanes(self) -> list[Lane]:
        return [lane for lane, state in self._lanes.items() if not state.gone]

    async def _let_go(self, lane: Lane) -> None:
        """Balance: drain one lane and give it back. Nobody is in a hurry, so handlers are waited for to their end: an
        event must not start elsewhere while it is handled here."""
        receiver = self._receiver
        await self._revoke([lane], None)
        if receiver is not None and receiver is self._receiver:
            self.stats.lanes_given_back += 1
            await receiver.give_back(lane)

    def _settled(self, batch: Sequence[Inbound]) -> None:
        """These are over: also what was handled before its lease was lost, which no worker sees again."""
        if self._lease is not None:
            self._lease.settled(batch)
        if self._not_ours:
            self._not_ours.difference_update(batch)

    def _lease_lost(self, inbound: Inbound) -> None:
        """Another member may have it: not started here any more. A handler that runs already goes on."""
        self.stats.leases_lost += 1
        self._not_ours.add(inbound)
        held = self._strands.take_held(inbound)
        if held is not None:  # the worker drops it, and its key goes on
            self._ready.append(held)
            self._wake_workers()

    # ------------------------------------------------------------------------------------------------ fetch

    def _room(self) -> int:
        """How many events may be asked for."""
        settings, strands = self._settings, self._strands
        if self._cumulative:
            return settings.prefetch - len(self._ready)
        unsettled = self._settler.unsettled if self._settler is not None else 0
        return min(
            settings.prefetch - len(self._ready) - strands.blocked + strands.parked,
            settings.max_ahead - self._outstanding - unsettled,
        )

    def _open_lanes(self) -> tuple[list[Lane] | None, bool]:
        """The lanes to fetch from (None: all), and whether there are any."""
        if not self._cumulative:
            if any(state.gone for state in self._lanes.values()):  # what came of these would only have to go back
                return [lane for lane, state in self._lanes.items() if not state.gone], True
            return None, True
        limit = self._settings.max_ahead
        lanes = self._lanes
        full = False
        for state in lanes.values():
            if state.gone or (state.ledger is not None and (state.ledger.full or len(state.ledger) >= limit)):
                full = True
                break
        if not full:
            return None, True
        having_room = [
            lane
            for lane, state in lanes.items()
            if not state.gone and state.ledger is not None and not state.ledger.full and len(state.ledger) < limit
        ]
        return having_room, bool(having_room)

    def _room_changed(self, force: bool = False) -> None:
        waiter = self._room_waiter
        if waiter is not None and not waiter.done() and (force or self._room() * 2 >= self._settings.prefetch):
            waiter.set_result(None)

    async def _wait_for_room(self) -> None:
        waiter = self._room_waiter = asyncio.get_running_loop().create_future()
        handle = asyncio.get_running_loop().call_later(_RESTRICTED_TIMEOUT, self._room_changed, True)
        try:
            await waiter
        finally:
            handle.cancel()
            self._room_waiter = None

    async def _fetch(self) -> None:
        backoff = Backoff(first=0.1, cap=5.0, floor=0.02)
        try:
            while not self._stopping:
                if self._broken is not None:
                    await self._reopen(backoff, self._broken)
                    continue
                if self._paused:
                    self._resumed.clear()  # also set to end this wait when the receiver is to be replaced
                    await self._resumed.wait()
                    continue
                room = self._room()
                lanes, any_open = self._open_lanes()
                if lanes is not None or room <= 0 or self._window is not None:
                    self._look_for_stalls()
                elif self._stalled is not None:
                    self._stalled = None
                if room <= 0 or not any_open:
                    await self._wait_for_room()
                    continue
                receiver = self._receiver
                if receiver is None:
                    return
                try:
                    batch = await receiver.receive(
                        room,
                        lanes=lanes,
                        timeout=_RECEIVE_TIMEOUT if lanes is None and self._stalled is None else _RESTRICTED_TIMEOUT,
                    )
                except BrokerError as exc:
                    if self._stopping:
                        return
                    await self._reopen(backoff, exc)
                    continue
                except asyncio.CancelledError as exc:
                    if not cancelled_by_nobody():
                        raise
                    await self._reopen_after_failure(backoff, exc)
                    continue
                except Exception as exc:  # noqa: BLE001 - against the interface, and not a reason to stop consuming
                    await self._reopen_after_failure(backoff, exc)
                    continue
                if batch:
                    backoff.reset()
                    if self._lease is not None:
                        self._lease.received(batch)
                    self._accept(batch)
                    if len(batch) >= _YIELD_EVERY:
                        await asyncio.sleep(0)
        except asyncio.CancelledError:
            raise
        except BaseException as exc:
            self.problem = f"fetching stopped: {exc!r}"
            _log.exception("%s: fetching stopped", self._name)
            raise

    async def _reopen_after_failure(self, backoff: Backoff, error: BaseException) -> None:
        """The receiver raised what it may not: it is taken for dead."""
        if self._stopping:
            return
        _log.error("%s: the adapter failed", self._name, exc_info=error)
        await self._reopen(backoff, Unavailable(f"receiving failed: {error!r}"))

    def _look_for_stalls(self) -> None:
        """Say so when a whole lane, or the subscription, waits behind an event that fails: ``max_ahead`` is reached, or
        the broker hands over no more of the lane."""
        limit = self._settings.max_ahead
        reached = f"max_ahead={limit} is reached"
        if self._cumulative:
            full = [lane for lane, state in self._lanes.items() if state.ledger and len(state.ledger) >= limit]
        elif (window := self._window) is not None and self._outstanding < limit:
            full = [lane for lane, state in self._lanes.items() if state.outstanding >= window]
            reached = f"{window} events of a lane are out, and the broker hands over no more of it"
        else:
            full = []
        if not full and self._outstanding < limit:
            self._stalled = None
            return
        if self._stalled is not None:
            return
        first = self._strands.first_held(full or None)
        put_off = None if first is not None else self._strands.first_put_off(full or None)
        where = first or put_off
        if where is not None:  # else the handlers are just slow
            self.stats.stalled += 1
            digest = "no key" if where.key is None else f"the key with hash {_key_hash(where.key)}"
            what = f"the lane {where.lane_state.lane.name}" if full else "everything"
            if first is not None:
                why = f"a failing event of {digest}, attempt {first.attempt}"
            else:
                why = f"an event of {digest} that may not start yet"
            self._stalled = f"{reached}: {what} waits behind {why}"
            _log.warning("%s: %s", self._name, self._stalled)

    def _accept(self, batch: Collection[Inbound]) -> None:
        """Make deliveries of what was received and put them into their strands."""
        topic, group = self._spec.topic, self._spec.group
        lanes, strands, ready = self._lanes, self._strands, self._ready
        enter = strands.enter
        cumulative = self._cumulative
        fuse = self._settings.poison_after
        last: Lane | None = None
        state: LaneState | None = None
        taken = 0
        for inbound in batch:
            lane = inbound.lane
            if lane is not last:
                state = lanes.get(lane)
                last = lane
            if state is None or state.gone:
                if self._lease is not None:
                    self._lease.settled((inbound,))
                continue
            starts = inbound.attempts
            if cumulative:
                noted = state.ledger.receive(inbound.position)  # type: ignore[union-attr] # cumulative lanes have one
                if noted < 0:
                    self.stats.skipped_finished += 1
                    if self._settler is not None:
                        self._settler.commit(state)
                    continue
                starts = starts or noted
            if starts and count_of(starts) != starts:
                starts = self._not_believed("a count of starts")
            not_before = inbound.not_before
            if inbound.inlet and inbound.headers:  # elsewhere anybody may have written them
                headers = inbound.headers
                if not starts and ATTEMPTS_HEADER in headers:
                    starts = count_of(headers[ATTEMPTS_HEADER])
                    if not starts and headers[ATTEMPTS_HEADER] != "0":
                        self._not_believed(ATTEMPTS_HEADER)
                if not_before is None and NOT_BEFORE_HEADER in headers:
                    not_before = _moment(headers[NOT_BEFORE_HEADER])
                    if not_before is None:
                        self._not_believed(NOT_BEFORE_HEADER)
            key = inbound.key
            if key is not None and len(key) > SHORT_KEY:
                key = bounded_key(key)
            delivery = Delivery(inbound.event, topic, group, starts + 1, key, inbound, state)
            state.outstanding += 1
            taken += 1
            if inbound.deliveries > fuse:
                delivery.verdict = PoisonedError(inbound.deliveries)
                delivery.attempt = starts
            if not_before is not None and (ahead := not_before - time.time()) > 0 and self._is_believed(ahead):
                self._put_off(delivery, not_before)
            elif enter(delivery):
                ready.append(delivery)
        self._outstanding += taken
        self.stats.received += taken
        self._wake_workers()

    def _is_believed(self, ahead: float) -> bool:
        """Whether an event may have to wait for so many seconds."""
        if ahead < inf and ahead <= self._most_ahead:
            return True
        self._not_believed("a moment to wait for")
        return False

    def _not_believed(self, what: str) -> int:
        """Another program has written what we never write, where only we do: it counts for nothing, which is 0."""
        self.stats.not_believed += 1
        if times := self._say_not_believed():
            _log.warning(
                "%s: %s that the library never writes came with an event, and is not believed (%d times since this was "
                "said last). Another program writes to the group's inlet, or to where its members leave notes",
                self._name,
                what,
                times,
            )
        return 0

    # ---------------------------------------------------------------------------------------------- workers

    def _wake_workers(self) -> None:
        """Let workers look at what is ready; each one that takes something wakes the next."""
        if self._ready and not self._paused and not self._waking:
            self._wake_one()

    def _wake_one(self) -> None:
        idle = self._idle
        while idle:
            future = idle.pop()
            if not future.done():
                self._waking += 1
                future.set_result(None)
                return
        if len(self._workers) < self._settings.max_in_flight and not self._stopping and not self.is_giving_up():
            self._waking += 1
            # Not by the loop's factory: an eager task would run before it is counted.
            worker = asyncio.Task(
                self._work(),
                loop=asyncio.get_running_loop(),
                name=f"anybroker worker {self._name}",
                context=self._context.copy(),
            )
            self._workers.add(worker)
            worker.add_done_callback(self._worker_ended)

    def _worker_ended(self, worker: asyncio.Task[None]) -> None:
        """Also by a cancellation that a handler left behind: what it would have taken next is for another one."""
        self._workers.discard(worker)
        if not self.is_giving_up():
            self._wake_workers()

    async def _work(self) -> None:
        """One worker: take a ready delivery, handle it, settle it, go on with its key."""
        ready, handle, strands, not_ours = self._ready, self._handle, self._strands, self._not_ours
        stats = self.stats
        cumulative = self._cumulative
        loop = asyncio.get_running_loop()
        task = asyncio.current_task()
        assert task is not None
        cancelling, own_context = task.cancelling, self._context.copy
        self._waking -= 1
        turn = 0
        while not self._stopping:
            if not ready or self._paused:
                future = loop.create_future()
                self._idle.append(future)
                self._room_changed()
                try:
                    await future
                finally:
                    if future.done() and not future.cancelled():  # it was woken, and may be cancelled all the same
                        self._waking -= 1
                turn = 0
                continue
            delivery = ready.popleft()
            state = delivery.lane_state
            if state.gone or (not_ours and delivery.inbound in not_ours):
                self._forget(delivery)
                self._next(delivery)
                continue
            if ready and not self._waking:
                self._wake_one()
            self._busy_workers += 1
            if self._busy_workers > self.max_running:
                self.max_running = self._busy_workers
            state.running += 1
            stats.started += 1
            try:
                await start(own_context(), handle, delivery)
            except Exception as exc:  # noqa: BLE001 - whatever the chain raises decides what happens to the event
                self._failed(delivery, exc)
            except BaseException as exc:
                if cancelled_from_outside(exc, self.is_giving_up):
                    self._give_back(delivery, _starts(delivery))  # the start that was cut off uses up no attempt
                    self._next(delivery)
                    raise
                self._failed(delivery, HandlerExit("the handler", exc))
            else:
                if not_ours:
                    not_ours.discard(delivery.inbound)
                if self._stuck_for:
                    self.recovered(delivery)
                if state.lost:
                    stats.stale_settlements += 1
                elif cumulative:
                    state.ledger.finish(delivery.inbound.position)  # type: ignore[union-attr] # as above
                    self._settler.commit(state)  # type: ignore[union-attr] # open while a lane is not lost
                    stats.acked += 1
                else:
                    self._settler.ack(delivery)  # type: ignore[union-attr] # as above
                    stats.acked += 1
                state.outstanding -= 1
                self._outstanding -= 1
                following = strands.leave(delivery)
                if following is not None:
                    ready.append(following)
            finally:
                delivery.ended = True
                self._busy_workers -= 1
                state.running -= 1
                if state.drained is not None and not state.running:
                    state.drained.set()
            if self._room_waiter is not None:
                self._room_changed()
            if cancelling():  # asked for by the handler, or by who ends the loop: another worker goes on
                return
            turn += 1
            if turn == _YIELD_EVERY:
                turn = 0
                await asyncio.sleep(0)

    def is_giving_up(self) -> bool:
        """Whether a cancellation of a handler is not its own: ours, or that of all tasks, with which the loop ends."""
        return self.giving_up or (self._fetcher is not None and self._fetcher.cancelling() > 0)

    def _next(self, delivery: Delivery) -> None:
        """The head of a strand is finished or forgotten: its follower may start."""
        following = self._strands.leave(delivery)
        if following is not None:
            self._ready.append(following)
            self._wake_workers()

    # ------------------------------------------------------------------------------------------- not acked

    def _failed(self, delivery: Delivery, exc: Exception) -> None:
        """The chain raised: hold, release, or (what nothing handled) keep and report."""
        state = delivery.lane_state
        if state.lost or (self._not_ours and delivery.inbound in self._not_ours):
            self._not_ours.discard(delivery.inbound)
            self.recovered(delivery)
            self.stats.stale_settlements += 1
            self._finish(delivery)
            return
        if isinstance(exc, Retry):
            delay = 1.0 if exc.after is None else exc.after
            released = getattr(exc, "release", False)
            starts = delivery.attempt
            if exc.counted:
                self.stats.retried += 1
            else:
                self.stats.postponed += 1
                self.stats.started -= 1
                starts -= 1
            following = delivery.again(starts + 1)
        else:
            self.stats.stuck += 1
            tries = self._stuck_for[delivery.inbound] = self._stuck_for.get(delivery.inbound, 0) + 1
            delay = self._stuck_backoff.wait(tries)
            released = False
            starts = delivery.attempt
            following = delivery.again(starts + 1)
            if delivery.verdict is not None:  # only the dead letter is missing: the handler is not run again
                following = delivery.again(starts)
                following.verdict = delivery.verdict
            self.problem = f"{type(exc).__name__}: {text_of(exc)}"
            _log.error(
                "%s: an event of type %r can be neither finished nor dead-lettered, next try in %.1f s",
                self._name,
                getattr(delivery.event, "type", None),
                delay,
                exc_info=exc,
            )
        if state.gone or self._stopping:
            self._give_back(delivery, starts)
            self._next(delivery)
        elif released and (self._release_copy is None or delay <= LONGEST_RELEASE):
            self.stats.released += 1
            self._release(delivery, starts, delay)
        else:
            if state.ledger is not None and starts:
                state.ledger.attempts[delivery.inbound.position] = starts
            self._hold(following, delay)

    def recovered(self, delivery: Delivery) -> None:
        """A delivery that was kept is done after all, or not ours any more."""
        if self._stuck_for.pop(delivery.inbound, None) is not None and not self._stuck_for:
            self.problem = None

    def _finish(self, delivery: Delivery) -> None:
        delivery.lane_state.outstanding -= 1
        self._outstanding -= 1
        self._next(delivery)

    def _give_back(self, delivery: Delivery, starts: int) -> None:
        """Back to the broker, for whoever comes next, with the starts it had."""
        state = delivery.lane_state
        self.stats.returned += 1
        state.outstanding -= 1
        self._outstanding -= 1
        self.recovered(delivery)
        if state.lost or self._settler is None:
            return
        if state.ledger is not None:
            if starts:
                state.ledger.attempts[delivery.inbound.position] = starts
        else:
            self._settler.release(delivery, starts)

    def _release(self, delivery: Delivery, starts: int, delay: float) -> None:
        if self._release_copy is None:
            if self._settler is not None:
                self._settler.release(delivery, starts, delay, failed=True)
            self._finish(delivery)
            return
        task = asyncio.create_task(self._copy_to_inlet(delivery, starts, delay))
        self._copies.add(task)
        task.add_done_callback(self._copies.discard)

    async def _copy_to_inlet(self, delivery: Delivery, starts: int, delay: float) -> None:
        """Emulated release: a confirmed copy in the inlet, then the original is done."""
        assert self._release_copy is not None
        try:
            await self._release_copy(delivery, starts, delay)
        except (AnybrokerError, asyncio.CancelledError) as exc:
            if self._stopping or delivery.lane_state.gone:
                self._give_back(delivery, starts)
                self._next(delivery)
            else:
                _log.warning("%s: a delayed release could not be sent (%s); holding the event instead", self._name, exc)
                self._hold(delivery.again(starts + 1), delay)
            return
        self._done(delivery)
        self._finish(delivery)

    def _done(self, delivery: Delivery) -> None:
        state = delivery.lane_state
        if state.lost or self._settler is None:
            self.stats.stale_settlements += 1
        elif state.ledger is not None:
            state.ledger.finish(delivery.inbound.position)
            self._settler.commit(state)
        else:
            self._settler.ack(delivery)

    # ------------------------------------------------------------------------------------------------- held

    def _hold(self, delivery: Delivery, delay: float) -> None:
        """Its key stays closed for so many seconds."""
        until = asyncio.get_running_loop().time() + delay
        self._strands.hold(delivery, until)
        self._look_at(until)

    def _put_off(self, delivery: Delivery, not_before: float) -> None:
        """It may not start before that moment of the wall clock, and takes its place behind others of its key then.

        Waits are on the loop's clock, and the wall clock may be set meanwhile: it is looked at again every few seconds.
        """
        self._look_at(self._strands.put_off(delivery, asyncio.get_running_loop().time(), time.time(), not_before))

    def _look_at(self, until: float) -> None:
        loop = asyncio.get_running_loop()
        if self._timer is None or until < self._timer_at:
            if self._timer is not None:
                self._timer.cancel()
            self._timer_at = until
            self._timer = loop.call_at(until, self._due)

    def _due(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = None
        now, wall = loop.time(), time.time()
        while (delivery := self._strands.pop_due(now, wall)) is not None:
            self._ready.append(delivery)
        due = self._strands.next_due()
        if due is not None:
            self._timer_at = due
            self._timer = loop.call_at(due, self._due)
        self._wake_workers()


def _starts(delivery: Delivery) -> int:
    """The handler starts that a delivery had which waits for one: with a verdict none is to come."""
    return delivery.attempt if delivery.verdict is not None else delivery.attempt - 1


def _key_hash(key: str) -> str:
    """What names a key in logs: keys may be personal data."""
    return blake2b(key.encode("utf-8", "surrogatepass"), digest_size=4).hexdigest()


def _moment(text: str) -> float | None:
    """Of the wall clock; None where it is none, or further away than the longest release."""
    try:
        moment = float(text)
    except ValueError:
        return None
    return moment if -inf < moment < time.time() + LONGEST_RELEASE + _AHEAD else None
