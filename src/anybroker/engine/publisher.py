"""Publishing: concurrent publishes coalesce into one ``submit``, and each ends by its own report or its deadline.

The order of a key is the order in which ``publish`` was first stepped: :meth:`Publisher.send` is called before the
first suspension, and everything after it keeps the sequence.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from ..adapter import RESERVED_BYTES, Foreign, Outbound, Receipt, Sender, TellsHindrance
from ..cloudevents.event import Event
from ..errors import BrokerError, ConfigError, PublishOutcomeUnknown, Rejected, StateError, Unavailable
from ..printable import logger
from ..stats import PublishStats
from .backoff import Backoff
from .calls import bounded, cancelled_by_nobody
from .seldom import Seldom

__all__ = ["Publisher", "Publishing"]

_log = logger("anybroker")

_SWEEP = 0.1
"""Seconds between two looks at the deadlines: so late may a publish end."""
_BATCH = 2_000
"""The most events in one ``submit``."""
_FORGET_AT = 10_000
_SAID_AT = 3
"""The failure of a topic in a row that is logged: one or two are the network's everyday."""


class Publishing(Outbound):
    """An Outbound with what the publisher keeps about it."""

    __slots__ = ("deadline", "failure", "future", "sequence", "submitted")

    deadline: float
    """Of the loop's clock."""
    future: asyncio.Future[Receipt]
    sequence: int

    def __init__(
        self,
        event: Event[Any] | Foreign,
        topic: str,
        group: str | None,
        headers: Mapping[str, str] | None,
        not_before: float | None,
        hop: str,
        reserve: int = RESERVED_BYTES,
    ) -> None:
        self.event = event
        self.topic = topic
        self.group = group
        self.headers = headers
        self.not_before = not_before
        self.hop = hop
        self.reserve = reserve
        self.token = None
        self.submitted = False
        self.failure: BrokerError | None = None


class _Failing:
    """A topic that could not take an event: what waits for the next try, in its order."""

    __slots__ = ("again", "backoff", "due", "fresh")

    def __init__(self) -> None:
        self.again: list[Publishing] = []
        """Was not stored, and is to be sent again."""
        self.fresh: list[Publishing] = []
        """Came meanwhile, and has to stay behind those."""
        self.due: float | None = None
        """Of the loop's clock: when to try again. None: it is being tried."""
        self.backoff = Backoff(first=0.05, cap=1.0, floor=0.01)


class Publisher:
    """One for each Bus: owns the sender, the deadlines, and the retries of what was certainly not stored.

    A topic that fails waits by itself: events of the others go on meanwhile.
    """

    def __init__(self, sender: Sender, deadline: float, stats: PublishStats) -> None:
        self._sender = sender
        self._deadline = deadline
        self._stats = stats
        self._loop = asyncio.get_running_loop()
        self._pending: list[Publishing] = []
        self._failing: dict[str, _Failing] = {}
        self._in_flight: dict[Publishing, None] = {}
        self._own_deadline: dict[Publishing, None] = {}
        self._accepted: dict[tuple[str, str], int] = {}
        self._forget_at = _FORGET_AT
        self._sequence = 0
        self._wakeup: asyncio.Future[None] | None = None
        self._closed = False
        self._say = Seldom()
        self._sweeper: asyncio.TimerHandle | None = None
        self._task = asyncio.create_task(self._run(), name="anybroker publish")

    def send(self, publishing: Publishing, deadline: float | None = None) -> asyncio.Future[Receipt]:
        """Queue an event. The future ends by the deadline (seconds from now) with a Receipt or a BrokerError.

        Cancelling the future leaves the outcome unknown: the event may be sent still.
        """
        if self._closed:
            raise StateError("publish after close: the Bus is closed. Publish before leaving 'async with bus'")
        loop = self._loop
        publishing.future = future = loop.create_future()
        publishing.sequence = self._sequence = self._sequence + 1
        if deadline is None:
            publishing.deadline = loop.time() + self._deadline
            self._in_flight[publishing] = None
        else:
            publishing.deadline = loop.time() + deadline
            self._own_deadline[publishing] = None
        self._pending.append(publishing)
        if self._wakeup is not None:
            self._wake()
        return future

    @property
    def in_flight(self) -> int:
        """How many publishes have not ended."""
        return len(self._in_flight) + len(self._own_deadline)

    @property
    def hindrance(self) -> str | None:
        """Why the broker takes nothing now, where the sender can tell."""
        return self._sender.hindrance if isinstance(self._sender, TellsHindrance) else None

    # ------------------------------------------------------------------------------------------------ sending

    async def _run(self) -> None:
        loop = self._loop
        while True:
            if not self._pending:
                await self._wait_for_work()
            if self._sweeper is None:
                self._sweeper = loop.call_later(_SWEEP, self._sweep)
            batch = self._take()
            if batch:
                await self._submit(batch)

    async def _wait_for_work(self) -> None:
        """Until something is published, or a topic that failed is to be tried again."""
        loop = self._loop
        due = min((failing.due for failing in self._failing.values() if failing.due is not None), default=None)
        if due is not None and due <= loop.time():
            return
        self._wakeup = wakeup = loop.create_future()
        timer = None if due is None else loop.call_at(due, self._wake)
        await wakeup
        if timer is not None:
            timer.cancel()

    def _wake(self) -> None:
        wakeup, self._wakeup = self._wakeup, None
        if wakeup is not None and not wakeup.done():  # cancelled where the event loop is ending
            wakeup.set_result(None)

    def _take(self) -> list[Publishing]:
        """The next batch: what has to be sent again, in its old order, then what is new; not of topics that wait."""
        if self._failing:
            self._take_failing()
        if len(self._pending) <= _BATCH:
            batch, self._pending = self._pending, []
        else:
            batch = self._pending[:_BATCH]
            del self._pending[:_BATCH]
        return batch

    def _take_failing(self) -> None:
        """Put what is due again before what is new, and set aside what is new of topics that wait still."""
        now = self._loop.time()
        due: list[Publishing] = []
        under_way: dict[tuple[str, str], int] | None = None
        for failing in self._failing.values():
            if failing.due is None or failing.due > now:
                continue
            failing.due = None
            again, failing.again = failing.again, []
            again.sort(key=_sequence)
            under_way = self._under_way() if under_way is None else under_way
            live: list[Publishing] = []
            for item in again:
                if item.future.done() or self._overtaken(item):
                    continue
                if (key := item.event.key) is not None and under_way.get((item.topic, key), 0) > item.sequence:
                    failing.again.append(item)  # the outcome of a later one decides: accepted, it must not be overtaken
                else:
                    live.append(item)
            if failing.again:
                failing.due = now + failing.backoff.next()
            self._stats.retried += len(live)
            due += live
            due += [item for item in failing.fresh if not item.future.done()]
            failing.fresh = []
        new: list[Publishing] = []
        for item in self._pending:
            waits = self._failing.get(item.topic)
            if waits is not None and waits.due is not None:
                waits.fresh.append(item)
            else:
                new.append(item)
        self._pending = due + new

    async def _submit(self, batch: list[Publishing]) -> None:
        error: BrokerError
        for item in batch:
            item.submitted = True
        try:
            await self._sender.submit(batch, self._report)
        except BrokerError as exc:
            error = exc
        except ConfigError as exc:
            error = Rejected(str(exc))
            error.__cause__ = exc
        except asyncio.CancelledError as exc:
            if not cancelled_by_nobody():
                raise
            _log.exception("a cancellation came out of a sender's submit()")
            error = PublishOutcomeUnknown("the adapter gave up a batch, which may be stored in part")
            error.__cause__ = exc
        except Exception as exc:  # noqa: BLE001 - against the interface, but not a reason to end all publishing
            _log.exception("a sender raised from submit()")
            error = PublishOutcomeUnknown(f"the adapter failed at a batch, which may be stored in part: {exc!r}")
            error.__cause__ = exc
        else:
            return
        for item in batch:
            if item.submitted and (item in self._in_flight or item in self._own_deadline):  # not reported yet
                self._report(item, error)

    def _under_way(self) -> dict[tuple[str, str], int]:
        """By topic and key: the last event that was handed over and has no outcome yet."""
        found: dict[tuple[str, str], int] = {}
        for item in (*self._in_flight, *self._own_deadline):
            if item.submitted and (key := item.event.key) is not None:
                found[item.topic, key] = max(found.get((item.topic, key), 0), item.sequence)
        return found

    def _overtaken(self, item: Publishing) -> bool:
        """Whether a later event of the key was accepted: then the failure goes to the caller."""
        key = item.event.key
        if key is None or self._accepted.get((item.topic, key), 0) < item.sequence:
            return False
        assert item.failure is not None
        self._fail(item, item.failure)
        return True

    def _report(self, outbound: Any, result: Any) -> None:
        """The sender's word on one event."""
        assert outbound.__class__ is Publishing
        if result.__class__ is Receipt:
            event = outbound.event
            key = event.key
            if key is not None:
                accepted = self._accepted
                where = (outbound.topic, key)
                if accepted.get(where, 0) < outbound.sequence:  # confirmations come in any order
                    accepted[where] = outbound.sequence
                if len(accepted) > self._forget_at:
                    self._forget()
            if self._failing and (failing := self._failing.get(outbound.topic)) is not None:
                failing.backoff.reset()
                if failing.due is None and not failing.again:
                    del self._failing[outbound.topic]
            self._in_flight.pop(outbound, None)
            if self._own_deadline:
                self._own_deadline.pop(outbound, None)
            self._stats.published += 1
            if result.duplicate:
                self._was_there(outbound)
            future = outbound.future
            if not future.done():
                if event.__class__ is Event:
                    result.event = event
                future.set_result(result)
        elif isinstance(result, Unavailable) and not self._closed and outbound.deadline > self._loop.time():
            outbound.submitted = False
            outbound.failure = result
            failing = self._failing.get(outbound.topic)
            if failing is None:
                failing = self._failing[outbound.topic] = _Failing()
            failing.again.append(outbound)
            if failing.due is None:
                failing.due = self._loop.time() + failing.backoff.next()
                if failing.backoff.tries == _SAID_AT:
                    _log.warning("topic %r takes no event now, tried again: %s", outbound.topic, result)
                self._wake()  # it looks when to wake up next
        else:
            self._fail(outbound, result)

    def _was_there(self, item: Publishing) -> None:
        """The broker had it already, it says: dropped, and accepted. Where nobody sent it twice, somebody else has sent
        something under its id. What a handler publishes has the same id when it runs again, so that is no news."""
        self._stats.duplicates += 1
        event = item.event
        if item.failure is not None or item.hop or (isinstance(event, Event) and "causationid" in event._attributes):
            return
        if times := self._say():
            _log.warning(
                "an event for topic %r was dropped as a copy of one that the broker has (%d times since this was said "
                "last). Where it was not published before under this source and id, somebody else has taken its place: "
                "set deduplication_key",
                item.topic,
                times,
            )

    def _forget(self) -> None:
        """Drop what no event in flight can be overtaken by any more."""
        oldest = min((item.sequence for item in (*self._in_flight, *self._own_deadline)), default=self._sequence)
        self._accepted = {key: sequence for key, sequence in self._accepted.items() if sequence > oldest}
        self._forget_at = max(_FORGET_AT, 2 * len(self._accepted))

    def _fail(self, item: Publishing, result: BrokerError) -> None:
        if item not in self._in_flight and item not in self._own_deadline:
            return  # ended by its deadline before; the sender's word comes late
        self._in_flight.pop(item, None)
        self._own_deadline.pop(item, None)
        future = item.future
        self._stats.failed += 1
        if isinstance(result, PublishOutcomeUnknown):
            self._stats.unknown += 1
            if isinstance(item.event, Event) and result.event is not item.event:
                if result.event is not None:  # one failure of several events: each gets its own
                    cause, result = result, PublishOutcomeUnknown(str(result))
                    result.__cause__ = cause
                result.event = item.event
        if not future.done():
            future.set_exception(result)

    # --------------------------------------------------------------------------------------------- deadlines

    def _sweep(self) -> None:
        """One timer serves every publish in flight."""
        now = self._loop.time()
        late: list[Publishing] = []
        for item in self._in_flight:  # one deadline for all: the first that is not late ends the search
            if item.deadline > now:
                break
            late.append(item)
        late += [item for item in self._own_deadline if item.deadline <= now]
        for item in late:
            self._fail(item, self._too_late(item))
        if late:
            self._pending = [item for item in self._pending if not item.future.done()]
        busy = self.in_flight or self._wakeup is None  # in a call of the sender: it looks for nobody who comes now
        self._sweeper = self._loop.call_later(_SWEEP, self._sweep) if busy else None

    def _too_late(self, item: Publishing) -> BrokerError:
        if item.submitted:
            why = "" if self.hindrance is None else f" ({self.hindrance})"
            if not why and item.failure is not None:  # it was tried again when the deadline came
                why = f" (the try before: {item.failure})"
            return PublishOutcomeUnknown(
                f"no confirmation from the broker for an event to {item.topic!r} by the publish deadline{why}: it may "
                "be stored. Publish it again under the same id (the error's 'event')"
            )
        why = f" (at last: {item.failure})" if item.failure is not None else ""
        error = Unavailable(
            f"the broker could not take an event to {item.topic!r} by the publish deadline: not stored{why}"
        )
        error.__cause__ = item.failure
        return error

    # ------------------------------------------------------------------------------------------------- close

    def give_up(self) -> None:
        """End every publish in flight now, as its deadline would."""
        for item in (*self._in_flight, *self._own_deadline):
            self._fail(item, self._too_late(item))

    async def close(self, seconds: float) -> None:
        """Send what is queued, wait for the confirmations for up to that many seconds, and close the sender.

        What was not confirmed by then ends as unknown, or as Unavailable where it was never handed over. Idempotent.
        """
        if self._closed:
            return
        end = self._loop.time() + seconds
        while self.in_flight and self._loop.time() < end:
            waiting = [item.future for item in (*self._in_flight, *self._own_deadline)]
            await asyncio.wait(waiting, timeout=end - self._loop.time())
            await asyncio.sleep(0)  # cancelled futures leave with the report, live ones have left
            if all(future.done() for future in waiting):
                if not self._pending and not any(failing.again or failing.fresh for failing in self._failing.values()):
                    break
                await asyncio.sleep(0.01)  # cancelled ones are queued still
        self._closed = True
        self._task.cancel()
        await asyncio.wait([self._task])
        await bounded(self._sender.close(), max(end - self._loop.time(), 5.0), "closing the sender")
        if self._sweeper is not None:
            self._sweeper.cancel()
        for item in (*self._in_flight, *self._own_deadline):
            self._fail(item, self._too_late(item))


def _sequence(item: Publishing) -> int:
    return item.sequence
