"""The metrics through OpenTelemetry's API."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from opentelemetry import metrics as api
from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from anybroker import Bus, MemoryBroker, Observer
from anybroker.engine.observing import Observers
from anybroker.observe import OpenTelemetryMetrics
from anybroker.observe.instruments import INSTRUMENTS
from anybroker.stats import PublishStats


def a_bus() -> Any:
    capabilities = SimpleNamespace(adapter="memory")
    adapter = SimpleNamespace(capabilities=capabilities)
    return SimpleNamespace(adapter=adapter, stats=PublishStats(), subscriptions=(), problems={}, state="started")


@pytest.mark.parametrize("provider", [None, NoOpMeterProvider()])
def test_without_an_sdk_nothing_is_told(provider: Any) -> None:
    told = OpenTelemetryMetrics(provider).attached(a_bus())
    observers = Observers([told])
    assert type(told) is Observer
    assert [name for name in Observers.__slots__ if getattr(observers, name) is not None] == []


def test_an_sdk_that_is_set_up_before_the_start_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one that is set up after ``bus.observe``."""
    reader = InMemoryMetricReader()
    bus = Bus(MemoryBroker(), source="shop", consume=False)
    bus.observe(OpenTelemetryMetrics())
    monkeypatch.setattr(api._internal, "_METER_PROVIDER", MeterProvider([reader]))

    async def publish() -> None:
        async with bus:
            await bus.publish("orders", b"", type="t")

    asyncio.run(publish())
    data = reader.get_metrics_data()
    assert data is not None
    (scope,) = data.resource_metrics[0].scope_metrics
    assert scope.scope.name == "anybroker"
    assert {"messaging.client.sent.messages", "anybroker.ready"} <= {each.name for each in scope.metrics}


def test_instruments_are_made_once() -> None:
    """For several Buses, and for a Bus that starts again."""
    made: list[str] = []

    class Meter:
        def create_histogram(self, name: str, unit: str, description: str, **advice: Any) -> Any:
            made.append(name)

        def create_observable_counter(self, name: str, *_: object) -> None:
            made.append(name)

        create_observable_gauge = create_observable_counter

    provider: Any = SimpleNamespace(get_meter=lambda _: Meter())
    metrics = OpenTelemetryMetrics(provider)
    bus = a_bus()
    first = metrics.attached(bus)
    assert metrics.attached(bus) is first
    assert metrics.attached(a_bus()) is not first
    assert made == [each.name for each in INSTRUMENTS]


def test_an_api_that_takes_no_advice_on_buckets_will_do() -> None:
    class Meter:
        def create_histogram(self, name: str, unit: str, description: str) -> str:
            return name

        def create_observable_counter(self, *_: object) -> None: ...

        create_observable_gauge = create_observable_counter

    metrics = OpenTelemetryMetrics(SimpleNamespace(get_meter=lambda _: Meter()))  # type: ignore[arg-type] # a fake
    metrics.attached(a_bus())
    assert {each.name for each in metrics._histograms} == set(metrics._histograms.values())
