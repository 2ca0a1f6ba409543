"""An order, and what handlers of it are tested with."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from anybroker import Bus, event_type
from anybroker.testing import settled


@event_type("order.placed.v1")
class Placed(BaseModel):
    order_id: str
    cents: int


PLACED = Placed(order_id="o-1", cents=999)


async def handle(bus: Bus, *payloads: Any, **options: Any) -> list[Any]:
    """Publishes to "orders", waits until all is done; the dead letters of "billing"."""
    async with bus:
        for payload in payloads:
            await bus.publish("orders", payload, **options)
        await settled(bus)
        count = bus.subscriptions[0].stats.dead_lettered
        return await bus.dead_letters("orders", "billing").list(count) if count else []
