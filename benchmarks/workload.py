"""The workload of all benchmarks: typed orders keyed by customer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from datetime import UTC, datetime
from uuid import uuid4

from pydantic import BaseModel

from anybroker import Bus, Event, event_type

__all__ = ["IN_FLIGHT", "TYPE", "OrderPlaced", "bare_attributes", "consume_with_bus", "in_flight", "orders", "total"]

IN_FLIGHT = 256
KEYS = 1_000
TYPE = "com.example.order.placed.v1"


@event_type(TYPE)
class OrderPlaced(BaseModel):
    """The payload."""

    order_id: str
    customer: str
    cents: int


def orders(count: int) -> list[OrderPlaced]:
    """This many orders of 1,000 customers."""
    return [OrderPlaced(order_id=f"o-{n}", customer=f"c-{n % KEYS}", cents=n % 10_000) for n in range(count)]


def total(count: int) -> int:
    """The cents of this many orders, which a handler must have added up."""
    return sum(n % 10_000 for n in range(count))


async def in_flight(items: Iterable[OrderPlaced], publish: Callable[[OrderPlaced], Awaitable[object]]) -> None:
    """Publish all, 256 at a time."""
    source = iter(items)

    async def one() -> None:
        for item in source:
            await publish(item)

    await asyncio.gather(*(one() for _ in range(IN_FLIGHT)))


def bare_attributes(order: OrderPlaced) -> dict[str, str]:
    """What a program without a library writes: the same CloudEvents attributes."""
    return {
        "specversion": "1.0",
        "id": str(uuid4()),
        "source": "bench",
        "type": TYPE,
        "time": datetime.now(UTC).isoformat(),
        "partitionkey": order.customer,
    }


async def consume_with_bus(bus: Bus, topic: str, count: int, clock: Callable[[], float]) -> float:
    """Start the Bus and handle ``count`` events of the group ``billing``: seconds from the first to the last."""
    done = asyncio.Event()
    cents = seen = 0
    begun = ended = 0.0

    @bus.subscribe(topic, group="billing", max_in_flight=IN_FLIGHT)
    async def charge(order: OrderPlaced, event: Event) -> None:
        nonlocal cents, seen, begun, ended
        if not seen:
            begun = clock()
        cents += order.cents
        seen += 1
        if seen == count:
            ended = clock()
            done.set()

    async with bus:
        await done.wait()
    if cents != total(count):
        raise AssertionError(f"handled {cents} cents, not {total(count)}")
    return ended - begun
