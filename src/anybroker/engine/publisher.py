"""Publishing: concurrent publishes coalesce into one ``submit``, and each ends by its own report or its deadline.

The order of a key is the order in which the ``publish`` coroutines were first run: :meth:`Publisher.send` is called
before their first suspension, and everything after it keeps that sequence.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from time import monotonic
from typing import Any, TypeAlias

from ..adapter import RESERVED_BYTES, Foreign, Outbound, Receipt, Sender, TellsHindrance
from ..cloudevents.event import Event
from ..errors import BrokerError, ConfigError, PublishOutcomeUnknown, Rejected, StateError, Unavailable
from ..printable import brief, logger
from ..stats import PublishStats
from .backoff import Backoff
from .calls import bounded, cancelled_by_nobody
from .seldom import Seldom
from .trouble import AWAY_AFTER, Progressing, Trouble, sentence

__all__ = ["Publisher", "Publishing", "results_of"]

_log = logger("anybroker.publish")

Published: TypeAlias = Callable[[Outbound, "Receipt | BrokerError", float], None]

_SWEEP = 0.1
"""Seconds between two checks of the deadlines: a publish may end this late."""
_BATCH = 2_000
"""The most events in one ``submit``."""
_FORGET_AT = 10_000
_SAID_AT = 3
"""The consecutive failure of a topic that is logged: one or two are normal on a network."""


class Publishing(Outbound):
    """An Outbound with the publisher's own state."""

    __slots__ = ("began", "deadline", "failure", "future", "sequence", "submitted")

    began: float
    """Of the monotonic clock: when it was queued. Set where an observer wants to know."""
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
    """A topic that failed to accept an event: what waits for the next try, in order."""

    __slots__ = ("again", "backoff", "due", "fresh", "trouble")

    def __init__(self) -> None:
        self.again: list[Publishing] = []
        """Events that were not stored and are to be sent again."""
        self.fresh: list[Publishing] = []
        """Newer events, which must stay behind those."""
        self.due: float | None = None
        """When to try again, by the loop's clock. None: a try is in progress."""
        self.backoff = Backoff(first=0.05, cap=1.0, floor=0.01)
        self.trouble = Trouble()


class Publisher:
    """One for each Bus. Owns the sender, the deadlines, and the retries of events that were certainly not stored.

    A failing topic delays only its own events.
    """

    def __init__(
        self, sender: Sender, deadline: float, stats: PublishStats, published: Published | None = None
    ) -> None:
        """``published``: told of each publish that has ended, its result, and the seconds that it took."""
        self._published = published
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
        self._progressing = Progressing()
        self._looked = 0.0
        """When :meth:`look` was called last, by the loop's clock: another thread asks while the loop is blocked."""
        self._say = Seldom()
        self._sweeper: asyncio.TimerHandle | None = None
        self._task = asyncio.create_task(self._run(), name="anybroker publish")

    def send(self, publishing: Publishing, deadline: float | None = None) -> asyncio.Future[Receipt]:
        """Queue an event. The future ends by the deadline (seconds from now) with a Receipt or a BrokerError.

        Cancelling the future leaves the outcome unknown: the event may still be sent.
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
        if self._published is not None:
            publishing.began = monotonic()
        self._pending.append(publishing)
        if self._wakeup is not None:
            self._wake()
        return future

    async def send_many(
        self, topic: str, ready: Iterable[tuple[Event[Any], dict[str, str]]], deadline: float | None
    ) -> list[Receipt | BrokerError]:
        """Send events with their headers, and return one result for each, in order."""
        sent = [self.send(Publishing(event, topic, None, out or None, None, ""), deadline) for event, out in ready]
        return results_of(await asyncio.gather(*sent, return_exceptions=True))

    @property
    def in_flight(self) -> int:
        """How many publishes have not ended."""
        return len(self._in_flight) + len(self._own_deadline)

    @property
    def hindrance(self) -> str | None:
        """Why the broker accepts nothing now, if the sender can tell."""
        return self._sender.hindrance if isinstance(self._sender, TellsHindrance) else None

    @property
    def problem(self) -> str | None:
        """Why publishing does not work now, in printable text: what the broker says, or what has failed for some
        seconds. None as soon as an event is confirmed."""
        if (hindrance := self.hindrance) is not None:
            return brief(hindrance)
        if lasting := self._lasting():
            return sentence(lasting)
        if self._progressing.stands_still(self._stats.published, self.in_flight):
            return f"nothing was confirmed for more than {AWAY_AFTER:g} s"
        return None

    @property
    def has_died(self) -> bool:
        """Whether nothing is sent any more, by a defect."""
        return self._task.done() and not self._closed

    def look(self) -> None:
        """Called each second, for :attr:`problem`."""
        self._looked = self._loop.time()
        self._progressing.look(self._stats.published, self.in_flight)

    def _lasting(self) -> dict[str, Trouble]:
        """The topics that had accepted nothing for some seconds at the last look, nor since then. In any thread."""
        lasting: dict[str, Trouble] = {}
        for topic, failing in self._failing.copy().items():
            waiting = any(not item.future.done() for item in (*failing.again, *failing.fresh))
            if failing.trouble.lasts(self._looked, waiting):
                lasting[topic] = failing.trouble
        return lasting

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
        """Wait until something is published, or a failing topic is due for another try."""
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
        if wakeup is not None and not wakeup.done():  # cancelled when the event loop is ending
            wakeup.set_result(None)

    def _take(self) -> list[Publishing]:
        """The next batch: events to send again in their old order, then new ones; none of topics that wait."""
        if self._failing:
            self._take_failing()
        if len(self._pending) <= _BATCH:
            batch, self._pending = self._pending, []
        else:
            batch = self._pending[:_BATCH]
            del self._pending[:_BATCH]
        return batch

    def _take_failing(self) -> None:
        """Put events that are due for another try before the new ones, and set aside new ones of topics that still
        wait."""
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
                    failing.again.append(item)  # a later event's outcome decides: if it was accepted, do not retry this
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
        """For each topic and key, the last event that was handed over and has no outcome yet."""
        last: dict[tuple[str, str], int] = {}
        for item in (*self._in_flight, *self._own_deadline):
            if item.submitted and (key := item.event.key) is not None:
                last[item.topic, key] = max(last.get((item.topic, key), 0), item.sequence)
        return last

    def _overtaken(self, item: Publishing) -> bool:
        """Whether a later event of the key was accepted, so that the failure must go to the caller."""
        key = item.event.key
        if key is None or self._accepted.get((item.topic, key), 0) < item.sequence:
            return False
        assert item.failure is not None
        self._fail(item, item.failure)
        return True

    def _report(self, outbound: Any, result: Any) -> None:
        """The sender's result for one event."""
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
                failing.trouble.over()
                if failing.due is None and not failing.again:
                    del self._failing[outbound.topic]
            if self._published is not None and (outbound in self._in_flight or outbound in self._own_deadline):
                self._published(outbound, result, monotonic() - outbound.began)
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
        elif isinstance(result, Unavailable) and not self._closed:
            outbound.submitted = False
            outbound.failure = result
            if outbound.deadline <= self._loop.time():  # and not swept yet
                self._fail(outbound, self._too_late(outbound))
                return
            failing = self._note(outbound.topic, result, 0.0)
            failing.again.append(outbound)
            if failing.due is None:
                failing.due = self._loop.time() + failing.backoff.next()
                if failing.backoff.tries == _SAID_AT:
                    _log.warning("topic %r does not accept an event now, trying again: %s", outbound.topic, result)
                self._wake()  # so that it works out when to wake up next
        else:
            self._fail(outbound, result)

    def _note(self, topic: str, why: BrokerError, waited: float) -> _Failing:
        """The topic did not accept an event that had waited for so many seconds at least."""
        failing = self._failing.get(topic)
        if failing is None:
            failing = self._failing[topic] = _Failing()
        now = self._loop.time()
        failing.trouble.failed(why, now - waited, now)
        return failing

    def _was_there(self, item: Publishing) -> None:
        """The broker reports that it already had the event: it was dropped, and counts as accepted. If nobody sent it
        twice, somebody else has sent something under its id. Not logged for what a handler publishes, which has the
        same id when the handler runs again."""
        self._stats.duplicates += 1
        event = item.event
        if item.failure is not None or item.hop or (isinstance(event, Event) and "causationid" in event._attributes):
            return
        if times := self._say():
            _log.warning(
                "an event for topic %r was dropped as a copy of one that the broker has (%d times since the last such "
                "message). If it was not published before under this source and id, somebody else has taken its place: "
                "set deduplication_key",
                item.topic,
                times,
            )

    def _forget(self) -> None:
        """Forget the accepted sequence numbers that cannot overtake any event in flight."""
        oldest = min((item.sequence for item in (*self._in_flight, *self._own_deadline)), default=self._sequence)
        self._accepted = {key: sequence for key, sequence in self._accepted.items() if sequence > oldest}
        self._forget_at = max(_FORGET_AT, 2 * len(self._accepted))

    def _fail(self, item: Publishing, result: BrokerError) -> None:
        if item not in self._in_flight and item not in self._own_deadline:
            return  # already ended by its deadline: the sender's result is late
        if isinstance(result, PublishOutcomeUnknown | Unavailable) and not self._closed:
            late = item in self._in_flight and item.deadline <= self._loop.time()
            self._note(item.topic, result, self._deadline if late else 0.0)
        self._in_flight.pop(item, None)
        self._own_deadline.pop(item, None)
        future = item.future
        self._stats.failed += 1
        if isinstance(result, PublishOutcomeUnknown):
            self._stats.unknown += 1
            if isinstance(item.event, Event) and result.event is not item.event:
                if result.event is not None:  # one failure for several events: each gets its own error
                    cause, result = result, PublishOutcomeUnknown(str(result))
                    result.__cause__ = cause
                result.event = item.event
        if self._published is not None:
            self._published(item, result, monotonic() - item.began)
        if not future.done():
            future.set_exception(result)

    # --------------------------------------------------------------------------------------------- deadlines

    def _sweep(self) -> None:
        """One timer serves every publish in flight."""
        now = self._loop.time()
        late: list[Publishing] = []
        for item in self._in_flight:  # all have the same deadline: the first that is not late ends the search
            if item.deadline > now:
                break
            late.append(item)
        late += [item for item in self._own_deadline if item.deadline <= now]
        for item in late:
            self._fail(item, self._too_late(item))
        if late:
            self._pending = [item for item in self._pending if not item.future.done()]
        busy = self.in_flight or self._wakeup is None  # None: in a call of the sender, so that send() wakes nobody
        self._sweeper = self._loop.call_later(_SWEEP, self._sweep) if busy else None

    def _too_late(self, item: Publishing) -> BrokerError:
        if item.submitted:
            why = "" if self.hindrance is None else f" ({self.hindrance})"
            if not why and item.failure is not None:  # it was being tried again at the deadline
                why = f" (the previous try: {item.failure})"
            return PublishOutcomeUnknown(
                f"no confirmation from the broker for an event to {item.topic!r} by the publish deadline{why}: it may "
                "be stored. Publish it again under the same id (the error's 'event')"
            )
        why = f" (last failure: {item.failure})" if item.failure is not None else ""
        error = Unavailable(
            f"the broker did not accept an event to {item.topic!r} by the publish deadline: not stored{why}"
        )
        error.__cause__ = item.failure
        return error

    # ------------------------------------------------------------------------------------------------- close

    def give_up(self) -> None:
        """End every publish in flight now, as its deadline would."""
        for item in (*self._in_flight, *self._own_deadline):
            self._fail(item, self._too_late(item))

    async def close(self, seconds: float) -> None:
        """Send what is queued, wait for the confirmations for up to this many seconds, and close the sender.

        What is not confirmed by then ends as unknown, or as Unavailable if it was never handed over. Idempotent.
        """
        if self._closed:
            return
        end = self._loop.time() + seconds
        while self.in_flight and self._loop.time() < end:
            waiting = [item.future for item in (*self._in_flight, *self._own_deadline)]
            await asyncio.wait(waiting, timeout=end - self._loop.time())
            await asyncio.sleep(0)  # cancelled publishes stay until they are reported, the others have ended
            if all(future.done() for future in waiting):
                if not self._pending and not any(failing.again or failing.fresh for failing in self._failing.values()):
                    break
                await asyncio.sleep(0.01)  # cancelled ones are still queued
        self._closed = True
        self._task.cancel()
        await asyncio.wait([self._task])
        await bounded(self._sender.close(), max(end - self._loop.time(), 5.0), "closing the sender")
        if self._sweeper is not None:
            self._sweeper.cancel()
        for item in (*self._in_flight, *self._own_deadline):
            self._fail(item, self._too_late(item))


def results_of(results: Iterable[object]) -> list[Receipt | BrokerError]:
    """The results of several publishes; what is neither a Receipt nor a BrokerError is raised."""
    listed: list[Receipt | BrokerError] = []
    for result in results:
        if not isinstance(result, Receipt | BrokerError):
            if isinstance(result, BaseException):
                raise result
            raise TypeError(
                f"a publish middleware returned {result!r} instead of a Receipt; the events may have been sent"
            )
        listed.append(result)
    return listed


def _sequence(item: Publishing) -> int:
    return item.sequence
