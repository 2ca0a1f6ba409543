"""A stand-in for a payment provider: it takes a moment, declines cards, and cannot always be reached."""

from __future__ import annotations

import asyncio

from . import history
from .database import database
from .plan import plan
from .settings import demo

__all__ = ["Bank", "BankUnreachable", "CardDeclined"]

ANSWER_TIME = 0.005
"""Seconds."""


class CardDeclined(Exception):
    """The bank's answer: no money was taken, and asking again will not help."""


class BankUnreachable(Exception):
    """No answer: nobody knows whether money was taken. Ask again, with the same key."""


class Bank:
    """It has its own database, so the death of the payment service does not affect it."""

    def __init__(self) -> None:
        self._plan = plan()
        self._db = database("bank", "request (key TEXT PRIMARY KEY, asked INTEGER)", "charge (key TEXT, cents INTEGER)")

    async def charge(self, key: str, cents: int) -> None:
        """Charge a card. The same ``key`` again charges nothing: the bank answers as it did before.

        Raises CardDeclined, or BankUnreachable.
        """
        await asyncio.sleep(ANSWER_TIME)
        (asked,) = self._db.execute(
            "INSERT INTO request VALUES (?, 1) ON CONFLICT DO UPDATE SET asked = asked + 1 RETURNING asked", (key,)
        ).fetchone()
        if key in self._plan.unreachable and asked <= 2:
            raise BankUnreachable("connection timed out")
        if key in self._plan.declined:
            raise CardDeclined("insufficient funds")
        known = self._db.execute("SELECT 1 FROM charge WHERE key = ?", (key,)).fetchone()
        if known is None or demo().forgetful_bank:
            self._db.execute("INSERT INTO charge VALUES (?, ?)", (key, cents))
        if key == self._plan.crash and asked == 1:
            # The worst moment: the money is taken, and the service does not know yet. The supervisor reads this line
            # and kills the process.
            history.write("crash", service="payment", order=key)
            await asyncio.Event().wait()
