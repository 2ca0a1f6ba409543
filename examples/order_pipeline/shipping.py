"""Shipping: sends what is paid for."""

from __future__ import annotations

from anybroker.idempotency import SqliteTransaction
from anybroker.middleware import dead_letter, idempotent, retry

from .database import books
from .events import OrderShipped, PaymentTaken
from .shop import OUTCOMES, PAYMENTS, service

bus = service("shipping")
store = books("shipping", "parcel (order_id TEXT, cds INTEGER)")
outcomes = bus.topic(OUTCOMES, OrderShipped)


@bus.subscribe(PAYMENTS, group="shipping")
@dead_letter()
@retry(attempts=5)
@idempotent(store)
async def ship(order: PaymentTaken, transaction: SqliteTransaction) -> None:
    """One parcel for each payment."""
    await transaction.execute("INSERT INTO parcel VALUES (?, ?)", (order.order_id, order.cds))
    await outcomes.publish(OrderShipped(**dict(order)))


if __name__ == "__main__":
    bus.run()
