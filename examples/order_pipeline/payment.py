"""Payment: charges the customer's card."""

from __future__ import annotations

from anybroker.middleware import dead_letter, idempotent, retry

from .bank import Bank, BankUnreachable, CardDeclined
from .database import books
from .events import PaymentDeclined, PaymentTaken, StockReserved
from .shop import PAYMENTS, STOCK, service

bus = service("payment")
bus.provide(Bank, Bank)  # made once, when the Bus starts; a handler asks for it by its type
store = books("payment")
payments = bus.topic(PAYMENTS, PaymentTaken | PaymentDeclined)


@bus.subscribe(STOCK, group="payment")
@dead_letter()
@retry(attempts=5, on=BankUnreachable)
@idempotent(store)
async def charge(order: StockReserved, bank: Bank) -> None:
    """A declined card is an answer. While the bank cannot be reached, only this customer's next orders wait."""
    try:
        # The bank's books are not in our transaction: if this process dies before it gets the answer, the handler runs
        # again. The card is still charged only once, because the key is the same each time.
        await bank.charge(key=order.order_id, cents=order.cents)
    except CardDeclined as answer:
        await payments.publish(PaymentDeclined(**dict(order), reason=str(answer)))
    else:
        await payments.publish(PaymentTaken(**dict(order)))


if __name__ == "__main__":
    bus.run()
