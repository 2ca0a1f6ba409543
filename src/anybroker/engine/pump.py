"""From the receiver to the handlers and back: one pump a subscription.

One task fetches what there is room for; workers take ready deliveries, one task a worker for its whole life; one task
settles; one extends leases. Per event there is no task, no timer and no lock.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context, copy_context
from dataclasses import dataclass
from typing import Any

from ..adapter import Adapter, Inbound, Lane, SubscriptionSpec
from ..capabilities import Acknowledgement, Support
from ..delivery import Delivery, current_delivery
from ..errors import BrokerError, HandlerExit, Retry, exc_info_of
from ..printable import logger
from ..stats import SubscriptionStats
from .calls import as_failure, cancelled_by_nobody
from .held import Held
from .holdings import Holdings, starts_before
from .intake import Intake
from .observing import Observers
from .outcome import Outcome, ReleaseCopy
from .session import Session
from .stalls import Stalls
from .starting import cancelled_from_outside, start

__all__ = ["Pump", "PumpSettings"]

_log = logger("anybroker.handler")
_broker_log = logger("anybroker.broker")

_RECEIVE_TIMEOUT = 5.0
_RESTRICTED_TIMEOUT = 0.2
"""How long to wait in a receive that leaves full lanes out. A lane that gets room meanwhile waits at most this long."""
_YIELD_EVERY = 32
"""Deliveries that a worker handles without giving the loop a turn, where the handler itself never waits."""
_CANCEL_GRACE = 10.0
"""Seconds that cancelled handlers have for their clean-up. Those that take longer are left behind."""

Handle = Callable[[Delivery], Awaitable[None]]


@dataclass(frozen=True)
class PumpSettings:
    """The numbers of one subscription."""

    max_in_flight: int = 100
    """Handlers at once."""
    max_ahead: int = 10_000
    """Events fetched beyond the oldest unfinished one: of a lane, or of the subscription on a broker that settles each
    message separately."""
    poison_after: int = 100
    """Deliveries by the broker after which an event is dead-lettered unstarted."""
    lease: float = 20.0
    """Seconds."""
    drain: float = 25.0
    """Seconds that handlers of a lane which is revoked have."""
    prefetch: int = 0
    """Events to have ready or fetched at once."""
    in_threads: bool = False
    """Some handlers run in threads: they cannot be cancelled, and are waited for to the end."""


class Slot:
    """What one worker handles now, for those who look from outside."""

    __slots__ = ("delivery",)

    def __init__(self) -> None:
        self.delivery: Delivery | None = None
        """The last one that was started. It may have ended."""


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
        observers: Observers,
        handed_over: Callable[[Sequence[Inbound]], None] | None = None,
    ) -> None:
        """``handed_over``: told of each portion of events from the broker."""
        self._settings = settings
        self._handle = handle
        self._poll = adapter.capabilities.poll
        cumulative = adapter.capabilities.acknowledgement is Acknowledgement.CUMULATIVE
        self._holdings = holdings = Holdings(spec, cumulative, stats)
        holdings.wake_workers = self._wake_workers
        holdings.room_changed = self._room_changed
        self._held = Held(holdings)
        self._intake = Intake(holdings, self._held, settings.poison_after, adapter.capabilities.max_delay)
        by_broker = adapter.capabilities.release is Support.NATIVE
        self._outcome = Outcome(holdings, self._held, release_copy, by_broker, observers)
        self._stalls = Stalls(holdings, settings.max_ahead)
        self._session = Session(adapter, holdings, settings.lease, settings.drain, self._wake_fetcher, observers)
        self._starts = observers.of_starts()
        self._unusual = observers.unusual if observers.unhandled or observers.dead_lettered else None
        self._received = observers.received
        self._handed_over = handed_over
        self._context: Context = copy_context()
        self._context.run(current_delivery.set, None)
        self._fetcher: asyncio.Task[None] | None = None
        self._workers: dict[asyncio.Task[None], Slot] = {}
        self._busy_workers = 0
        self._idle: list[asyncio.Future[None]] = []
        self._waking = 0
        """Workers that were woken and have not run yet."""
        self._room_waiter: asyncio.Future[None] | None = None
        self._paused = False
        self._holds_back = False
        self._resumed = asyncio.Event()
        self._resumed.set()
        self._giving_up = False
        self._worker_died = False
        self.max_running = 0
        """The most handlers that were in flight at once."""

    # ------------------------------------------------------------------------------------------------- life

    async def start(self) -> None:
        """Join the group and begin to fetch. Raises what ``open_receiver`` raises."""
        await as_failure("joining the group", self._session.open())
        self._fetcher = asyncio.create_task(self._fetch(), name=f"anybroker fetch {self._holdings.name}")

    @property
    def problem(self) -> str | None:
        """Why the subscription is unhealthy, unless :attr:`hindrance` says so; None while it is well."""
        return self._holdings.problem

    @property
    def hindrance(self) -> str | None:
        """Why more than one event waits now. It clears without help. None while nothing of the kind is wrong."""
        return (
            self._session.settling_problem
            or self._session.hindrance
            or self._stalls.problem
            or self._stalls.behind_running
        )

    def look(self, age: float | None, slow_after: float) -> None:
        """Called each second. ``age``: for how long one event has been the oldest unfinished one of its lane."""
        strands = self._holdings.strands
        waiting = strands.blocked - strands.parked
        stuck = age is not None and age >= slow_after and not self._holdings.cumulative
        self._stalls.look_at_running(waiting if stuck and waiting >= self._settings.prefetch else 0)

    @property
    def unavailable(self) -> str | None:
        """Why nothing can be received, settled or dead-lettered now; None while it can."""
        holdings = self._holdings
        if holdings.unavailable:
            return holdings.problem
        return self._session.settling_problem or self._session.hindrance

    @property
    def has_died(self) -> bool:
        """Whether it fetches no more, or left an event unfinished, by a defect: it does not recover."""
        fetcher = self._fetcher
        return (fetcher is not None and fetcher.done() and not self._holdings.stopping) or self._worker_died

    @property
    def has_joined(self) -> bool:
        """Whether it is connected and has had a lane, or knows that other members have them all."""
        return self._session.has_joined

    @property
    def running(self) -> int:
        """Handlers in flight now."""
        return self._busy_workers

    @property
    def buffered(self) -> int:
        """Deliveries received and not finished."""
        return self._holdings.outstanding

    def recovered(self, delivery: Delivery) -> None:
        """A delivery that was stuck is finished after all."""
        self._holdings.recovered(delivery)

    def runs_in(self, task: asyncio.Task[Any] | None) -> bool:
        """Whether this task runs handlers."""
        return task in self._workers

    def handled_in(self, task: asyncio.Task[Any] | None) -> Delivery | None:
        """What this task handles now."""
        slot = self._workers.get(task) if task is not None else None
        return None if slot is None or slot.delivery is None or slot.delivery.ended else slot.delivery

    def handling(self) -> list[Delivery]:
        """What is handled now."""
        slots = [slot.delivery for slot in self._workers.values()]
        return [delivery for delivery in slots if delivery is not None and not delivery.ended]

    def oldest_unfinished(self) -> dict[Lane, Inbound]:
        """Of each lane that has any, the first in its order. Those that may not start yet do not count."""
        oldest: dict[Lane, Inbound] = {}
        for delivery in (*self.handling(), *self._holdings.strands.unfinished()):
            inbound = delivery.inbound
            before = oldest.get(inbound.lane)
            if before is None or inbound.position < before.position:
                oldest[inbound.lane] = inbound
        return oldest

    @property
    def held_lanes(self) -> int:
        """How many lanes this member has."""
        return len(self._holdings.lanes)

    @property
    def is_connected(self) -> bool:
        """Whether a receiver is open, and its connection is there as far as it can tell."""
        session = self._session
        return session.receiver is not None and session.broken is None and session.hindrance is None

    def only_blocked(self, collected: int) -> bool:
        """Whether only the ``collected`` deliveries run, and all others wait behind their keys."""
        holdings = self._holdings
        return not holdings.ready and holdings.strands.blocked > 0 and self._busy_workers <= collected

    def pause(self) -> None:
        """Start no more handlers and fetch nothing, until :meth:`resume`; what runs goes on, leases are kept."""
        self._paused = True
        self._resumed.clear()

    def resume(self) -> None:
        """Go on after :meth:`pause`."""
        self._paused = False
        self._resumed.set()
        self._wake_workers()

    def hold_back(self, on: bool) -> None:
        """Whether to fetch nothing more. What was received, and what a call of the receiver brings that waits already,
        goes on."""
        self._holds_back = on
        if not on:
            self._resumed.set()

    @property
    def in_line(self) -> int:
        """Deliveries that wait for their turn in a middleware."""
        return self._holdings.strands.in_line

    def give_up(self) -> None:
        """Cancel the handlers in flight now instead of after the drain time; :meth:`close` goes on from there."""
        self._giving_up = True
        for task in (*self._workers, *self._outcome.copies):
            task.cancel()

    def is_giving_up(self) -> bool:
        """Whether we cancelled the handlers, or the end of the event loop did: then a cancellation is not their own."""
        return self._giving_up or (self._fetcher is not None and self._fetcher.cancelling() > 0)

    async def close(self, drain: float) -> None:
        """Stop fetching, wait for the handlers in flight, settle, give back what was not started, leave the group.

        After ``drain`` seconds the handlers still running are cancelled and their events left for redelivery.
        """
        try:
            deadline = asyncio.get_running_loop().time() + drain
            await self._stop_fetching(drain)
            await self._session.stop_balancing(max(_left_until(deadline), 1.0))
            for delivery in self._holdings.strands.clear():
                self._holdings.give_back(delivery, starts_before(delivery))
            await self._end_handlers(drain, deadline)
            await self._session.settle_all(max(_left_until(deadline), 5.0))
        finally:  # cancelled too: none of its tasks may go on, nor keep the events
            self.give_up()
            if self._fetcher is not None:
                self._fetcher.cancel()
            self._held.close()
            await self._session.close()

    async def _stop_fetching(self, drain: float) -> None:
        self._holdings.stopping = True
        self._wake_fetcher()
        await self._session.stop_receiving()
        if self._fetcher is not None:
            await asyncio.wait([self._fetcher], timeout=max(self._poll + 1.0, drain))
            if not self._fetcher.done():
                self._fetcher.cancel()
                await asyncio.wait([self._fetcher])

    async def _end_handlers(self, drain: float, deadline: float) -> None:
        """Wait for the handlers in flight until the deadline, then cancel them."""
        busy = [task for task in (*self._workers, *self._outcome.copies) if not task.done()]
        for future in self._idle:
            future.cancel()
        self._idle.clear()
        if not busy:
            return
        await asyncio.wait(busy, timeout=max(_left_until(deadline), 0.0))
        late = [task for task in busy if not task.done()]
        if not late:
            return
        name, in_threads = self._holdings.name, self._settings.in_threads
        _log.warning(
            "%s: %d handlers did not end within %.0f s and are cancelled%s; their events come again",
            name,
            len(late),
            drain,
            ", but for plain 'def' ones: these run in threads, go on, and are waited for" if in_threads else "",
        )
        self._giving_up = True
        for task in late:
            task.cancel()
        _, left = await asyncio.wait(late, timeout=None if in_threads else _CANCEL_GRACE)
        if left:
            _log.error("%s: %d handlers ignore their cancellation and are left behind", name, len(left))
            for state in self._holdings.lanes.values():
                state.lost = bool(state.running)  # what they finish is not settled

    # ------------------------------------------------------------------------------------------------ fetch

    def _room(self) -> int:
        """How many events may be asked for."""
        holdings, settings = self._holdings, self._settings
        ready = len(holdings.ready)
        if holdings.cumulative:
            return settings.prefetch - ready
        unsettled = holdings.settler.unsettled if holdings.settler is not None else 0
        return min(
            settings.prefetch - ready - holdings.strands.blocked + holdings.strands.parked,
            settings.max_ahead - holdings.outstanding - unsettled,
        )

    def _open_lanes(self) -> tuple[list[Lane] | None, bool]:
        """The lanes to fetch from (None: all), and whether there are any."""
        lanes = self._holdings.lanes
        if not self._holdings.cumulative:
            if any(state.gone for state in lanes.values()):  # what came of these would only have to go back
                return [lane for lane, state in lanes.items() if not state.gone], True
            return None, True
        limit = self._settings.max_ahead
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

    def _wake_fetcher(self) -> None:
        """End what the fetching task waits for: the subscription stops, or its receiver has to be replaced."""
        self._resumed.set()
        self._room_changed(force=True)

    async def _fetch(self) -> None:
        try:
            await self._fetch_until_stopped()
        except asyncio.CancelledError:
            raise
        except BaseException as exc:
            self._holdings.report(f"fetching stopped: {exc!r}")
            _broker_log.exception("%s: fetching stopped", self._holdings.name)
            raise

    async def _fetch_until_stopped(self) -> None:
        holdings, session, stalls = self._holdings, self._session, self._stalls
        while not holdings.stopping:
            if session.broken is not None:
                await session.reopen(session.broken)
                continue
            if self._paused or self._holds_back:
                self._resumed.clear()  # _wake_fetcher sets it too, without a resume
                await self._resumed.wait()
                continue
            room = self._room()
            lanes, any_open = self._open_lanes()
            if lanes is not None or room <= 0 or session.window is not None:
                stalls.look(session.window)
            elif stalls.problem is not None:
                stalls.problem = None
            if room <= 0 or not any_open:
                await self._wait_for_room()
                continue
            receiver = session.receiver
            if receiver is None:
                return
            timeout = _RECEIVE_TIMEOUT if lanes is None and stalls.problem is None else _RESTRICTED_TIMEOUT
            try:
                batch = await receiver.receive(room, lanes=lanes, timeout=timeout)
            except BrokerError as exc:
                if holdings.stopping:
                    return
                await session.reopen(exc)
                continue
            except asyncio.CancelledError as exc:
                if not cancelled_by_nobody():
                    raise
                await session.reopen_after_failure(exc)
                continue
            except Exception as exc:  # noqa: BLE001 - against the interface, and not a reason to stop consuming
                await session.reopen_after_failure(exc)
                continue
            if batch:
                session.note_success()
                if self._received is not None:
                    self._received(holdings.spec.topic, holdings.spec.group, len(batch))
                if self._handed_over is not None:
                    self._handed_over(batch)
                if holdings.lease is not None:
                    holdings.lease.received(batch)
                self._intake.accept(batch)
                self._wake_workers()
                if len(batch) >= _YIELD_EVERY:
                    await asyncio.sleep(0)

    # ---------------------------------------------------------------------------------------------- workers

    def _wake_workers(self) -> None:
        """Let workers look at what is ready; each one that takes something wakes the next."""
        if self._holdings.ready and not self._paused and not self._waking:
            self._wake_one()

    def _wake_one(self) -> None:
        idle = self._idle
        while idle:
            future = idle.pop()
            if not future.done():
                self._waking += 1
                future.set_result(None)
                return
        if (
            len(self._workers) < self._settings.max_in_flight
            and not self._holdings.stopping
            and not self.is_giving_up()
        ):
            self._waking += 1
            slot = Slot()
            # Not by the loop's factory: an eager task would run before it is counted.
            worker = asyncio.Task(
                self._work(slot),
                loop=asyncio.get_running_loop(),
                name=f"anybroker worker {self._holdings.name}",
                context=self._context.copy(),
            )
            self._workers[worker] = slot
            worker.add_done_callback(self._worker_ended)

    def _worker_ended(self, worker: asyncio.Task[None]) -> None:
        """Wake another one: this one may have ended by a cancellation that a handler left behind."""
        self._workers.pop(worker, None)
        if not worker.cancelled() and (error := worker.exception()) is not None:
            self._worker_died = True
            self._holdings.report(f"a worker ended: {error!r}")
            _log.error(
                "%s: a worker ended, and what it handled stays unfinished",
                self._holdings.name,
                exc_info=exc_info_of(error),
            )
        if not self.is_giving_up():
            self._wake_workers()

    async def _work(self, slot: Slot) -> None:
        """One worker: take a ready delivery, handle it, settle it, go on with its key."""
        holdings, handle = self._holdings, self._handle
        ready, strands, not_ours, stuck = holdings.ready, holdings.strands, holdings.not_ours, holdings.stuck
        stats, cumulative, starts, unusual = holdings.stats, holdings.cumulative, self._starts, self._unusual
        places = holdings.places
        loop = asyncio.get_running_loop()
        task = asyncio.current_task()
        assert task is not None
        cancelling, own_context = task.cancelling, self._context.copy
        self._waking -= 1
        turn = 0
        began = 0.0
        while not holdings.stopping:
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
                holdings.forget(delivery)
                holdings.next_of(delivery)
                continue
            if ready and not self._waking:
                self._wake_one()
            self._busy_workers += 1
            if self._busy_workers > self.max_running:
                self.max_running = self._busy_workers
            state.running += 1
            stats.started += 1
            slot.delivery = delivery
            if starts is not None:
                began = starts.begun(delivery)
            try:
                await start(own_context(), handle, delivery)
            except Exception as exc:  # noqa: BLE001 - whatever the chain raises decides what happens to the event
                outcome = self._outcome.failed(delivery, exc)
                if starts is not None:
                    starts.ended(delivery, outcome, exc.__cause__ if isinstance(exc, Retry) else exc, began)
            except BaseException as exc:
                if cancelled_from_outside(exc, self.is_giving_up):
                    # The start that was cut off uses up no attempt.
                    holdings.give_back(delivery, starts_before(delivery))
                    holdings.next_of(delivery)
                    if starts is not None:
                        starts.ended(delivery, "returned", exc, began)
                    raise
                outcome = self._outcome.failed(delivery, HandlerExit("the handler", exc))
                if starts is not None:
                    starts.ended(delivery, outcome, exc, began)
            else:
                if not_ours:
                    not_ours.discard(delivery.inbound)
                if stuck:
                    holdings.recovered(delivery)
                if state.lost:
                    stats.stale_settlements += 1
                elif cumulative:
                    state.ledger.finish(delivery.inbound.position)  # type: ignore[union-attr] # cumulative: it has one
                    holdings.settler.commit(state)  # type: ignore[union-attr] # open while a lane is not lost
                    stats.acked += 1
                else:
                    holdings.settler.ack(delivery)  # type: ignore[union-attr] # as above
                    stats.acked += 1
                state.outstanding -= 1
                holdings.outstanding -= 1
                following = strands.leave(delivery)
                if following is not None:
                    ready.append(following)
                if unusual is not None and (delivery.verdict is not None or not delivery.handler):
                    unusual(delivery)
                if starts is not None:
                    starts.succeeded(delivery, began)
            finally:
                delivery.ended = True
                if places:
                    holdings.start_ended(delivery)
                self._busy_workers -= 1
                state.running -= 1
                if state.drained is not None and not state.running:
                    state.drained.set()
            if self._room_waiter is not None:
                self._room_changed()
            if cancelling():  # a cancellation is pending: another worker takes over
                return
            turn += 1
            if turn == _YIELD_EVERY:
                turn = 0
                await asyncio.sleep(0)


def _left_until(deadline: float) -> float:
    """Seconds of the loop's clock."""
    return deadline - asyncio.get_running_loop().time()
