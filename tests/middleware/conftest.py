"""What the tests of the middleware share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest

from anybroker import Bus, MemoryBroker
from anybroker.testing import settled


@pytest.fixture
def run() -> Iterator[Callable[[Coroutine[Any, Any, Any]], Any]]:
    """Runs a coroutine to its end."""
    with asyncio.Runner() as runner:
        yield runner.run


@pytest.fixture
def bus() -> Bus:
    """A Bus on a broker of its own, in memory."""
    return Bus(MemoryBroker(), source="shop")


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
def until() -> Callable[[Callable[[], object]], Coroutine[Any, Any, None]]:
    """Waits until a condition holds, 10 seconds at most."""

    async def wait(condition: Callable[[], object]) -> None:
        loop = asyncio.get_running_loop()
        end = loop.time() + 10.0
        while True:
            if condition():
                return
            assert loop.time() < end, "it did not happen"
            await asyncio.sleep(0.001)

    return wait
