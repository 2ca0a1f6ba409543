"""What the tests of the middleware share."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from anybroker import Bus
from anybroker.testing import settled


@pytest.fixture
def handled() -> Callable[..., Coroutine[Any, Any, list[Any]]]:
    """Publishes payloads to "orders" on a Bus, waits until all is done, and returns the dead letters of "billing"."""

    async def handle(bus: Bus, *payloads: Any, **options: Any) -> list[Any]:
        async with bus:
            for payload in payloads:
                await bus.publish("orders", payload, type="order.v1", **options)
            await settled(bus)
            count = sum(subscription.stats.dead_lettered for subscription in bus.subscriptions)
            return await bus.dead_letters("orders", "billing").list(count) if count else []

    return handle


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    """An SDK for this test only: the API keeps the first provider of a process forever."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
    yield exporter
    provider.shutdown()
