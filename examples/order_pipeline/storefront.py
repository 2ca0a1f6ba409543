"""Storefront: takes the orders, and tells the customers what became of them."""

from __future__ import annotations

import asyncio

from anybroker.middleware import dead_letter, retry

from .customers import customers
from .database import database
from .events import OrderCancelled, OrderPlaced, OrderShipped
from .shop import ORDERS, OUTCOMES, service
from .signals import until_terminated

bus = service("storefront")
orders = bus.topic(ORDERS, OrderPlaced)
outcomes = bus.subscription(OUTCOMES, group="storefront")
letters = database("storefront", "letter (order_id TEXT, outcome TEXT, PRIMARY KEY (order_id, outcome))")


async def place(order: OrderPlaced) -> None:
    """Returns when the order is durably stored. The event has the order's number as its id: placed again after an
    unknown outcome, it is the same event, and is handled once."""
    await orders.publish(order, id=order.order_id)


@outcomes.on
@dead_letter()
@retry(attempts=5)
async def shipped(order: OrderShipped) -> None:
    """One handler for each type of event."""
    tell(order.order_id, "shipped")


@outcomes.on
@dead_letter()
@retry(attempts=5)
async def cancelled(order: OrderCancelled) -> None:
    """The reason is the bank's."""
    tell(order.order_id, "cancelled")


def tell(order_id: str, outcome: str) -> None:
    """Write to the customer; a letter that was written already is not written again."""
    letters.execute("INSERT INTO letter VALUES (?, ?) ON CONFLICT DO NOTHING", (order_id, outcome))


async def sell() -> None:
    """Serve the customers as they come. Orders of one customer stay in the order in which they were placed."""
    async with asyncio.TaskGroup() as checkouts:
        async for order in customers():
            checkouts.create_task(place(order))


async def main() -> None:
    """Sell, and stay for the outcomes until SIGTERM."""
    async with bus:
        await sell()
        await until_terminated()


if __name__ == "__main__":
    asyncio.run(main())
