"""What type checkers accept, and the types they find: checked by ``test_checkers.py``, never run."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import assert_type

from anybroker import (
    Bus,
    Delivery,
    Event,
    MemoryBroker,
    PublishOutcomeUnknown,
    Receipt,
    Subscription,
    Topic,
    event_type,
)
from anybroker.middleware import AnyMiddleware, Handler, middleware, retry, timeout
from anybroker.testing import FaultyBroker, drop, duplicate, fail
from anybroker.topic import PublishOptions


@event_type("com.example.order.placed.v1")
@dataclass
class Placed:
    order: str


@event_type("com.example.order.cancelled.v1")
@dataclass
class Cancelled:
    order: str


class Urgent(Placed): ...


class Database: ...


Outcome = Placed | Cancelled
bus = Bus(MemoryBroker(), source="shop", middleware=[retry(attempts=3), timeout(5)], topics={"orders": {"lanes": 8}})

# A topic of a class, of a union, of an alias, of any payload; a wider topic is good enough for a narrower one.
placed = bus.topic("orders", Placed)
orders = bus.topic("orders", Placed | Cancelled)
outcomes = bus.topic("orders", Outcome)
anything = bus.topic("orders")
assert_type(placed, Topic[Placed])
assert_type(orders, Topic[Placed | Cancelled])
assert_type(outcomes, Topic[Placed | Cancelled])
assert_type(anything, Topic[object])
narrower: Topic[Placed] = orders
told: Topic[Placed | Cancelled] = bus.topic("orders", Placed | Cancelled)


async def publish() -> None:
    assert_type(await orders.publish(Placed("o-1"), key="o-1", delay=3.0), Receipt)
    await orders.publish(Cancelled("o-1"), headers={"tenant": "a"}, extensions={"priority": 1})
    await placed.publish(Urgent("o-1"))
    await anything.publish({"order": "o-1"}, type="com.example.order.seen.v1")
    await orders.publish_many([Placed("o-1"), Cancelled("o-1")], deadline=5.0)
    options: PublishOptions = {"key": "o-1", "subject": "o-1"}
    await bus.publish("orders", Placed("o-1"), **options)
    await bus.publish("orders", Event.create(Placed("o-1"), source="shop"), key=7)
    try:
        await bus.publish("orders")
    except PublishOutcomeUnknown as unknown:
        if unknown.event is not None:
            assert_type(unknown.event.id, str)
            await bus.publish("orders", unknown.event)


def publish_from_a_thread() -> Receipt:
    return bus.from_thread.publish("orders", Placed("o-1"), key="o-1")


# Handlers keep their own types, whatever the decorator is given.
@middleware
async def audit(delivery: Delivery, call_next: Handler) -> None:
    await call_next(delivery)


def plain(call_next: Handler) -> Handler:
    return call_next


layers: Sequence[AnyMiddleware] = [audit, plain, retry(attempts=5)]


@bus.subscribe("orders", group="billing", middleware=layers)
@timeout(5)
async def bill(order: Placed) -> None: ...


sub = bus.subscription("orders", group="stock", middleware=[audit])
assert_type(sub, Subscription)


@sub.on
async def reserve(order: Placed, event: Event[Placed]) -> None: ...


@sub.on(type="com.example.order.cancelled.v1", batch=10, middleware=[plain])
def release(orders: list[Cancelled]) -> None: ...


async def call_them() -> None:
    assert_type(await bill(Placed("o-1")), None)
    await reserve(Placed("o-1"), Event.create(Placed("o-1"), source="shop"))
    assert_type(release([Cancelled("o-1")]), None)


# A fault is told what it looks at.
faulty = FaultyBroker(
    MemoryBroker(),
    drop("publish", when=lambda outbound: outbound.topic == "orders"),
    fail("deliver", nth=2, when=lambda inbound: inbound.position > 0),
    duplicate(every=3),
)
assert_type(Event.create(Placed("o-1"), source="shop").get("tenant", 0), str | bool | bytes | int)


# What handlers ask for: a value, an awaitable of it, or a context manager that gives it.
@asynccontextmanager
async def connected() -> AsyncIterator[Database]:
    yield Database()


async def connect() -> Database:
    return Database()


factory: Callable[[], Database] = Database
bus.provide(Database, connected)
bus.provide(Database, connect, scope="delivery")
bus.provide(Database, factory)
