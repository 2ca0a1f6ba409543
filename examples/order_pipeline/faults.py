"""What goes wrong before the broker has an order, as a publish middleware."""

from __future__ import annotations

from anybroker import Receipt
from anybroker.event import declared_type
from anybroker.middleware import Outgoing, PublishHandler, publish_middleware

from . import history
from .events import OrderPlaced
from .plan import plan

__all__ = ["POISON", "clumsy_customers"]

POISON = {"order_id": "?", "customer": "?", "cds": "a few", "cents": "twelve dollars"}
"""Valid JSON, but not an order."""


@publish_middleware
async def clumsy_customers(outgoing: Outgoing, call_next: PublishHandler) -> Receipt:
    """Of the events that the storefront publishes: garbles one, and publishes some twice."""
    event = outgoing.event
    if event.type != declared_type(OrderPlaced):
        return await call_next(outgoing)
    order = event.id
    history.write("placed", service="storefront", order=order, customer=event.key or "")
    if order == plan().poison:
        outgoing.event = event.replace(data=POISON)
    receipt = await call_next(outgoing)
    if order in plan().copied:  # as who never heard the confirmation would: the same event
        again = await call_next(outgoing)
        # Some brokers say that they had it already; others only by giving the first one's name again.
        note = "dropped by the broker" if again.duplicate or again.broker_id == receipt.broker_id else ""
        history.write("copy", service="storefront", order=order, note=note)
    if order in plan().clicked:  # another event for the same order
        outgoing.event = event.replace(id=f"{order}.2")
        await call_next(outgoing)
        history.write("click", service="storefront", order=order)
    return receipt
