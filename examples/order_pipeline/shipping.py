"""Shipping: sends what is paid for."""

from __future__ import annotations

from anybroker.middleware import dead_letter, retry

from .database import database
from .events import OrderShipped, PaymentTaken
from .shop import OUTCOMES, PAYMENTS, service

bus = service("shipping")
parcels = database("shipping", "parcel (order_id TEXT PRIMARY KEY, cds INTEGER)")


@bus.subscribe(PAYMENTS, group="shipping")
@dead_letter()
@retry(attempts=5, first=0.05)
async def ship(order: PaymentTaken) -> None:
    """Hand over one parcel."""
    parcels.execute("INSERT INTO parcel VALUES (?, ?) ON CONFLICT DO NOTHING", (order.order_id, order.cds))
    await bus.publish(OUTCOMES, OrderShipped(**dict(order)))


if __name__ == "__main__":
    bus.run()
