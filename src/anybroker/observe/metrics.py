"""What is measured in a Bus, for whatever exports it.

Counts and states are read from the Bus when somebody asks. Only what events alone can tell is written down as they
come: durations, and the time from an event's own time until it was handled.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from time import monotonic, time
from typing import Any, Final, Protocol, TypeAlias, TypeVar

from ..adapter import Adapter, Backlog, Outbound, Receipt
from ..cloudevents.event import Event
from ..delivery import Delivery
from ..engine.observing import Observer, StartOutcome
from ..engine.pending import Pending
from ..errors import BrokerError, StateError
from ..printable import printable
from ..stats import PublishStats, SubscriptionStats
from .health import Health
from .instruments import Instrument, by_name

__all__ = [
    "Attributes",
    "BusMetrics",
    "Distribution",
    "Measured",
    "MeasuredSubscription",
    "Metrics",
    "Number",
    "Recorder",
]

_T = TypeVar("_T")

Attributes: TypeAlias = tuple[str | None, ...]
"""The values of an instrument's attributes, in its order; None: this series has no such attribute."""
Record: TypeAlias = Callable[[float], None]
Number: TypeAlias = tuple[Instrument, Attributes, float]

_MOST: Final = 100
"""Event types of one topic, and types of errors, that have a series of their own."""
_LONGEST: Final = 100
"""Characters of a label that others write."""
_STALE: Final = 60.0
"""Seconds for which what the broker said of a group is shown."""
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_OTHER_TYPE: Final = "other"
_OTHER_ERROR: Final = "_OTHER"  # the conventions' word

_OPERATION: Final = by_name("messaging.client.operation.duration")
_SENT: Final = by_name("messaging.client.sent.messages")
_CONSUMED: Final = by_name("messaging.client.consumed.messages")
_PROCESS: Final = by_name("messaging.process.duration")
_LATENCY: Final = by_name("anybroker.delivery.latency")
_RUNNING: Final = by_name("anybroker.handlers.running")
_BUFFERED: Final = by_name("anybroker.deliveries.buffered")
_LAG: Final = by_name("anybroker.lag.events")
_LAG_AGE: Final = by_name("anybroker.lag.age")
_UNFINISHED: Final = by_name("anybroker.unfinished.age")
_DEPTH: Final = by_name("anybroker.dead_letters.depth")
_OUTBOX: Final = tuple(by_name(f"anybroker.outbox.{name}") for name in ("waiting", "age", "set_aside", "sent"))
_WAITING: Final = by_name("anybroker.deliveries.waiting")
_CIRCUIT: Final = by_name("anybroker.circuit.open")
_LANES: Final = by_name("anybroker.lanes.held")
_UNKNOWN: Final = by_name("anybroker.publish.unknown")
_PROBLEM: Final = by_name("anybroker.problem")
_READY: Final = by_name("anybroker.ready")

_COUNTED: Final = tuple(
    (by_name(name), counter)
    for name, counter in (
        ("anybroker.dead_letters", "dead_lettered"),
        ("anybroker.parked", "parked"),
        ("anybroker.starts", "started"),
        ("anybroker.retries", "retried"),
        ("anybroker.retries.slowed", "retries_slowed"),
        ("anybroker.expired", "expired"),
        ("anybroker.duplicates.suppressed", "suppressed"),
        ("anybroker.unhandled", "unhandled"),
        ("anybroker.foreign", "foreign"),
        ("anybroker.leases.lost", "leases_lost"),
        ("anybroker.reconnects", "reconnects"),
        ("anybroker.circuits.opened", "circuits_opened"),
    )
)
"""What is one of a subscription's counters."""


class MeasuredSubscription(Protocol):
    """An :class:`anybroker.Subscription`, as far as it is measured."""

    topic: str
    group: str
    stats: SubscriptionStats

    @property
    def running(self) -> int:
        """Handlers in flight."""
        ...

    @property
    def buffered(self) -> int:
        """Deliveries received and not finished."""
        ...

    @property
    def held_lanes(self) -> int:
        """Lanes that this member has."""
        ...

    @property
    def waiting(self) -> int:
        """Deliveries that wait for their turn in a middleware."""
        ...

    @property
    def circuits(self) -> Mapping[str, bool]:
        """The circuits of its handlers, each with whether it is open."""
        ...

    @property
    def unfinished_age(self) -> float | None:
        """Seconds for which an event has been the oldest unfinished one."""
        ...


class Measured(Protocol):
    """An :class:`anybroker.Bus`, as far as it is measured."""

    stats: PublishStats

    @property
    def adapter(self) -> Adapter:
        """The adapter."""
        ...

    @property
    def subscriptions(self) -> Sequence[MeasuredSubscription]:
        """All of them."""
        ...

    @property
    def problems(self) -> Mapping[str, str]:
        """What is wrong now."""
        ...

    def health(self) -> Health:
        """How it is."""
        ...


class Recorder(Protocol):
    """One series of a histogram."""

    @property
    def count(self) -> int:
        """How many values it has."""
        ...

    @property
    def record(self) -> Callable[[float], None]:
        """Takes one more."""
        ...


class Distribution:
    """A series that is kept here."""

    __slots__ = ("_bounds", "_record", "_total", "counts")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self.counts = counts = [0] * (len(bounds) + 1)
        """Of each bucket, the last one without an upper end."""
        self._total = total = [0.0]

        def record(value: float, /) -> None:  # without an attribute to look up: it is called for each event
            counts[bisect_left(bounds, value)] += 1
            total[0] += value

        self._record = record

    @property
    def record(self) -> Record:
        """Takes one more value."""
        return self._record

    @property
    def count(self) -> int:
        """How many values there are."""
        return sum(self.counts)

    @property
    def total(self) -> float:
        """The sum of all values."""
        return self._total[0]

    def __add__(self, other: Distribution) -> Distribution:
        both = Distribution(self._bounds)
        both.counts[:] = [mine + its for mine, its in zip(self.counts, other.counts, strict=True)]
        both._total[0] = self.total + other.total
        return both


class Metrics(Observer):
    """What both exporters have in common. Give it to one Bus or several, before they start: ``bus.observe(metrics)``.

    It keeps them, and what it has counted for as long as it lives itself, through every close and start of a Bus. Two
    Buses on the same kind of broker with the same topic and group are one series: counts are added, of other numbers
    the worse one is shown. Where they have to be told apart, give each Metrics of its own.
    """

    def __init__(self) -> None:
        self._buses: dict[int, BusMetrics] = {}

    def attached(self, bus: Measured) -> Observer:
        """A Bus starts: what is told of it."""
        found = self._buses.get(id(bus))
        if found is None:
            found = self._buses[id(bus)] = BusMetrics(bus, self._recorder)
        return found

    def _recorder(self, instrument: Instrument, _attributes: Attributes) -> Recorder:
        return Distribution(instrument.bounds)

    def numbers(self) -> list[Number]:
        """The counters and gauges now. May be called in any thread."""
        merged: dict[tuple[Instrument, Attributes], float] = {}
        for bus in self._each():
            for instrument, attributes, value in bus.numbers():
                place = instrument, attributes
                if place not in merged:
                    merged[place] = value
                elif instrument.merge == "sum":
                    merged[place] += value
                else:
                    merged[place] = (max if instrument.merge == "max" else min)(merged[place], value)
        return [(instrument, attributes, value) for (instrument, attributes), value in merged.items()]

    def distributions(self) -> list[tuple[Instrument, Attributes, Distribution]]:
        """The histograms now. May be called in any thread."""
        merged: dict[tuple[Instrument, Attributes], Distribution] = {}
        for bus in self._each():
            for instrument, attributes, recorder in bus.recorders():
                if isinstance(recorder, Distribution):
                    place = instrument, attributes
                    merged[place] = merged[place] + recorder if place in merged else recorder
        return [(instrument, attributes, distribution) for (instrument, attributes), distribution in merged.items()]

    def _each(self) -> Sequence[BusMetrics]:
        return _copied(lambda: list(self._buses.values()))


class BusMetrics(Observer):
    """What is measured in one Bus."""

    def __init__(self, bus: Measured, recorder: Callable[[Instrument, Attributes], Recorder]) -> None:
        """``recorder``: makes a series of a histogram."""
        self._bus = bus
        self._recorder = recorder
        self._known_system: str | None = None
        self._recorders: dict[tuple[Instrument, Attributes], Recorder] = {}
        self._operations: dict[tuple[str, str | None], Recorder] = {}
        self._starts: dict[tuple[str, str, str | None, str, str | None], tuple[Record, Record | None]] = {}
        self._types: dict[str, set[str]] = {}
        self._errors: set[str] = set()
        self._backlogs: dict[tuple[str, str], tuple[float, Backlog]] = {}
        self._depths: dict[tuple[str, str], tuple[float, int]] = {}
        self._pending: dict[str, tuple[float, Pending]] = {}
        self._shown: dict[tuple[Instrument, Attributes], float] = {}
        self._millisecond = ""
        self._since_epoch = 0.0

    @property
    def _system(self) -> str | None:
        """The broker's name; None before the Bus has its adapter."""
        if self._known_system is None:
            try:
                capabilities = self._bus.adapter.capabilities
            except StateError:
                return None
            self._known_system = capabilities.system
        return self._known_system

    # ---------------------------------------------------------------------------------------------- what events tell

    def published(self, outbound: Outbound, result: Receipt | BrokerError, seconds: float) -> None:
        """Told of a publish that has ended. Copies to a group's inlet are left out: which ones there are is a matter of
        the broker."""
        if outbound.group is not None:
            return
        error = None if result.__class__ is Receipt else self._error_type(result)  # type: ignore[arg-type] # the other
        place = outbound.topic, error
        operation = self._operations.get(place)
        if operation is None:
            attributes = (self._system, outbound.topic, "send", "send", error)
            operation = self._operations[place] = self._series(_OPERATION, attributes)
        operation.record(seconds)

    def finished(self, delivery: Delivery, outcome: StartOutcome, error: BaseException | None, seconds: float) -> None:
        """Told of a start that has ended."""
        event = delivery.event
        kind: Any = event._attributes["type"] if event.__class__ is Event else None
        failure = None if error is None else self._error_type(error)
        found = self._starts.get((delivery.topic, delivery.group, kind, outcome, failure))
        if found is None:
            found = self._of_start(delivery, kind, outcome, failure)
        duration, latency = found
        duration(seconds)
        if latency is not None:
            text: Any = event._attributes.get("time")
            if text is not None:
                known = text[:23] == self._millisecond and len(text) == 27  # with six digits and a Z: nothing else fits
                age = time() - (self._since_epoch if known else self._moment(event, text))
                latency(age if age > 0.0 else 0.0)  # not negative, whatever the clocks say

    def lag(self, topic: str, group: str, backlog: Backlog) -> None:
        """Told of what waits for a group."""
        self._backlogs[topic, group] = monotonic(), backlog

    def depth(self, topic: str, group: str, dead_letters: int) -> None:
        """Told of how many dead letters of a group there are."""
        self._depths[topic, group] = monotonic(), dead_letters

    def pending(self, part: str, pending: Pending) -> None:
        """Told of what waits in a part."""
        self._pending[part] = monotonic(), pending

    def _of_start(
        self, delivery: Delivery, kind: str | None, outcome: str, failure: str | None
    ) -> tuple[Record, Record | None]:
        topic, group = delivery.topic, delivery.group
        shown = None if kind is None else self._event_type(topic, kind)
        duration = self._series(_PROCESS, (self._system, topic, group, "process", shown, outcome, failure)).record
        of_group = (self._system, topic, group)
        latency = self._series(_LATENCY, of_group).record if outcome == "handled" and kind is not None else None
        if shown == kind:  # else there may be any number of them
            self._starts[topic, group, kind, outcome, failure] = duration, latency
        return duration, latency

    def _series(self, instrument: Instrument, attributes: Attributes) -> Recorder:
        found = self._recorders.get((instrument, attributes))
        if found is None:
            found = self._recorders[instrument, attributes] = self._recorder(instrument, attributes)
        return found

    def _event_type(self, topic: str, kind: str) -> str:
        return _bounded(self._types.setdefault(topic, set()), kind, _OTHER_TYPE)

    def _error_type(self, error: BaseException) -> str:
        return _bounded(self._errors, type(error).__qualname__, _OTHER_ERROR)

    def _moment(self, event: Event[Any], text: str) -> float:
        """Its time, in seconds since the epoch. As the library writes it, it is known for the next ones of the same
        millisecond, which under load are many: to half a millisecond."""
        if len(text) != 27 or text[26] != "Z" or text[17:19] == "60":  # a leap second: datetime has none
            moment = event.time
            assert moment is not None
            return (moment - _EPOCH).total_seconds()
        self._since_epoch = since_epoch = datetime.fromisoformat(f"{text[:23]}+00:00").timestamp() + 0.0005
        self._millisecond = text[:23]
        return since_epoch

    # ----------------------------------------------------------------------------------------------- what is asked for

    def recorders(self) -> list[tuple[Instrument, Attributes, Recorder]]:
        """All series of histograms. May be called in any thread."""
        series = _copied(lambda: list(self._recorders.items()))
        return [(instrument, attributes, recorder) for (instrument, attributes), recorder in series]

    def numbers(self) -> Iterator[Number]:
        """The counters and gauges now. May be called in any thread."""
        system = self._system
        for (topic, error), operation in _copied(lambda: list(self._operations.items())):
            yield _SENT, (system, topic, "send", error), operation.count
        yield _UNKNOWN, (system,), self._bus.stats.unknown
        for subscription in self._bus.subscriptions:
            yield from self._of_subscription(subscription)
        now = monotonic()
        for (topic, group), (told, backlog) in _copied(lambda: list(self._backlogs.items())):
            if now - told < _STALE:
                yield _LAG, (system, topic, group), backlog.lag
                if backlog.age is not None:
                    yield _LAG_AGE, (system, topic, group), backlog.age
        for (topic, group), (told, dead_letters) in _copied(lambda: list(self._depths.items())):
            if now - told < _STALE:
                yield _DEPTH, (system, topic, group), dead_letters
        for part, (told, pending) in _copied(lambda: list(self._pending.items())):
            if now - told < _STALE:
                for instrument, value in zip(_OUTBOX, pending, strict=True):
                    yield instrument, (system, _label(part)), value or 0
        for name in _copied(lambda: self._bus.problems):
            yield _PROBLEM, (system, _label(name)), 1
        yield _READY, (system,), int(self._bus.health().ready)

    def _of_subscription(self, subscription: MeasuredSubscription) -> Iterator[Number]:
        attributes = self._system, subscription.topic, subscription.group
        stats = subscription.stats
        yield _CONSUMED, (*attributes, "receive"), stats.received
        for instrument, counter in _COUNTED:
            yield instrument, attributes, self._never_less(instrument, attributes, getattr(stats, counter))
        yield _RUNNING, attributes, subscription.running
        yield _BUFFERED, attributes, subscription.buffered
        yield _UNFINISHED, attributes, subscription.unfinished_age or 0.0
        yield _LANES, attributes, subscription.held_lanes
        yield _WAITING, attributes, subscription.waiting
        for name, is_open in subscription.circuits.items():
            yield _CIRCUIT, (*attributes, _label(name)), int(is_open)

    def _never_less(self, instrument: Instrument, attributes: Attributes, value: float) -> float:
        """A start that turns out not to count is taken back. A counter that falls would be one that began anew."""
        place = instrument, attributes
        shown = self._shown[place] = max(value, self._shown.get(place, 0))
        return shown


def _bounded(known: set[str], text: str, other: str) -> str:
    """The text as a label, if it is one of the first hundred."""
    shown = _label(text)
    if shown in known:
        return shown
    if len(known) >= _MOST:
        return other
    known.add(shown)
    return shown


def _label(text: str) -> str:
    return printable(text[:_LONGEST])[:_LONGEST]


def _copied(read: Callable[[], _T]) -> _T:
    """What this returns. In another thread than the event loop's, what it reads may change size meanwhile."""
    for _ in range(100):
        try:
            return read()
        except RuntimeError:
            continue
    return read()
