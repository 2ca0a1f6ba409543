"""What type checkers refuse: mypy and pyright find an error in each line with a mark, and in no other.

``# E: CODE | RULE`` are mypy's error code and pyright's rule; nothing behind the bar: pyright accepts it. Checked by
``test_checkers.py``, never run.
"""

from __future__ import annotations

from dataclasses import dataclass

from anybroker import Bus, Delivery, MemoryBroker, Topic
from anybroker.middleware import Handler, middleware, retry
from anybroker.testing import drop, fail


@dataclass
class Placed:
    order: str


@dataclass
class Cancelled:
    order: str


class Refunded: ...


class Database: ...


bus = Bus(MemoryBroker(), source="shop")
placed = bus.topic("orders", Placed)
orders = bus.topic("orders", Placed | Cancelled)
wider: Topic[Placed | Cancelled] = placed  # E: assignment | reportAssignmentType
bus.topic("orders", 3)  # E: call-overload | reportCallIssue, reportArgumentType


async def publish() -> None:
    await placed.publish(Cancelled("o-1"))  # E: arg-type | reportArgumentType
    await orders.publish(Refunded())  # E: arg-type | reportArgumentType
    await orders.publish_many([Refunded()])  # E: list-item | reportArgumentType
    await orders.publish(Placed("o-1"), priority=1)  # E: call-arg | reportCallIssue
    await orders.publish(Placed("o-1"), delay="3 s")  # E: arg-type | reportArgumentType
    await bus.publish("orders", Placed("o-1"), headers={"tenant": 1})  # E: dict-item | reportArgumentType
    await bus.publish("orders", Placed("o-1"), keys="o-1")  # E: call-arg | reportCallIssue


bus.from_thread.publish("orders", Placed("o-1"), time=3)  # E: arg-type | reportArgumentType


async def bare(delivery: Delivery, call_next: Handler) -> None:
    await call_next(delivery)


@bus.subscribe("orders", group="billing")
async def bill(order: Placed) -> None: ...


async def call() -> None:
    await bill("o-1")  # E: arg-type | reportArgumentType


Bus(MemoryBroker(), middleware=[bare])  # E: list-item | reportArgumentType
bus.subscription("orders", group="stock", middleware=["retry"])  # E: list-item | reportArgumentType
bus.subscription("orders", group="stock", unhandled="drop")  # E: arg-type | reportArgumentType
bus.subscription("orders", group="stock").on(batch="10")  # E: call-overload | reportArgumentType
bus.provide(Database, Refunded)  # E: arg-type |


@middleware  # E: arg-type | reportArgumentType
async def no_next(delivery: Delivery) -> None: ...


retry(attempts="5")  # E: arg-type | reportArgumentType
drop("deliver")  # E: call-overload | reportCallIssue, reportArgumentType
fail("publish", nth=1, never=True)  # E: call-overload | reportCallIssue
