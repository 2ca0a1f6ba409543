"""The order of decorators."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from anybroker import Bus, ConfigError, Delivery, MemoryBroker
from anybroker.middleware import (
    Handler,
    dead_letter,
    deadline,
    idempotent,
    middleware,
    retry,
    retry_budget,
    timeout,
    trace,
)


@middleware
async def audit(delivery: Delivery, call_next: Handler) -> None:
    await call_next(delivery)


def stacked(*items: Any) -> Callable[[int], Any]:
    async def charge(number: int) -> None: ...

    for item in reversed(items):
        charge = item(charge)
    return charge


def start(run: Any, bus: Bus) -> None:
    async def main() -> None:
        async with bus:
            pass

    run(main())


@pytest.mark.parametrize(
    "items",
    [
        (trace(), dead_letter(), retry_budget(), deadline(), retry(), timeout(1), idempotent()),
        (dead_letter(), retry(), idempotent()),
        (audit, dead_letter(), audit, retry(), audit, timeout(1), audit, idempotent(), audit),
        (idempotent(),),
        (),
    ],
)
def test_the_right_order(run: Any, bus: Bus, items: Any) -> None:
    bus.subscribe("orders", group="billing", name="charge")(stacked(*items))
    start(run, bus)
    assert bus.subscriptions[0].problem is None


def test_the_wrong_order_shows_the_right_one(run: Any, bus: Bus) -> None:
    handler = stacked(idempotent(), retry(), audit, dead_letter(), timeout(1))
    bus.subscribe("orders", group="billing", name="charge")(handler)
    with pytest.raises(ConfigError) as caught:
        start(run, bus)
    assert str(caught.value) == (
        "handler charge: its decorators stand in the order @idempotent, @retry, @dead_letter, @timeout. "
        "The right order, outermost first, is:\n"
        "    @dead_letter(…)\n"
        "    @retry(…)\n"
        "    @timeout(…)\n"
        "    @idempotent(…)\n"
        "    async def charge(…)"
    )


def test_one_kind_twice(run: Any, bus: Bus) -> None:
    bus.subscribe("orders", group="billing", name="charge")(stacked(retry(2), retry(3)))
    with pytest.raises(ConfigError, match=r"handler charge: has @retry twice\. Keep one of them"):
        start(run, bus)


def test_at_the_bus(run: Any) -> None:
    bus = Bus(MemoryBroker(), source="shop", middleware=[retry(), dead_letter()])
    bus.subscribe("orders", group="billing")(stacked())
    with pytest.raises(
        ConfigError, match=r"Bus\(middleware=\): its decorators stand in the order @retry, @dead_letter"
    ):
        start(run, bus)


def test_what_the_bus_adds_goes_to_its_place(run: Any, handled: Any) -> None:
    """retry and dead_letter of the Bus are outside the handler's time-out."""
    bus = Bus(MemoryBroker(), source="shop", middleware=[dead_letter(), retry(2, first=0.0)])
    attempts: list[int] = []

    @bus.subscribe("orders", group="billing")
    @timeout(5)
    async def charge(delivery: Delivery) -> None:
        attempts.append(delivery.attempt)
        raise TimeoutError("of its own")

    (letter,) = run(handled(bus, 1))
    assert attempts == [1, 2]
    assert letter.reason == "TimeoutError: of its own"


def test_a_decorator_on_something_else() -> None:
    with pytest.raises(ConfigError, match=r"@retry: decorates 7\. Put it above a handler function"):
        retry()(7)  # type: ignore[type-var] # that is what is refused


def test_a_method_cannot_carry_a_decorator_and_is_told_the_way_out() -> None:
    class Service:
        async def charge(self, number: int) -> None: ...

    with pytest.raises(ConfigError) as caught:
        retry()(Service().charge)
    assert "cannot be attached to <bound method" in str(caught.value)
    assert "Give it at the subscription instead: subscribe(…, middleware=[…])." in str(caught.value)


@pytest.mark.parametrize("decorator", [trace, dead_letter, retry, timeout, idempotent])
def test_a_decorator_without_its_brackets_says_so(decorator: Any) -> None:
    with pytest.raises(ConfigError, match=rf"@{decorator.__name__}: is written without brackets\. Write @\w+\(\)"):

        @decorator
        async def charge(number: int) -> None: ...
