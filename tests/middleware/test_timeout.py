"""The bound on one start of a handler."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from anybroker import Bus, ConfigError, Delivery, MemoryBroker
from anybroker.middleware import dead_letter, retry, timeout
from anybroker.testing import settled


def test_a_slow_handler_is_cancelled_and_its_start_counts(bus: Bus, run: Any, handled: Any) -> None:
    seen: list[str] = []

    @bus.subscribe("orders", group="billing")
    @dead_letter()
    @retry(attempts=2, first=0.001)
    @timeout(0.02)
    async def charge(delivery: Delivery) -> None:
        seen.append(f"start {delivery.attempt}")
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise

    (letter,) = run(handled(bus, 1))
    assert seen == ["start 1", "cancelled", "start 2", "cancelled"]
    assert letter.attempts == 2
    assert letter.reason == "TimeoutError: "


def test_a_quick_handler_is_left_alone(bus: Bus, run: Any, handled: Any) -> None:
    seen: list[int] = []

    @bus.subscribe("orders", group="billing")
    @timeout(5)
    async def charge(number: int) -> None:
        await asyncio.sleep(0)
        seen.append(number)

    assert run(handled(bus, 1, 2, 3)) == []
    assert seen == [1, 2, 3]
    assert bus.subscriptions[0].stats.retried == 0


def test_each_start_has_the_whole_time(bus: Bus, run: Any, handled: Any) -> None:
    starts: list[int] = []

    @bus.subscribe("orders", group="billing")
    @retry(attempts=3, first=0.0)
    @timeout(0.2)
    async def charge(delivery: Delivery) -> None:
        starts.append(delivery.attempt)
        await asyncio.sleep(0.1)
        if delivery.attempt < 3:
            raise OSError("no")

    assert run(handled(bus, 1)) == []
    assert starts == [1, 2, 3]


def test_shutdown_is_not_taken_for_a_time_out(run: Any) -> None:
    broker = MemoryBroker()
    attempts: list[int] = []
    running = asyncio.Event()

    def service(stays: bool) -> Bus:
        bus = Bus(broker, source="shop")

        @bus.subscribe("orders", group="billing")
        @dead_letter()
        @retry(attempts=2)
        @timeout(60)
        async def charge(delivery: Delivery) -> None:
            attempts.append(delivery.attempt)
            running.set()
            if stays:
                await asyncio.Event().wait()

        return bus

    async def main() -> None:
        first = service(stays=True)
        await first.start()
        await first.publish("orders", 1, type="order.v1")
        await running.wait()
        await first.close(0)
        assert first.subscriptions[0].stats.dead_lettered == 0
        async with service(stays=False) as second:
            await settled(second)

    run(main())
    assert attempts == [1, 1]  # the shutdown has used up no attempt


def test_a_plain_def_handler_is_refused(bus: Bus, run: Any) -> None:
    @bus.subscribe("orders", group="billing", name="charge")
    @timeout(5)
    def charge(number: int) -> None: ...

    with pytest.raises(ConfigError) as caught:
        run(bus.start())
    assert str(caught.value) == (
        "timeout(5) on handler charge: it is a plain 'def', which runs in a thread and cannot be cancelled. "
        "Make it 'async def', or bound the time inside it."
    )


def test_a_batch_handler_is_refused(bus: Bus, run: Any) -> None:
    @bus.subscribe("orders", group="billing", batch=5, name="charge")
    @timeout(5)
    async def charge(numbers: list[int]) -> None: ...

    with pytest.raises(ConfigError, match=r"timeout\(5\) on handler charge: it takes batches"):
        run(bus.start())


@pytest.mark.parametrize("seconds", [0, -1, float("inf"), float("nan")])
def test_a_senseless_limit(seconds: float) -> None:
    with pytest.raises(
        ConfigError, match=r"timeout\(seconds\): .* is not a time limit. Use a number of seconds over 0"
    ):
        timeout(seconds)
