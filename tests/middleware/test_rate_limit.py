"""The bound on starts in a time."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import Any

import pytest
from tests.middleware.quick_time import run_quickly

from anybroker import Bus, ConfigError, Delivery, Event
from anybroker.middleware import rate_limit, retry
from anybroker.middleware.rate_limit import _Limiter
from anybroker.middleware.turns import Queue
from anybroker.testing import settled


def now() -> float:
    return asyncio.get_running_loop().time()


def most_in(begun: list[float], seconds: float) -> int:
    """The most starts in any time of so many seconds."""
    return max(sum(first <= each < first + seconds - 1e-6 for each in begun) for first in begun)


@pytest.mark.parametrize(
    ("rate", "per", "burst", "count", "at_once", "lasts"),
    [
        (10, 1.0, None, 50, 10, 4.0),
        (10, 1.0, 1, 20, 1, 1.9),
        (5, 10.0, 2, 8, 2, 12.0),
        (0.5, 1.0, None, 4, 1, 6.0),
    ],
)
def test_starts_begin_no_faster(
    bus: Bus, rate: float, per: float, burst: int | None, count: int, at_once: int, lasts: float
) -> None:
    begun: list[float] = []

    @bus.subscribe("orders", group="billing")
    @rate_limit(rate, per, burst=burst)
    async def charge(_: int) -> None:
        begun.append(now())

    async def test() -> None:
        async with bus:
            for number in range(count):
                await bus.publish("orders", number, type="order.v1")
            await settled(bus, deadline=60)
            (subscription,) = bus.subscriptions
            assert (subscription.stats.started, subscription.stats.retried, subscription.waiting) == (count, 0, 0)

    run_quickly(test())
    assert len(begun) == count
    assert most_in(begun, 0.01) == at_once
    assert begun[-1] - begun[0] == pytest.approx(lasts, abs=0.1)


def test_each_value_of_the_key_has_its_own_rate(bus: Bus) -> None:
    begun: dict[str, list[float]] = defaultdict(list)

    @bus.subscribe("orders", group="billing")
    @rate_limit(2, burst=1, key=lambda event: event.data["tenant"])
    async def charge(event: Event[Any]) -> None:
        begun[event.data["tenant"]].append(now())

    async def test() -> None:
        async with bus:
            for tenant in "aaaaaaaaaab":
                await bus.publish("orders", {"tenant": tenant}, type="order.v1")
            await settled(bus, deadline=60)

    run_quickly(test())
    assert most_in(begun["a"], 0.5) == 1
    assert begun["b"][0] - begun["a"][0] < 0.1


def test_each_start_of_a_retry_counts(bus: Bus) -> None:
    begun: list[float] = []

    @bus.subscribe("orders", group="billing")
    @retry(attempts=3, first=0.0)
    @rate_limit(1, burst=1)
    async def charge(delivery: Delivery) -> None:
        begun.append(now())
        if delivery.attempt < 3:
            raise ValueError("no")

    async def test() -> None:
        async with bus:
            await bus.publish("orders", 1, type="order.v1")
            await settled(bus, deadline=60)

    run_quickly(test())
    assert most_in(begun, 1.0) == 1
    assert len(begun) == 3


def test_closing_does_not_wait(bus: Bus, until: Any) -> None:
    @bus.subscribe("orders", group="billing")
    @rate_limit(1, per=3600)
    async def charge(_: int) -> None: ...

    async def test() -> None:
        async with bus:
            (subscription,) = bus.subscriptions
            for number in range(10):
                await bus.publish("orders", number, type="order.v1")
            await until(lambda: subscription.waiting == 9)
            before = now()
        assert now() - before < 1.0
        assert (subscription.stats.returned, subscription.stats.acked) == (9, 1)

    run_quickly(test())


def test_nothing_more_is_fetched_while_a_hundred_wait(bus: Bus, until: Any) -> None:
    done: list[int] = []

    @bus.subscribe("orders", group="billing", max_in_flight=10)
    @rate_limit(50, burst=1)
    async def charge(number: int) -> None:
        done.append(number)

    async def test() -> None:
        async with bus:
            (subscription,) = bus.subscriptions
            for number in range(1000):
                await bus.publish("orders", number, type="order.v1")
            await until(lambda: subscription.state == "paused")
            await asyncio.sleep(0.1)
            assert 90 <= subscription.buffered <= 150
            assert subscription.problem is None
            await settled(bus, deadline=60)
            assert subscription.state == "running"

    run_quickly(test())
    assert done == list(range(1000))


def test_the_memory_for_keys_is_bounded(caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        loop = asyncio.get_running_loop()
        quick = _Limiter(1000.0, 1, loop, Queue(None), "orders/billing, handler charge", most=1000)
        for key in range(20_000):
            quick.new(key).level = 0.0
            await asyncio.sleep(0.001)
        assert len(quick.by_key) < 10  # what is full again is forgotten
        assert not caplog.records
        slow = _Limiter(0.001, 1, loop, Queue(None), "orders/billing, handler charge", most=1000)
        for key in range(5_000):
            slow.new(key).level = 0.0
        assert len(slow.by_key) <= 1000
        assert "more than 1000 keys in use" in caplog.text

    run_quickly(test())


@pytest.mark.parametrize(
    ("options", "setting"),
    [
        ({"rate": 0}, "rate"),
        ({"rate": float("inf")}, "rate"),
        ({"rate": 1, "per": 0}, "per="),
        ({"rate": 1, "burst": 0}, "burst="),
        ({"rate": 1, "key": "tenant"}, "key="),
    ],
)
def test_wrong_settings_are_refused(options: Any, setting: str) -> None:
    with pytest.raises(ConfigError, match=rf"rate_limit\({setting}\)"):
        rate_limit(**options)
