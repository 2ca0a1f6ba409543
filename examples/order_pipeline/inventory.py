"""Inventory: sets stock aside for an order, and puts it back if the order fails."""

from __future__ import annotations

from anybroker.idempotency import SqliteTransaction
from anybroker.middleware import dead_letter, idempotent, retry

from .database import books
from .events import OrderCancelled, OrderPlaced, PaymentDeclined, StockReserved
from .shop import ORDERS, OUTCOMES, PAYMENTS, STOCK, about, service

bus = service("inventory")
store = books("inventory", "movement (cds INTEGER)")
stock = bus.topic(STOCK, StockReserved)
outcomes = bus.topic(OUTCOMES, OrderCancelled)


@bus.subscribe(ORDERS, group="inventory")
@dead_letter()
@retry(attempts=5)
@idempotent(store, key=about)
async def reserve(order: OrderPlaced, transaction: SqliteTransaction) -> None:
    """An event whose data is not an order never gets here: it is dead-lettered at once, with the reason."""
    # Brokers deliver at least once. This INSERT still happens only once, because it is committed together with a mark.
    # If the handler starts again, it skips what is marked and publishes the same event under the same id, which the
    # next service recognises.
    await transaction.execute("INSERT INTO movement VALUES (?)", (-order.cds,))
    await stock.publish(StockReserved(**dict(order)))


@bus.subscribe(PAYMENTS, group="inventory")
@dead_letter()
@retry(attempts=5)
@idempotent(store)
async def release(declined: PaymentDeclined, transaction: SqliteTransaction) -> None:
    """The compensation. The topic carries two types of event; this group handles one of them and skips the other."""
    await transaction.execute("INSERT INTO movement VALUES (?)", (declined.cds,))
    await outcomes.publish(OrderCancelled(**dict(declined)))


if __name__ == "__main__":
    bus.run()
