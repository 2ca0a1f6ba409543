"""What will happen: the real purchases, and a seeded choice of what goes wrong with which."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random

from .events import OrderPlaced
from .settings import Demo, demo

__all__ = ["Plan", "make_plan", "plan", "purchases"]

PURCHASES = Path(__file__).parent / "data" / "purchases.csv"

_DECLINED, _COPIED, _CLICKED, _UNREACHABLE = 0.04, 0.03, 0.02, 0.02
"""Shares of the orders."""


@dataclass(frozen=True)
class Plan:
    """Every field but ``orders`` holds order numbers."""

    orders: tuple[OrderPlaced, ...]
    """In the order of purchase. The ``n`` of an order number ``run-n`` counts from 1."""
    declined: frozenset[str] = frozenset()
    """The bank declines the card."""
    unreachable: frozenset[str] = frozenset()
    """The bank cannot be reached at the first two attempts."""
    copied: frozenset[str] = frozenset()
    """The event is published twice, as after a lost confirmation: a broker that remembers ids may drop the second."""
    clicked: frozenset[str] = frozenset()
    """The customer clicks twice: two events with different ids and one order number. No broker can tell."""
    poison: str = ""
    """The event arrives with data that no handler can read."""
    crash: str = ""
    """The payment service dies after the bank has charged this order and before the handler returns."""

    @property
    def cents(self) -> int:
        """What must have been charged in the end."""
        return sum(order.cents for order in self.paid)

    @property
    def cds(self) -> int:
        """How many CDs must have left the stock in the end."""
        return sum(order.cds for order in self.paid)

    @property
    def paid(self) -> list[OrderPlaced]:
        """The orders that must be shipped."""
        return [order for order in self.orders if order.order_id not in self.declined | {self.poison}]


def purchases(count: int, run: str) -> tuple[OrderPlaced, ...]:
    """The first ``count`` purchases by date, as orders."""
    with PURCHASES.open(newline="") as file:
        rows = sorted(csv.DictReader(file), key=lambda row: row["date"])  # stable: a customer's own stay in order
    return tuple(
        OrderPlaced(
            order_id=f"{run}-{number:05}", customer=row["customer"], cds=int(row["cds"]), cents=int(row["cents"])
        )
        for number, row in enumerate(rows[:count], start=1)
    )


def make_plan(settings: Demo) -> Plan:
    """The same for the same settings, in each process."""
    orders = purchases(settings.orders, settings.run)
    if not settings.faults:
        return Plan(orders)
    random = Random(settings.seed)
    ids = [order.order_id for order in orders]
    poison = random.choice(ids[len(ids) // 5 : len(ids) * 2 // 5])
    crash = random.choice(ids[len(ids) * 3 // 5 : len(ids) * 4 // 5])
    rest = [order_id for order_id in ids if order_id not in (crash, poison)]

    def share(part: float) -> int:
        return max(1, round(part * len(ids)))

    chosen = random.sample(rest, share(_DECLINED) + share(_UNREACHABLE))
    twice = random.sample(rest, share(_COPIED) + share(_CLICKED))
    return Plan(
        orders,
        declined=frozenset(chosen[: share(_DECLINED)]),
        unreachable=frozenset(chosen[share(_DECLINED) :]),
        copied=frozenset(twice[: share(_COPIED)]),
        clicked=frozenset(twice[share(_COPIED) :]),
        poison=poison,
        crash=crash,
    )


@cache
def plan() -> Plan:
    """The plan of this process."""
    return make_plan(demo())
