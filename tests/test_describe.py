"""bus.describe(): what a Bus is, as data."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import BaseModel

from anybroker import Bus, ConfigError, Delivery, Event, MemoryBroker, Receipt, event_type
from anybroker.codec import PydanticJson
from anybroker.middleware import (
    Chain,
    Handler,
    Layer,
    Outgoing,
    PublishHandler,
    idempotent,
    middleware,
    publish_middleware,
    retry,
    timeout,
    trace,
)


@event_type("order.placed.v1", key="buyer.id")
class Placed(BaseModel):
    buyer: dict[str, str]


def by_name(payload: Any) -> str:
    return str(payload.name)


@event_type("order.cancelled.v1", key=by_name)
class Cancelled(BaseModel):
    name: str


class Acme(PydanticJson):
    name = "acme"
    content_types = ("application/vnd.acme",)  # type: ignore[assignment]


class quota(Layer):  # noqa: N801 - used as a decorator
    kind = "quota"
    after = "retry"
    before = "timeout"

    def bind(self, call_next: Handler, chain: Chain) -> Handler:
        return call_next


@middleware
async def audit(delivery: Delivery, call_next: Handler) -> None: ...


@publish_middleware
async def stamp(outgoing: Outgoing, call_next: PublishHandler) -> Receipt:
    return await call_next(outgoing)


SECRET = "hunter2-hunter2-hunter2"


def shop(url: Any = f"kafka://user:{SECRET}@nowhere.example:1/?client_id={SECRET}") -> Bus:
    bus = Bus(
        url,
        source="shop",
        middleware=[audit, quota()],
        publish_middleware=[stamp],
        codecs=[Acme()],
        deduplication_key=SECRET,
        lease=7,
        provision="verify",
        topics={
            "orders": {"groups": ["search"], "lanes": 8, "codec": "acme", "retention": 60, "max_in_flight": 5},
            "logs": {"ordered": False, "key": "data.host", "foreign": "wrap", "dead_letter": "graves"},
        },
    )
    bus.topic("orders", Placed | Cancelled)
    billing = bus.subscription("orders", group="billing", start=datetime(2026, 1, 2, tzinfo=UTC))

    @billing.on
    @timeout(5)
    async def charge(order: Placed | Cancelled, event: Event) -> None: ...

    @billing.on(name="others")
    def rest(payload: dict[str, int]) -> None: ...

    @bus.subscribe("logs", group="store", batch=50, within=0.5, unhandled="dead_letter", type=["log.v2", "log.v1"])
    @retry(3)
    @idempotent()
    async def keep(lines: list[Event]) -> None: ...

    return bus


PLACED = {"name": f"{__name__}.Placed", "type": "order.placed.v1", "key": "buyer.id"}
CANCELLED = {"name": f"{__name__}.Cancelled", "type": "order.cancelled.v1", "key": "by_name"}


def test_all_of_it_before_the_start_and_as_json() -> None:
    found = json.loads(json.dumps(shop().describe().as_dict()))
    assert SECRET not in str(found)
    topics, subscriptions = found.pop("topics"), found.pop("subscriptions")
    assert found == {
        "source": "shop",
        "broker": "kafka",
        "provision": "verify",
        "consume": True,
        "lease": 7,
        "drain": 25,
        "publish_deadline": 30,
        "max_hops": 50,
        "connect_timeout": 10,
        "publish_middleware": ["stamp"],
    }
    logs, orders = topics
    assert orders == {
        "name": "orders",
        "ordered": True,
        "key": None,
        "codec": "acme",
        "lanes": 8,
        "retention": 60,
        "foreign": "dead_letter",
        "groups": ["billing", "search"],
        "payloads": [PLACED, CANCELLED],
    }
    assert (logs["name"], logs["ordered"], logs["key"], logs["codec"], logs["groups"]) == (
        *("logs", False, "data.host", "json"),
        ["store"],
    )
    billing, store = subscriptions
    charge, rest = billing.pop("handlers")
    assert billing == {
        "topic": "orders",
        "group": "billing",
        "ordered": True,
        "start": "2026-01-02T00:00:00+00:00",
        "lanes": 8,
        "max_in_flight": 5,
        "max_ahead": None,
        "poison_after": 100,
        "unhandled": "skip",
        "dead_letter_topic": "orders.billing.dlq",
    }
    assert charge == {
        "name": "shop.<locals>.charge",
        "module": __name__,
        "types": ["order.cancelled.v1", "order.placed.v1"],
        "payloads": [PLACED, CANCELLED],
        "batch": None,
        "within": None,
        "thread": False,
        "middleware": ["trace", "dead_letter", "retry", "audit", "quota", "timeout"],
    }
    assert (rest["name"], rest["types"], rest["thread"]) == ("others", [], True)
    assert rest["payloads"] == [{"name": "dict[str, int]", "type": None, "key": None}]
    (keep,) = store["handlers"]
    assert (store["ordered"], store["unhandled"], store["dead_letter_topic"]) == (False, "dead_letter", "graves")
    assert (keep["types"], keep["payloads"], keep["batch"], keep["within"]) == (["log.v1", "log.v2"], [], 50, 0.5)
    assert keep["middleware"] == ["trace", "dead_letter", "retry", "audit", "quota", "idempotent"]


def test_it_is_the_same_while_the_bus_runs_and_afterwards(run: Callable[..., Any]) -> None:
    bus = Bus(MemoryBroker(), source="shop")

    @bus.subscribe("orders", group="billing")
    async def charge(order: Placed) -> None: ...

    before = bus.describe()

    async def main() -> None:
        async with bus:
            await bus.publish("orders", Placed(buyer={"id": "b"}))
            assert bus.describe() == before

    run(main())
    assert bus.describe() == before
    assert before.broker == "MemoryBroker"


def test_nothing_given(own_folder: object) -> None:
    found = Bus().describe()
    assert (found.source, found.broker, found.topics, found.subscriptions) == (None, "sqlite", (), ())


def test_the_order_that_is_shown_is_the_one_that_runs(run: Callable[..., Any]) -> None:
    seen: list[str] = []

    def noting(kind_: str, after_: str) -> Layer:
        class noted(Layer):  # noqa: N801
            kind = kind_
            after = after_

            def bind(self, call_next: Handler, chain: Chain) -> Handler:
                async def run(delivery: Delivery) -> None:
                    seen.append(kind_)
                    await call_next(delivery)

                return run

        return noted()

    bus = Bus(MemoryBroker(), source="shop", middleware=[noting("one", "trace"), noting("two", "retry")])

    @bus.subscribe("orders", group="billing")
    @noting("three", "timeout")
    async def charge(number: int) -> None:
        done.append(number)

    done: list[int] = []

    async def main() -> None:
        from anybroker.testing import settled

        async with bus:
            await bus.publish("orders", 1, type="order.v1")
            await settled(bus)

    (handler,) = bus.describe().subscriptions[0].handlers
    run(main())
    assert done == [1]
    assert seen == [kind for kind in handler.middleware if kind in ("one", "two", "three")]


def test_middleware_in_an_order_that_cannot_be() -> None:
    bus = Bus(MemoryBroker(), source="shop")

    @bus.subscribe("orders", group="billing")
    @retry()
    @trace()
    async def charge(number: int) -> None: ...

    with pytest.raises(ConfigError, match="The right order"):
        bus.describe()


def test_a_function_that_finds_the_key_has_no_name() -> None:
    class Finder:
        def __call__(self, payload: object) -> str:
            return "k"

    @event_type("other.v1", key=Finder())
    class Other(BaseModel): ...

    bus = Bus(MemoryBroker(), source="shop")
    bus.topic("orders", Other)
    assert bus.describe().topics[0].payloads[0].key == "Finder"
