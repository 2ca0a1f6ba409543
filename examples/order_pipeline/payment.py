"""Payment: charges the customer's card."""

from __future__ import annotations

from anybroker.middleware import dead_letter, retry

from .bank import Bank, CardDeclined
from .events import PaymentDeclined, PaymentTaken, StockReserved
from .shop import PAYMENTS, STOCK, service

bus = service("payment")
bus.provide(Bank, Bank)  # made once, when the Bus starts; handlers ask for it by type
payments = bus.topic(PAYMENTS, PaymentTaken | PaymentDeclined)


@bus.subscribe(STOCK, group="payment")
@dead_letter()
@retry(attempts=5, first=0.05)
async def charge(order: StockReserved, bank: Bank) -> None:
    """A failure of the bank's line is retried, and the customer's next orders wait; a declined card is an answer."""
    try:
        # At least once is what any broker can promise, and the bank's books are not ours: the same key each time is
        # what makes it charge once, even if this process dies before it hears the answer.
        await bank.charge(key=order.order_id, cents=order.cents)
    except CardDeclined as answer:
        await payments.publish(PaymentDeclined(**dict(order), reason=str(answer)))
    else:
        await payments.publish(PaymentTaken(**dict(order)))


if __name__ == "__main__":
    bus.run()
