"""Telling others what happens in a Bus: logs, metrics and traces hang on it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from inspect import iscoroutinefunction
from time import monotonic
from typing import Any, Literal, TypeAlias

from ..adapter import Backlog, Foreign, Outbound, Receipt
from ..cloudevents.event import Event
from ..delivery import Delivery
from ..errors import BrokerError, ConfigError, UnhandledError
from ..printable import logger
from .pending import Pending
from .seldom import Seldom

__all__ = ["Observer", "Observers", "StartOutcome", "Starts", "check_observer"]

_log = logger("anybroker.observe")

StartOutcome: TypeAlias = Literal["handled", "unhandled", "dead_lettered", "retried", "postponed", "stuck", "returned"]
"""What became of one start. ``unhandled``: no handler takes its type, and it was skipped. ``postponed``: put off
without counting an attempt. ``stuck``: it could be neither finished nor dead-lettered, and stays. ``returned``: cut
off, or of a lane that went to another member; the event comes again."""


class Observer:
    """Told of what happens in a Bus: ``bus.observe(observer)``. Derive from it and override what you want to know; what
    is not overridden costs nothing.

    Every method is called synchronously in the event loop, between two events, so it must be quick and must not block.
    What it raises is logged and otherwise ignored. Times are seconds of a monotonic clock.
    """

    def attached(self, bus: Any) -> Observer:
        """The :class:`anybroker.Bus` starts. Called at each start, before anything else; returns what is told of this
        Bus until it closes: by default this observer itself. What it raises, ``start`` raises."""
        return self

    def published(self, outbound: Outbound, result: Receipt | BrokerError, seconds: float) -> None:
        """A publish has ended: with a Receipt, or the error that ``publish`` raises. ``seconds``: since the event was
        queued. Copies that the library sends (dead letters, releases, replays) are among them: ``outbound.is_copy``."""

    def received(self, topic: str, group: str, count: int) -> None:
        """The broker handed over that many events at once."""

    def started(self, delivery: Delivery) -> None:
        """A handler starts: ``delivery.attempt`` says for which time. ``delivery.handler`` is not known yet."""

    def finished(self, delivery: Delivery, outcome: StartOutcome, error: BaseException | None, seconds: float) -> None:
        """One start has ended, after this many seconds. ``error``: what the handler failed with, or why the event was
        dead-lettered without one; None where nothing failed."""

    def retried(self, delivery: Delivery, error: BaseException, wait: float) -> None:
        """It failed and starts again, in ``wait`` seconds at the earliest. Told before :meth:`finished`."""

    def dead_lettered(self, delivery: Delivery, error: BaseException) -> None:
        """Its dead letter is stored. Told before :meth:`finished`."""

    def stuck(self, delivery: Delivery, error: BaseException, wait: float) -> None:
        """It can be neither finished nor dead-lettered, because of ``error``: it stays, and that is tried again in
        ``wait`` seconds. Told before :meth:`finished`."""

    def unhandled(self, delivery: Delivery) -> None:
        """No handler takes its type. Told before :meth:`finished`."""

    def lease_lost(self, topic: str, group: str, event: Event[Any] | Foreign) -> None:
        """Another member may have the event now. A handler that runs goes on, and its result is not settled."""

    def slow(self, delivery: Delivery, seconds: float) -> None:
        """Its handler has been running for longer than ``slow_after`` seconds, and goes on. Told again each time that
        the seconds have doubled: so a handler that hangs is found in a recent log."""

    def blocked(self, seconds: float, delivery: Delivery | None) -> None:
        """The event loop ran nothing else for so long, and goes on now. ``delivery``: whose handler kept it; None where
        it was something else."""

    def reconnected(self, topic: str, group: str, why: BrokerError) -> None:
        """Another receiver was opened after one that had died of ``why``."""

    def lag(self, topic: str, group: str, backlog: Backlog) -> None:
        """What waits for a group, every 15 seconds, where the broker can say: of each group that this Bus subscribes to
        or watches (``bus.watch``)."""

    def depth(self, topic: str, group: str, dead_letters: int) -> None:
        """How many dead letters of a group wait, told beside :meth:`lag`; 0 also where their topic was never made. Of
        a dead-letter topic that several groups share, those of all of them."""

    def pending(self, part: str, pending: Pending) -> None:
        """What waits in the part of that name, such as the relay of an outbox, every 15 seconds."""

    def closed(self) -> None:
        """The Bus is closed: nothing more is told, unless it starts again."""


class Observers:
    """Those of one Bus, as one function for each thing that happens; None where nobody wants to know."""

    __slots__ = (
        "blocked",
        "closed",
        "dead_lettered",
        "depth",
        "finished",
        "lag",
        "lease_lost",
        "pending",
        "published",
        "received",
        "reconnected",
        "retried",
        "slow",
        "started",
        "stuck",
        "unhandled",
    )

    def __init__(self, observers: Iterable[Observer] = ()) -> None:
        listed = tuple(observers)
        self.published: Callable[[Outbound, Receipt | BrokerError, float], None] | None = _all(listed, "published")
        self.received: Callable[[str, str, int], None] | None = _all(listed, "received")
        self.started: Callable[[Delivery], None] | None = _all(listed, "started")
        self.finished: Callable[[Delivery, StartOutcome, BaseException | None, float], None] | None
        self.finished = _all(listed, "finished")
        self.retried: Callable[[Delivery, BaseException, float], None] | None = _all(listed, "retried")
        self.dead_lettered: Callable[[Delivery, BaseException], None] | None = _all(listed, "dead_lettered")
        self.stuck: Callable[[Delivery, BaseException, float], None] | None = _all(listed, "stuck")
        self.unhandled: Callable[[Delivery], None] | None = _all(listed, "unhandled")
        self.lease_lost: Callable[[str, str, Event[Any] | Foreign], None] | None = _all(listed, "lease_lost")
        self.slow: Callable[[Delivery, float], None] | None = _all(listed, "slow")
        self.blocked: Callable[[float, Delivery | None], None] | None = _all(listed, "blocked")
        self.reconnected: Callable[[str, str, BrokerError], None] | None = _all(listed, "reconnected")
        self.lag: Callable[[str, str, Backlog], None] | None = _all(listed, "lag")
        self.depth: Callable[[str, str, int], None] | None = _all(listed, "depth")
        self.pending: Callable[[str, Pending], None] | None = _all(listed, "pending")
        self.closed: Callable[[], None] | None = _all(listed, "closed")

    def of_starts(self) -> Starts | None:
        """What tells of the starts of handlers; None where nobody wants to know."""
        return None if self.started is None and self.finished is None else Starts(self)

    def unusual(self, delivery: Delivery) -> None:
        """Tell of a delivery that was settled without a handler, or dead-lettered. A good one needs no call."""
        verdict = delivery.verdict
        if self.unhandled is not None and not delivery.handler and _skipped(verdict):
            self.unhandled(delivery)
        if self.dead_lettered is not None and verdict is not None and delivery.is_dead_lettered:
            self.dead_lettered(delivery, verdict)


class Starts:
    """Tells observers of the starts of handlers, and how they ended."""

    __slots__ = ("_finished", "_started")

    def __init__(self, observers: Observers) -> None:
        self._started = observers.started
        self._finished = observers.finished

    def begun(self, delivery: Delivery) -> float:
        """One starts now. Returns the time, for what tells of its end."""
        if self._started is not None:
            self._started(delivery)
        return monotonic()

    def succeeded(self, delivery: Delivery, began: float) -> None:
        """The chain returned, so the delivery is settled."""
        if self._finished is None:
            return
        verdict = delivery.verdict
        if verdict is not None and delivery.is_dead_lettered:
            self._finished(delivery, "dead_lettered", verdict, monotonic() - began)
        else:
            self._finished(delivery, "handled" if delivery.handler else "unhandled", None, monotonic() - began)

    def ended(self, delivery: Delivery, outcome: StartOutcome, error: BaseException | None, began: float) -> None:
        """It has this outcome."""
        if self._finished is not None:
            self._finished(delivery, outcome, error, monotonic() - began)


def _skipped(verdict: Exception | None) -> bool:
    return verdict is None or isinstance(verdict, UnhandledError)


def _all(observers: tuple[Observer, ...], what: str) -> Callable[..., None] | None:
    """One call for those who override the method, in their class or on the object itself."""
    own = getattr(Observer, what)
    calls = [_contained(each, what) for each in observers if getattr(getattr(each, what), "__func__", None) is not own]
    if len(calls) < 2:
        return calls[0] if calls else None

    def tell(*facts: Any) -> None:
        for call in calls:
            call(*facts)

    return tell


def _contained(observer: Observer, what: str) -> Callable[..., None]:
    """A call whose failure is the observer's own."""
    call: Callable[..., None] = getattr(observer, what)
    say = Seldom()

    def tell(*facts: Any) -> None:
        try:
            call(*facts)
        except BaseException:  # noqa: BLE001 - what is observed must go on, whatever this raises
            if times := say():
                _log.exception(
                    "an observer failed: %s.%s (%d times since this was said last)",
                    type(observer).__name__,
                    what,
                    times,
                )

    return tell


def check_observer(observer: object) -> Observer:
    """ConfigError where it is not one."""
    if not isinstance(observer, Observer) or not issubclass(type(observer), Observer):
        raise ConfigError(
            "bus.observe(observer)",
            f"{type(observer).__name__} is not an Observer",
            "Derive its class from anybroker.Observer, and override what you want to know.",
        )
    waits = next((name for name in Observers.__slots__ if iscoroutinefunction(getattr(observer, name))), None)
    if waits is not None:
        raise ConfigError(
            f"bus.observe(observer) {type(observer).__name__}.{waits}",
            "is an async function, and would never run",
            "Write 'def'; start a task in it if it has to wait.",
        )
    return observer
