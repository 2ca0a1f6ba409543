"""What the services tell each other. The class is the payload, its event type is the contract, the customer its key."""

from __future__ import annotations

from pydantic import BaseModel

from anybroker import event_type


class Order(BaseModel):
    """What every event of an order carries. Money is in whole cents."""

    order_id: str
    customer: str
    cds: int
    cents: int


@event_type("com.example.order.placed.v1", key="customer")
class OrderPlaced(Order):
    """A customer bought something."""


@event_type("com.example.stock.reserved.v1", key="customer")
class StockReserved(Order):
    """The CDs are set aside for the order."""


@event_type("com.example.payment.taken.v1", key="customer")
class PaymentTaken(Order):
    """The card was charged."""


@event_type("com.example.payment.declined.v1", key="customer")
class PaymentDeclined(Order):
    """The card was not charged: what was done for the order must be undone."""

    reason: str


@event_type("com.example.order.shipped.v1", key="customer")
class OrderShipped(Order):
    """The order succeeded."""


@event_type("com.example.order.cancelled.v1", key="customer")
class OrderCancelled(Order):
    """The order failed: the stock is released, and no money was taken."""

    reason: str
