"""Storefront: takes the orders, and tells the customers how they ended."""

from __future__ import annotations

import asyncio

from anybroker.idempotency import SqliteTransaction
from anybroker.middleware import dead_letter, idempotent, retry

from .customers import customers
from .database import books
from .events import OrderCancelled, OrderPlaced, OrderShipped
from .shop import ORDERS, OUTCOMES, service

bus = service("storefront")
store = books("storefront", "letter (order_id TEXT, outcome TEXT)")
orders = bus.topic(ORDERS, OrderPlaced)
outcomes = bus.subscription(OUTCOMES, group="storefront")

LETTER = "INSERT INTO letter VALUES (?, ?)"


async def place(order: OrderPlaced) -> None:
    """Returns when the order is durably stored. Its number is the event's id, so that it is the same event if it must
    be placed again because its outcome is unknown. It is also the subject, by which inventory knows it."""
    await orders.publish(order, id=order.order_id, subject=order.order_id)


async def sell() -> None:
    """Serve the customers as they come. Orders of one customer stay in the order in which they were placed."""
    async with asyncio.TaskGroup() as checkouts:
        async for order in customers():
            checkouts.create_task(place(order))


@outcomes.on  # one group, a handler for each type of event
@dead_letter()
@retry(attempts=5)
@idempotent(store)
async def shipped(order: OrderShipped, transaction: SqliteTransaction) -> None:
    """Write to the customer."""
    await transaction.execute(LETTER, (order.order_id, "shipped"))


@outcomes.on
@dead_letter()
@retry(attempts=5)
@idempotent(store)
async def cancelled(order: OrderCancelled, transaction: SqliteTransaction) -> None:
    """Write to the customer."""
    await transaction.execute(LETTER, (order.order_id, "cancelled"))


if __name__ == "__main__":
    bus.run(sell)  # sell, and stay for the outcomes until SIGTERM
