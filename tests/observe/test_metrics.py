"""What is measured in a Bus, whatever exports it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta, timezone
from types import SimpleNamespace
from typing import Any

import pytest

from anybroker import Backlog, Bus, ConfigError, Event, MemoryBroker, Observer, Receipt, Rejected
from anybroker.adapter import Foreign, Outbound
from anybroker.middleware import retry
from anybroker.observe import Metrics
from anybroker.observe import metrics as module
from anybroker.observe.instruments import by_name
from anybroker.observe.metrics import Attributes, BusMetrics
from anybroker.stats import PublishStats, SubscriptionStats
from anybroker.testing import settled

Run = Callable[[Coroutine[Any, Any, None]], None]


class FakeBus:
    """As much of a Bus as is measured."""

    def __init__(self, *subscriptions: Any) -> None:
        self.adapter: Any = SimpleNamespace(capabilities=SimpleNamespace(adapter="memory", system="memory"))
        self.stats = PublishStats()
        self.subscriptions = subscriptions
        self.problems: dict[str, str] = {}
        self.ready = True

    def health(self) -> Any:
        return SimpleNamespace(ready=self.ready)


def subscribed(**values: Any) -> Any:
    """As much of a subscription as is measured."""
    now = {"running": 0, "buffered": 0, "held_lanes": 1, "unfinished_age": None, "waiting": 0, "circuits": {}}
    return SimpleNamespace(topic="orders", group="g", stats=SubscriptionStats(), **{**now, **values})


def attached(metrics: Metrics, bus: Any | None = None) -> BusMetrics:
    told = metrics.attached(FakeBus() if bus is None else bus)
    assert isinstance(told, BusMetrics)
    return told


def delivery(kind: str = "t", topic: str = "orders", time: str | datetime | None = None) -> Any:
    event = Event.create(b"", type=kind, source="s", time=time)
    return SimpleNamespace(event=event, topic=topic, group="g")


def numbers(metrics: Metrics, name: str) -> dict[Attributes, float]:
    """The series of one counter or gauge."""
    return {attributes: value for each, attributes, value in metrics.numbers() if each.name == name}


def counts(metrics: Metrics, name: str) -> dict[Attributes, int]:
    """How many values each series of one histogram has."""
    return {attributes: found.count for each, attributes, found in metrics.distributions() if each.name == name}


GROUP = ("memory", "orders", "g")
RECEIPT = Receipt(Event.create(b"", type="t", source="s"), "1")

# ------------------------------------------------------------------------------------------------------- histograms


def test_a_value_lies_in_the_bucket_whose_end_it_is() -> None:
    metrics = Metrics()
    told = attached(metrics)
    for seconds in (0.005, 0.0051, 10.0, 10.1):
        told.finished(delivery(), "unhandled", None, seconds)
    ((_, _, found),) = metrics.distributions()
    assert (found.counts[0], found.counts[1], found.counts[13], found.counts[14]) == (1, 1, 1, 1)
    assert found.count == 4
    assert found.total == pytest.approx(20.1101)


@pytest.mark.parametrize(("ago", "seconds"), [(120, 120), (2_000_000_000, 2_000_000_000), (-3600, 0)])
@pytest.mark.parametrize("form", ["in microseconds", "in seconds", "of another time zone"])
def test_the_latency_is_since_the_events_time_and_never_negative(ago: int, seconds: int, form: str) -> None:
    moment = datetime.now(UTC) - timedelta(seconds=ago)
    written = {
        "in microseconds": moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "in seconds": moment.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "of another time zone": moment.astimezone(timezone(timedelta(hours=-5))).isoformat(),
    }
    metrics = Metrics()
    attached(metrics).finished(delivery(time=written[form]), "handled", None, 0.1)
    found = next(found for each, _, found in metrics.distributions() if each.name == "anybroker.delivery.latency")
    assert found.total == pytest.approx(seconds, abs=5)


def test_a_time_that_begins_as_the_one_before_is_read_by_itself() -> None:
    """The millisecond of one event is kept for the next: one in another time zone is not in it."""
    metrics = Metrics()
    told = attached(metrics)
    text = (datetime.now(UTC) - timedelta(minutes=2)).strftime("%Y-%m-%dT%H:%M:%S.123")
    told.finished(delivery(time=f"{text}456Z"), "handled", None, 0.1)
    told.finished(delivery(time=f"{text}+02:00"), "handled", None, 0.1)
    told.finished(delivery(time=f"{text}789Z"), "handled", None, 0.1)
    found = next(found for each, _, found in metrics.distributions() if each.name == "anybroker.delivery.latency")
    assert found.total == pytest.approx(120 + 120 + 7320, abs=10)


def test_only_what_was_handled_has_a_latency_and_only_an_event_with_a_time() -> None:
    metrics = Metrics()
    told = attached(metrics)
    told.finished(delivery(), "dead_lettered", ValueError(), 0.1)
    without = delivery()
    del without.event._attributes["time"]
    told.finished(without, "handled", None, 0.1)
    foreign: Any = SimpleNamespace(event=Foreign(b""), topic="orders", group="g")
    told.finished(foreign, "dead_lettered", ValueError(), 0.1)
    assert counts(metrics, "anybroker.delivery.latency") == {GROUP: 0}
    assert (*GROUP, "process", None, "dead_lettered", "ValueError") in counts(metrics, "messaging.process.duration")


# -------------------------------------------------------------------------------------------------------- cardinality


def test_event_types_beyond_a_hundred_of_a_topic_are_other() -> None:
    metrics = Metrics()
    told = attached(metrics)
    for number in range(300):
        told.finished(delivery(f"t{number}"), "handled", None, 0.1)
    for number in range(300):  # the known ones keep their series
        told.finished(delivery(f"t{number}"), "handled", None, 0.1)
    told.finished(delivery("t299", topic="parcels"), "handled", None, 0.1)
    found = counts(metrics, "messaging.process.duration")
    assert len(found) == 102
    assert found[*GROUP, "process", "other", "handled", None] == 400
    assert found[*GROUP, "process", "t99", "handled", None] == 2
    assert found["memory", "parcels", "g", "process", "t299", "handled", None] == 1
    assert len(told._starts) == 101  # nothing is kept of the others


def test_what_others_write_is_cut_and_made_printable() -> None:
    metrics = Metrics()
    told = attached(metrics)
    for number in range(150):
        told.finished(delivery(f"{'t' * 200}{number}"), "handled", None, 0.1)
    told.finished(delivery("a\u202eb"), "handled", None, 0.1)
    types = {attributes[4] for attributes in counts(metrics, "messaging.process.duration")}
    assert types == {"t" * 100, "a\\u202eb"}
    assert len(told._starts) == 0


def test_classes_of_errors_beyond_a_hundred_are_other() -> None:
    metrics = Metrics()
    told = attached(metrics)
    for number in range(300):
        error = type(f"Error{number}", (Exception,), {})()
        told.finished(delivery(), "retried", error, 0.1)
    found = counts(metrics, "messaging.process.duration")
    assert len(found) == 101
    assert found[*GROUP, "process", "t", "retried", "_OTHER"] == 200


# --------------------------------------------------------------------------------------------------------- publishing


def test_a_publish_that_fails_has_its_error() -> None:
    metrics = Metrics()
    told = attached(metrics)
    outbound = Outbound(Event.create(b"", type="t", source="s"), "orders")
    told.published(outbound, RECEIPT, 0.1)
    told.published(outbound, Rejected("no"), 0.1)
    told.published(outbound, Rejected("no"), 0.1)
    assert numbers(metrics, "messaging.client.sent.messages") == {
        ("memory", "orders", "send", None): 1,
        ("memory", "orders", "send", "Rejected"): 2,
    }
    assert counts(metrics, "messaging.client.operation.duration") == {
        ("memory", "orders", "send", "send", None): 1,
        ("memory", "orders", "send", "send", "Rejected"): 2,
    }


def test_copies_to_one_group_are_left_out() -> None:
    metrics = Metrics()
    copy = Outbound(Event.create(b"", type="t", source="s"), "orders", "g", hop="release|1")
    attached(metrics).published(copy, RECEIPT, 0.1)
    assert numbers(metrics, "messaging.client.sent.messages") == {}


# ------------------------------------------------------------------------------------------------ what the broker says


def test_what_the_broker_said_is_shown_for_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(module, "monotonic", lambda: now)
    metrics = Metrics()
    told = attached(metrics)
    told.lag("orders", "g", Backlog(3, 2))
    told.depth("orders", "g", 7)
    now += 59
    assert numbers(metrics, "anybroker.lag.events") == {GROUP: 5}
    assert numbers(metrics, "anybroker.dead_letters.depth") == {GROUP: 7}
    assert numbers(metrics, "anybroker.lag.age") == {}
    now += 2
    assert numbers(metrics, "anybroker.lag.events") == numbers(metrics, "anybroker.dead_letters.depth") == {}


def test_the_age_is_shown_where_the_broker_knows_it() -> None:
    metrics = Metrics()
    backlog: Any = SimpleNamespace(lag=5, age=12.5)
    attached(metrics).lag("orders", "g", backlog)
    assert numbers(metrics, "anybroker.lag.age") == {GROUP: 12.5}


# ------------------------------------------------------------------------------------------------------------- states


def test_a_start_that_is_taken_back_does_not_make_the_counter_fall() -> None:
    """Prometheus would take a counter that falls for one that began anew, and add all of it once more."""
    subscription = subscribed()
    metrics = Metrics()
    attached(metrics, FakeBus(subscription))
    shown = []
    for started in (5, 4, 5, 6):
        subscription.stats.started = started
        shown.append(numbers(metrics, "anybroker.starts")[GROUP])
    assert shown == [5, 5, 5, 6]


def test_a_problem_is_1_while_it_is_there() -> None:
    bus = FakeBus()
    metrics = Metrics()
    attached(metrics, bus)
    assert numbers(metrics, "anybroker.problem") == {}
    bus.problems = {"orders/g": "down"}
    assert numbers(metrics, "anybroker.problem") == {("memory", "orders/g"): 1}


@pytest.mark.parametrize("ready", [True, False])
def test_ready_is_what_the_health_of_the_bus_says(ready: bool) -> None:
    bus = FakeBus()
    bus.ready = ready
    bus.problems = {"orders/g": "a stuck event"}
    metrics = Metrics()
    attached(metrics, bus)
    assert numbers(metrics, "anybroker.ready") == {("memory",): int(ready)}


def test_before_the_start_a_bus_is_not_ready() -> None:
    """A Bus whose broker is away has no adapter yet, and may be asked already."""
    metrics = Metrics()
    attached(metrics, Bus(MemoryBroker(), source="shop"))
    assert numbers(metrics, "anybroker.ready") == {(None,): 0}


def test_two_buses_with_the_same_group_are_one_series() -> None:
    """Counts are added; of other numbers the worse one is shown."""
    one, other = subscribed(running=1, unfinished_age=3.0), subscribed(running=2)
    one.stats.acked = other.stats.acked = 1
    one.stats.retried, other.stats.retried = 2, 3
    sick = FakeBus(other)
    sick.ready = False
    metrics = Metrics()
    told = [attached(metrics, FakeBus(one)), attached(metrics, sick)]
    for each in told:
        each.lag("orders", "g", Backlog(5, 0))
        each.finished(delivery(), "unhandled", None, 0.5)
    assert numbers(metrics, "anybroker.retries") == {GROUP: 5}
    assert numbers(metrics, "anybroker.handlers.running") == {GROUP: 3}
    assert numbers(metrics, "anybroker.lag.events") == {GROUP: 5}
    assert numbers(metrics, "anybroker.unfinished.age") == {GROUP: 3.0}
    assert numbers(metrics, "anybroker.ready") == {("memory",): 0}
    ((_, _, found),) = metrics.distributions()
    assert (found.count, found.total) == (2, 1.0)


# ------------------------------------------------------------------------------------------------------ on a real Bus


def test_a_bus_that_starts_again_goes_on_counting(run: Run) -> None:
    bus = Bus(MemoryBroker(), source="shop")
    metrics = Metrics()
    bus.observe(metrics)
    handled = 0

    @bus.subscribe("orders", group="g", type="t", middleware=[retry(attempts=2, first=0.0)])
    async def handle(_: Event[bytes]) -> None:
        nonlocal handled
        handled += 1
        if handled == 1:
            raise ValueError

    async def twice() -> None:
        for _ in range(2):
            async with bus:
                await bus.publish("orders", b"", type="t")
                await settled(bus)

    run(twice())
    assert numbers(metrics, "anybroker.starts") == {GROUP: 3}
    assert counts(metrics, "messaging.process.duration") == {
        (*GROUP, "process", "t", "retried", "ValueError"): 1,
        (*GROUP, "process", "t", "handled", None): 2,
    }


def test_what_is_attached_in_the_place_of_an_observer_must_be_one(run: Run) -> None:
    class Wrong(Observer):
        def attached(self, bus: Any) -> Any:
            return object()

    bus = Bus(MemoryBroker(), source="shop", consume=False)
    bus.observe(Wrong())

    async def start() -> None:
        with pytest.raises(ConfigError, match="is not an Observer"):
            await bus.start()

    run(start())


def test_another_thread_may_ask_while_series_appear() -> None:
    metrics = Metrics()
    told = attached(metrics, FakeBus(subscribed()))
    stop = threading.Event()
    failures: list[BaseException] = []

    def ask() -> None:
        try:
            while not stop.is_set():
                metrics.numbers()
                metrics.distributions()
        except BaseException as exc:  # noqa: BLE001 - it is looked at below
            failures.append(exc)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        outbound = Outbound(Event.create(b"", type="t", source="s"), "orders")
        for number in range(3000):
            outbound.topic = f"t{number}"
            told.published(outbound, RECEIPT, 0.1)
            told.lag(f"t{number}", "g", Backlog(1, 0))
            told.finished(delivery(topic=f"t{number}"), "handled", None, 0.1)
    finally:
        stop.set()
        thread.join()
    assert failures == []
    assert len(counts(metrics, "messaging.process.duration")) == 3000


def test_what_changes_size_meanwhile_is_read_again() -> None:
    """In CPython a copy of a dict is made without another thread in between; what a Bus makes up as it goes is not."""
    asked = 0

    class Changing(FakeBus):
        @property
        def problems(self) -> dict[str, str]:
            nonlocal asked
            asked += 1
            if asked < 3:
                raise RuntimeError("dictionary changed size during iteration")
            return {"relay": "down"}

        @problems.setter
        def problems(self, _: dict[str, str]) -> None: ...

    metrics = Metrics()
    attached(metrics, Changing())
    assert numbers(metrics, "anybroker.problem") == {("memory", "relay"): 1}


@pytest.fixture
def run() -> Run:
    """Runs a coroutine to its end."""
    return asyncio.run


def test_counters_are_those_of_the_table() -> None:
    assert {each.kind for each, _ in module._COUNTED} == {"counter"}
    assert by_name("anybroker.starts") in dict(module._COUNTED)


@pytest.mark.parametrize("moment", ["2016-12-31T23:59:60.123456Z", "2016-12-31T23:59:60Z", "2016-12-31t23:59:60.5z"])
def test_a_leap_second_has_a_latency(moment: str) -> None:
    metrics = Metrics()
    attached(metrics).finished(delivery(time=moment), "handled", None, 0.1)
    assert counts(metrics, "anybroker.delivery.latency") == {GROUP: 1}
