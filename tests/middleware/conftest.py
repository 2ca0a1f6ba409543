"""What the tests of the middleware share."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

import pytest

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
