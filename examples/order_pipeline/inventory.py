"""Inventory: sets stock aside for an order, and puts it back when the order comes to nothing."""

from __future__ import annotations

from anybroker.middleware import dead_letter, retry

from .database import database
from .events import OrderCancelled, OrderPlaced, PaymentDeclined, StockReserved
from .shop import ORDERS, OUTCOMES, PAYMENTS, STOCK, service

bus = service("inventory")
shelf = database("inventory", "reservation (order_id TEXT PRIMARY KEY, cds INTEGER, released INTEGER DEFAULT 0)")


@bus.subscribe(ORDERS, group="inventory")
@dead_letter()
@retry(attempts=5, first=0.05)
async def reserve(order: OrderPlaced) -> None:
    """An event whose data are no OrderPlaced never gets here: it goes to the dead letters, with the reason."""
    shelf.execute(
        "INSERT INTO reservation (order_id, cds) VALUES (?, ?) ON CONFLICT DO NOTHING", (order.order_id, order.cds)
    )
    await bus.publish(STOCK, StockReserved(**dict(order)))


@bus.subscribe(PAYMENTS, group="inventory")
@dead_letter()
@retry(attempts=5, first=0.05)
async def release(declined: PaymentDeclined) -> None:
    """The compensation. Of the topic's two types of event this group handles one; the other is skipped."""
    shelf.execute("UPDATE reservation SET released = 1 WHERE order_id = ?", (declined.order_id,))
    await bus.publish(OUTCOMES, OrderCancelled(**dict(declined)))


if __name__ == "__main__":
    bus.run()
