"""Middleware of one's own: ``@middleware async def name(delivery, call_next)``, and plain functions of a handler."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from anybroker import Bus, ConfigError, Delivery, MemoryBroker, Reject
from anybroker.middleware import Handler, dead_letter, middleware, retry, timeout


def noting(name: str, seen: list[str]) -> Any:
    @middleware
    async def note(delivery: Delivery, call_next: Handler) -> None:
        seen.append(f"{name} in {delivery.attempt}")
        await call_next(delivery)
        seen.append(f"{name} out")

    return note


def test_at_a_handler_it_stands_where_it_is_written(bus: Bus, run: Any, handled: Any) -> None:
    seen: list[str] = []

    @bus.subscribe("orders", group="billing")
    @noting("outer", seen)
    @retry(attempts=2, first=0.0)
    @noting("inner", seen)
    async def charge(delivery: Delivery) -> None:
        seen.append("handler")
        if delivery.attempt == 1:
            raise OSError("no")

    assert run(handled(bus, 1)) == []
    assert seen == [
        *("outer in 1", "inner in 1", "handler"),
        *("outer in 2", "inner in 2", "handler", "inner out", "outer out"),
    ]


def test_at_the_bus_it_runs_around_each_attempt_of_every_handler(run: Any, handled: Any) -> None:
    seen: list[str] = []
    bus = Bus(MemoryBroker(), source="shop", middleware=[noting("first", seen), noting("second", seen)])

    @bus.subscribe("orders", group="billing")
    @retry(attempts=2, first=0.0)
    @timeout(5)
    async def charge(delivery: Delivery) -> None:
        if delivery.attempt == 1:
            raise OSError("no")

    @bus.subscribe("orders", group="stock")
    async def reserve(number: int) -> None: ...

    run(handled(bus, 1))
    assert seen.count("first in 1") == 2
    assert seen.count("first in 2") == 1
    assert seen[:2] == ["first in 1", "second in 1"]


def test_the_decorated_handler_stays_directly_callable() -> None:
    seen: list[str] = []

    @noting("x", seen)
    async def charge(number: int) -> int:
        return number + 1

    assert asyncio.run(charge(1)) == 2
    assert seen == []


def test_not_going_on_ends_the_delivery(bus: Bus, run: Any, handled: Any) -> None:
    starts: list[int] = []

    @middleware
    async def only_even(delivery: Delivery, call_next: Handler) -> None:
        if delivery.event.data % 2 == 0:
            await call_next(delivery)

    @bus.subscribe("orders", group="billing")
    @only_even
    async def charge(number: int) -> None:
        starts.append(number)

    assert run(handled(bus, 1, 2, 3, 4)) == []
    assert starts == [2, 4]
    assert bus.subscriptions[0].stats.acked == 4


def test_it_may_reject_and_it_may_mend(bus: Bus, run: Any, handled: Any) -> None:
    @middleware
    async def judge(delivery: Delivery, call_next: Handler) -> None:
        if delivery.event.data == 1:
            raise Reject("no ones")
        try:
            await call_next(delivery)
        except ZeroDivisionError:
            return

    @bus.subscribe("orders", group="billing")
    @dead_letter()
    @judge
    async def charge(number: int) -> None:
        raise ZeroDivisionError

    letters = run(handled(bus, 1, 2))
    assert [letter.reason for letter in letters] == ["no ones"]


def test_what_it_changes_on_a_delivery_does_not_reach_the_next_attempt(bus: Bus, run: Any, handled: Any) -> None:
    seen: list[Any] = []

    @middleware
    async def change(delivery: Delivery, call_next: Handler) -> None:
        seen.append(dict(delivery.event.data))
        delivery.event.data["touched"] = True
        await call_next(delivery)

    @bus.subscribe("orders", group="billing")
    @retry(attempts=2, first=0.0)
    @change
    async def charge(delivery: Delivery) -> None:
        seen.append(dict(delivery.event.data))
        if delivery.attempt == 1:
            raise OSError("no")

    run(handled(bus, {"a": 1}))
    assert seen == [{"a": 1}, {"a": 1, "touched": True}] * 2


def test_a_plain_function_of_a_handler(run: Any, handled: Any) -> None:
    composed: list[str] = []
    calls: list[int] = []

    def plain(call_next: Handler) -> Handler:
        composed.append("once")

        async def handle(delivery: Delivery) -> None:
            calls.append(delivery.attempt)
            await call_next(delivery)

        return handle

    bus = Bus(MemoryBroker(), source="shop", middleware=[plain])
    bus.subscribe("orders", group="billing", middleware=[plain])(_nothing)
    run(handled(bus, 1, 2, 3))
    assert composed == ["once", "once"]
    assert calls == [1] * 6


async def _nothing(number: int) -> None: ...


def test_not_async() -> None:
    with pytest.raises(ConfigError) as caught:

        @middleware  # type: ignore[arg-type] # that is what is refused
        def audit(delivery: Delivery, call_next: Handler) -> None: ...

    assert str(caught.value) == ("@middleware audit: is not 'async def'. Write: async def name(delivery, call_next).")


def test_the_wrong_number_of_arguments() -> None:
    with pytest.raises(ConfigError, match="@middleware audit: does not take two arguments"):

        @middleware  # type: ignore[arg-type] # that is what is refused
        async def audit(delivery: Delivery) -> None: ...


async def _bare(delivery: Delivery, call_next: Handler) -> None: ...


@pytest.mark.parametrize(
    ("item", "text"),
    [
        (retry, "is not a middleware. Call it if it is a class or factory (retry(), not retry)."),
        (7, "middleware=: 7 is not a middleware"),
        (_bare, "middleware=: '_bare' is a bare 'async def'. Decorate it with @middleware"),
    ],
)
@pytest.mark.parametrize("where", ["bus", "subscription", "handler"])
def test_what_is_no_middleware(item: Any, text: str, where: str) -> None:
    bus = Bus(MemoryBroker(), source="shop")
    subscription = bus.subscription("orders", group="billing")
    give: dict[str, Callable[[], Any]] = {
        "bus": lambda: Bus(MemoryBroker(), source="shop", middleware=[item]),
        "subscription": lambda: bus.subscription("orders", group="stock", middleware=[item]),
        "handler": lambda: subscription.on(_nothing, middleware=[item]),
    }
    with pytest.raises(ConfigError) as caught:
        give[where]()
    assert text in str(caught.value)
