"""What goes wrong between the storefront and the broker, as a middleware of the publish side."""

from __future__ import annotations

from anybroker import Event, Receipt
from anybroker.middleware import Outgoing, PublishHandler, publish_middleware

from . import history
from .plan import plan

__all__ = ["POISON", "lost_confirmation"]

POISON = {"order_id": "?", "customer": "?", "cds": "a few", "cents": "twelve dollars"}
"""Valid JSON, and no order."""


@publish_middleware
async def lost_confirmation(outgoing: Outgoing, call_next: PublishHandler) -> Receipt:
    """Publishes some orders twice under one id, as who never heard the confirmation would; and garbles one."""
    order = outgoing.event.id
    if outgoing.event.type != "com.example.order.placed.v1":
        return await call_next(outgoing)
    history.write("placed", service="storefront", order=order, customer=outgoing.event.key or "")
    if order == plan().poison:
        outgoing.event = _garbled(outgoing.event)
    receipt = await call_next(outgoing)
    if order in plan().copied:
        again = await call_next(outgoing)
        history.write("copy", service="storefront", order=order, note="dropped by the broker" if again.duplicate else "")
    return receipt


def _garbled(event: Event) -> Event:
    return event.replace(data=POISON)
