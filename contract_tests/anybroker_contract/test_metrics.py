"""metrics: the same names, labels and values on every broker, for Prometheus and for OpenTelemetry."""

from __future__ import annotations

from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import HistogramDataPoint, InMemoryMetricReader, NumberDataPoint
from prometheus_client.parser import text_string_to_metric_families

from anybroker import Bus, Delivery
from anybroker.adapter import Foreign
from anybroker.engine import lag
from anybroker.engine.observing import Observers
from anybroker.idempotency import Claim, MemoryStore
from anybroker.middleware import idempotent, retry
from anybroker.names import dead_letter_topic
from anybroker.observe import OpenTelemetryMetrics, PrometheusMetrics
from anybroker.observe.instruments import INSTRUMENTS, Instrument, by_name

from ._kit import TYPE, Kit
from ._waiting import eventually
from .marks import requires

Labels = tuple[tuple[str, str], ...]
Values = dict[tuple[str, Labels], float]
"""By the name in OpenTelemetry and the labels that are not empty. Of a histogram: how many values it has."""

OTHER = "com.example.contract.other.v1"


def labels(**given: str) -> Labels:
    """As they are compared."""
    return tuple(sorted(given.items()))


def exposed(metrics: PrometheusMetrics) -> Values:
    """What a scrape shows."""
    text, content_type = metrics.exposition()
    assert content_type.startswith("text/plain")
    shown = {_sample(instrument): instrument.name for instrument in INSTRUMENTS}
    found: Values = {}
    buckets: dict[tuple[str, Labels], list[float]] = {}
    for family in text_string_to_metric_families(text.decode()):
        for sample in family.samples:
            kept = {name: value for name, value in sample.labels.items() if value and name != "le"}
            place = shown.get(sample.name, sample.name), labels(**kept)
            if sample.name in shown:
                assert place not in found, "a series is there twice"
                found[place] = sample.value
            elif sample.name.endswith("_bucket"):
                buckets.setdefault((sample.name.removesuffix("_bucket"), place[1]), []).append(sample.value)
            else:
                assert sample.name.endswith("_sum"), sample.name
    for (name, of), counts in buckets.items():
        assert counts == sorted(counts)
        assert counts[-1] == found[shown[f"{name}_count"], of]
    return found


def _sample(instrument: Instrument) -> str:
    return instrument.prometheus + ("_count" if instrument.kind == "histogram" else "")


def collected(reader: InMemoryMetricReader) -> Values:
    """What an OpenTelemetry SDK has."""
    data = reader.get_metrics_data()
    assert data is not None
    found: Values = {}
    for metric in (one for each in data.resource_metrics for scope in each.scope_metrics for one in scope.metrics):
        assert metric.unit == by_name(metric.name).unit
        for point in metric.data.data_points:
            kept = {name.replace(".", "_"): str(value) for name, value in (point.attributes or {}).items()}
            if isinstance(point, HistogramDataPoint):
                assert tuple(point.explicit_bounds) == by_name(metric.name).bounds
                found[metric.name, labels(**kept)] = point.count
            else:
                assert isinstance(point, NumberDataPoint)
                found[metric.name, labels(**kept)] = point.value
    return found


class Measured:
    """A Bus that is measured in both ways."""

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self.prometheus = PrometheusMetrics()
        self.reader = InMemoryMetricReader()
        bus.observe(self.prometheus)
        bus.observe(OpenTelemetryMetrics(MeterProvider([self.reader])))

    def values(self) -> Values:
        """What both show."""
        found = exposed(self.prometheus)
        assert collected(self.reader) == found
        return found


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """The broker is asked for the lag more often than every 15 seconds."""
    monkeypatch.setattr(lag, "EVERY", 0.1)


async def settled(kit: Kit, measured: Measured, expected: Values) -> None:
    """Return when exactly these values are shown."""

    async def shown() -> bool:
        # One after the other: while an event is unfinished, its age differs between the two.
        return exposed(measured.prometheus) == expected and collected(measured.reader) == expected

    try:
        await eventually(shown, kit.patience, "the metrics")
    except AssertionError:
        assert measured.values() == expected
        raise


@pytest.mark.usefixtures("often")
async def test_what_happened_is_shown_by_name_label_and_value(kit: Kit) -> None:
    """Ten events, one of which fails for good, a copy, an event of a type that nobody takes and a message that is no
    event: each metric has the same name, labels and value on every broker, in both exports."""
    topic = kit.topic()
    dead = dead_letter_topic(topic, "g")
    store = MemoryStore()
    copy = await store.claim(("g", "contract", "contract", "w-10"), "another", 60.0, 60.0)
    assert isinstance(copy, Claim)
    assert await store.done(copy)

    async def on(delivery: Delivery) -> None:
        if delivery.event.id == "w-3":
            raise ValueError("bad")

    bus = kit.bus()
    log = kit.log()
    subscription = bus.subscription(topic, group="g")
    subscription.on(
        log.handler("", on), type=TYPE, name="contract", middleware=[retry(attempts=2, first=0.0), idempotent(store)]
    )
    measured = Measured(bus)
    async with bus:
        await kit.send_foreign(topic, ["g"], Foreign(b"\x00\xff no event"))
        await kit.publish(bus, topic, 11, keys=3)
        await bus.publish(topic, {"n": 0}, type=OTHER)
        await log.wait_done(f"w-{number}" for number in range(10) if number != 3)
        expected = _of_the_run(kit, measured, topic, dead)
        await settled(kit, measured, expected)
        lanes = "anybroker.lanes.held"
        assert [value for (name, _), value in expected.items() if name == lanes] == [subscription.held_lanes]
        assert subscription.held_lanes >= 1
    ready = measured.values()["anybroker.ready", labels(messaging_system=_system(kit))]
    assert ready == 0
    assert measured.values()["anybroker.dead_letters", _of(kit, topic)] == 2


def _system(kit: Kit) -> str:
    return kit.capabilities.system


def _of(kit: Kit, topic: str, **more: str) -> Labels:
    named = {"messaging_destination_name": topic, "messaging_consumer_group_name": "g"}
    return labels(messaging_system=_system(kit), **named, **more)


def _of_the_run(kit: Kit, measured: Measured, topic: str, dead: str) -> Values:
    """What is expected once all is handled."""
    system = _system(kit)

    def sent(to: str, **more: str) -> Labels:
        return labels(messaging_system=system, messaging_destination_name=to, messaging_operation_name="send", **more)

    def process(outcome: str, **more: str) -> Labels:
        return _of(kit, topic, messaging_operation_name="process", anybroker_outcome=outcome, **more)

    of_group = {
        "anybroker.delivery.latency": 10,
        "anybroker.handlers.running": 0,
        "anybroker.deliveries.buffered": 0,
        "anybroker.unfinished.age": 0,
        "anybroker.dead_letters": 2,
        "anybroker.starts": 13,  # 13 deliveries and a second start, without the copy
        "anybroker.retries": 1,
        "anybroker.duplicates.suppressed": 1,
        "anybroker.unhandled": 1,
        "anybroker.foreign": 1,
        "anybroker.lanes.held": measured.bus.subscriptions[0].held_lanes,
        "anybroker.leases.lost": 0,
        "anybroker.retries.slowed": 0,
        "anybroker.expired": 0,
        "anybroker.parked": 0,
        "anybroker.circuits.opened": 0,
        "anybroker.deliveries.waiting": 0,
        "anybroker.reconnects": 0,
    }
    if kit.capabilities.backlog:
        of_group["anybroker.lag.events"] = 0
        if "depth" in Observers.__slots__:
            of_group["anybroker.dead_letters.depth"] = 2
    if getattr(kit.capabilities, "backlog_age", None):
        of_group["anybroker.lag.age"] = 0
    failed = {"cloudevents_event_type": TYPE, "error_type": "ValueError"}
    return {
        **{(name, _of(kit, topic)): value for name, value in of_group.items()},
        ("messaging.client.sent.messages", sent(topic)): 12,
        ("messaging.client.sent.messages", sent(dead)): 2,
        ("messaging.client.operation.duration", sent(topic, messaging_operation_type="send")): 12,
        ("messaging.client.operation.duration", sent(dead, messaging_operation_type="send")): 2,
        ("messaging.client.consumed.messages", _of(kit, topic, messaging_operation_name="receive")): 13,
        ("messaging.process.duration", process("handled", cloudevents_event_type=TYPE)): 10,
        ("messaging.process.duration", process("retried", **failed)): 1,
        ("messaging.process.duration", process("dead_lettered", **failed)): 1,
        ("messaging.process.duration", process("dead_lettered", error_type="InvalidEvent")): 1,
        ("messaging.process.duration", process("unhandled", cloudevents_event_type=OTHER)): 1,
        ("anybroker.publish.unknown", labels(messaging_system=system)): 0,
        ("anybroker.ready", labels(messaging_system=system)): 1,
    }


@requires("backlog")
@pytest.mark.usefixtures("often")
async def test_what_waits_is_shown_while_nothing_is_handled(kit: Kit) -> None:
    """The lag of a group whose member is paused is what was published; after it has gone on it is 0."""
    topic = kit.topic()
    bus = kit.bus()
    log = kit.subscribe(bus, topic)
    measured = Measured(bus)
    bus.subscriptions[0].pause()

    async def waits(count: int) -> None:
        async def shown() -> bool:
            return measured.values().get(("anybroker.lag.events", _of(kit, topic))) == count

        await eventually(shown, kit.patience, f"a lag of {count}")

    async with bus:
        await kit.publish(bus, topic, 5)
        await waits(5)
        bus.subscriptions[0].resume()
        await log.wait_done(f"w-{number}" for number in range(5))
        await waits(0)


async def test_a_bus_that_starts_again_goes_on_counting(kit: Kit) -> None:
    """Counters survive the close of a Bus, and its next start."""
    topic = kit.topic()
    bus = kit.bus()
    log = kit.subscribe(bus, topic)
    measured = Measured(bus)
    for first in (0, 3):
        async with bus:
            await kit.publish(bus, topic, 3, first=first)
            await log.wait_done(f"w-{number}" for number in range(first, first + 3))
            await kit.drained(bus, topic)
    values = measured.values()
    place: Any = _of(kit, topic)
    assert values["anybroker.starts", place] == values["anybroker.delivery.latency", place] == 6
