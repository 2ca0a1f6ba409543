"""The bound on starts at once."""

from __future__ import annotations

import asyncio
from collections import Counter
from itertools import pairwise
from typing import Any

import pytest
from tests.middleware.quick_time import run_quickly

from anybroker import Bus, ConfigError, Delivery, Event
from anybroker.middleware import concurrency, dead_letter, middleware, rate_limit, retry
from anybroker.testing import settled


class Running:
    """What runs at once, by tenant."""

    def __init__(self) -> None:
        self.now: Counter[str] = Counter()
        self.most: Counter[str] = Counter()
        self.started: list[int] = []
        self.free = asyncio.Event()

    async def __call__(self, event: Event[Any]) -> None:
        tenant = event.data["tenant"]
        self.started.append(event.data["n"])
        self.now[tenant] += 1
        self.most[tenant] = max(self.most[tenant], self.now[tenant])
        try:
            await self.free.wait()
            await asyncio.sleep(0.01)
        finally:
            self.now[tenant] -= 1


def tenant_of(event: Event[Any]) -> str:
    tenant: str = event.data["tenant"]
    return tenant


async def publish(bus: Bus, count: int, tenants: str = "a", key: str | None = None) -> None:
    for n in range(count):
        data = {"n": n, "tenant": tenants[n % len(tenants)]}
        await bus.publish("orders", data, type="order.v1", key=key)


def test_no_more_than_n_run_and_those_that_wait_go_on_in_their_order(bus: Bus, until: Any) -> None:
    running = Running()

    @bus.subscribe("orders", group="billing")
    @concurrency(2)
    async def charge(event: Event[Any]) -> None:
        await running(event)

    async def test() -> None:
        async with bus:
            await publish(bus, 30)
            (subscription,) = bus.subscriptions
            await until(lambda: subscription.waiting == 28)
            assert subscription.running == 2  # those that wait have no worker
            running.free.set()
            await settled(bus)
            assert (subscription.waiting, subscription.stats.started, subscription.stats.acked) == (0, 30, 30)
            assert (subscription.stats.retried, subscription.stats.postponed) == (0, 28)

    run_quickly(test())
    assert running.most == {"a": 2}
    assert running.started == list(range(30))


def test_each_value_of_the_key_has_its_own(bus: Bus, until: Any) -> None:
    running = Running()

    @bus.subscribe("orders", group="billing")
    @concurrency(2, key=tenant_of)
    async def charge(event: Event[Any]) -> None:
        await running(event)

    async def test() -> None:
        async with bus:
            await publish(bus, 40, "aaaaaaaaab")  # ten times as many of a, which do not keep b from running
            await until(lambda: running.now == {"a": 2, "b": 2})
            running.free.set()
            await settled(bus)

    run_quickly(test())
    assert running.most == {"a": 2, "b": 2}
    assert len(running.started) == 40


def test_those_that_wait_take_no_worker(bus: Bus, until: Any) -> None:
    running = Running()
    other: list[int] = []
    subscription = bus.subscription("orders", group="billing", max_in_flight=4)

    @subscription.on(type="order.v1")
    @concurrency(1)
    async def charge(event: Event[Any]) -> None:
        await running(event)

    @subscription.on(type="note.v1")
    async def note(number: int) -> None:
        other.append(number)

    async def test() -> None:
        async with bus:
            await publish(bus, 50)
            await until(lambda: subscription.waiting)
            for number in range(20):
                await bus.publish("orders", number, type="note.v1")
            await until(lambda: len(other) == 20)
            assert subscription.running == 1
            running.free.set()
            await settled(bus)

    run_quickly(test())
    assert running.most == {"a": 1}


def test_closing_gives_back_what_waits(bus: Bus, until: Any) -> None:
    running = Running()

    @bus.subscribe("orders", group="billing")
    @concurrency(1)
    async def charge(event: Event[Any]) -> None:
        await running(event)

    async def test() -> None:
        async with bus:
            await publish(bus, 20)
            (subscription,) = bus.subscriptions
            await until(lambda: subscription.waiting == 19)
            asyncio.get_running_loop().call_later(0.1, running.free.set)
            before = asyncio.get_running_loop().time()
        assert asyncio.get_running_loop().time() - before < 1.0
        assert (subscription.stats.returned, subscription.stats.acked) == (19, 1)
        async with bus:  # the seats of the first run are no one's any more
            await settled(bus)
        assert subscription.stats.acked == 20

    run_quickly(test())
    assert running.most == {"a": 1}


def test_a_failing_start_frees_its_seat_and_counts_attempts(bus: Bus, handled: Any) -> None:
    attempts: list[tuple[int, int]] = []

    @bus.subscribe("orders", group="billing")
    @dead_letter()
    @retry(attempts=3, first=0.01)
    @concurrency(1)
    async def charge(number: int, delivery: Delivery) -> None:
        attempts.append((number, delivery.attempt))
        await asyncio.sleep(0.01)
        raise ValueError("no")

    letters = run_quickly(handled(bus, 0, 1, 2, 3))
    assert [letter.attempts for letter in letters] == [3, 3, 3, 3]
    assert sorted(attempts) == [(n, attempt) for n in range(4) for attempt in (1, 2, 3)]


def test_ordered_keys_keep_their_order(bus: Bus) -> None:
    seen: dict[str, list[int]] = {"k0": [], "k1": [], "k2": []}

    @bus.subscribe("orders", group="billing")
    @concurrency(2)
    async def charge(event: Event[Any]) -> None:
        await asyncio.sleep(0.01 if event.data % 5 else 0.05)
        seen[event.key or ""].append(event.data)

    async def test() -> None:
        async with bus:
            for number in range(60):
                await bus.publish("orders", number, type="order.v1", key=f"k{number % 3}")
            await settled(bus)

    run_quickly(test())
    assert all(numbers == sorted(numbers) and len(numbers) == 20 for numbers in seen.values())


def test_a_middleware_outside_that_ends_what_was_called_costs_no_seat(bus: Bus) -> None:
    """What was called for its turn may never reach it."""
    starts: Counter[int] = Counter()
    done: list[int] = []

    @middleware
    async def drops(delivery: Delivery, call_next: Any) -> None:
        starts[delivery.event.data] += 1
        if starts[delivery.event.data] == 2:
            return
        await call_next(delivery)

    @bus.subscribe("orders", group="billing")
    @retry()
    @drops
    @concurrency(1)
    async def charge(number: int) -> None:
        await asyncio.sleep(0.01)
        done.append(number)

    async def test() -> None:
        async with bus:
            for number in range(5):
                await bus.publish("orders", number, type="order.v1")
            await settled(bus)
            await bus.publish("orders", 9, type="order.v1")
            await settled(bus)

    run_quickly(test())
    assert done == [0, 9]


def test_the_waits_of_several_layers_work_together(bus: Bus) -> None:
    begun: list[float] = []
    at_once = most = 0

    @bus.subscribe("orders", group="billing")
    @concurrency(3)
    @rate_limit(10, burst=1)
    async def charge(_: int) -> None:
        nonlocal at_once, most
        begun.append(asyncio.get_running_loop().time())
        at_once += 1
        most = max(most, at_once)
        await asyncio.sleep(0.5)
        at_once -= 1

    async def test() -> None:
        async with bus:
            for number in range(30):
                await bus.publish("orders", number, type="order.v1")
            await settled(bus, deadline=60)

    run_quickly(test())
    assert len(begun) == 30
    assert most == 3
    assert all(later - earlier > 0.099 for earlier, later in pairwise(begun))
    assert begun[-1] - begun[0] < 8  # three at once, for half a second each: 5 seconds, and some waiting for a turn


def test_a_key_that_is_none_is_rejected(bus: Bus, handled: Any) -> None:
    @bus.subscribe("orders", group="billing")
    @concurrency(1, key=lambda event: event.data["tenant"])
    async def charge(_: dict[str, Any]) -> None: ...

    letters = run_quickly(handled(bus, {"tenant": None}, {"tenant": 7}, {"tenant": "x" * 1000}))
    assert [letter.reason for letter in letters] == [
        "concurrency(key=): the function returned a NoneType where a string or an integer is needed"
    ]


@pytest.mark.parametrize("n", [0, -1, True, 1.5])
def test_wrong_numbers_are_refused(n: Any) -> None:
    with pytest.raises(ConfigError, match=r"concurrency\(n\)"):
        concurrency(n)


def test_a_batch_handler_is_refused(bus: Bus) -> None:
    subscription = bus.subscription("orders", group="billing")

    @subscription.on(batch=10)
    @concurrency(2)
    async def charge(_: list[int]) -> None: ...

    async def test() -> None:
        async with bus:
            pytest.fail("it started")

    with pytest.raises(ConfigError, match="takes batches"):
        run_quickly(test())
