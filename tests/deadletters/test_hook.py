"""``Bus(on_dead_letter=…)``."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from anybroker import Bus, ConfigError, Delivery, MemoryBroker, Reject
from anybroker.testing import settled


def refusing(**settings: Any) -> Bus:
    bus = Bus(MemoryBroker(), source="shop", **settings)

    @bus.subscribe("orders", group="billing")
    async def charge(order: dict[str, Any]) -> None:
        raise Reject("no")

    return bus


async def publish(bus: Bus, count: int) -> None:
    for number in range(count):
        await bus.publish("orders", {"n": number}, type="order.v1", id=f"o-{number}")
    await settled(bus)


def test_it_is_called_once_the_letter_is_stored(run: Any) -> None:
    async def main() -> None:
        told: list[tuple[str, str]] = []

        async def tell(delivery: Delivery, error: BaseException) -> None:
            assert delivery.is_dead_lettered
            told.append((delivery.event.id, str(error)))

        async with refusing(on_dead_letter=tell) as bus:
            await publish(bus, 3)
        assert told == [("o-0", "no"), ("o-1", "no"), ("o-2", "no")]
        assert bus.subscriptions[0].stats.hooks_failed == 0

    run(main())


def test_its_failure_is_logged_and_counted_and_stops_nothing(run: Any, caplog: pytest.LogCaptureFixture) -> None:
    async def fail(delivery: Delivery, error: BaseException) -> None:
        raise ZeroDivisionError("a bug")

    async def main() -> None:
        async with refusing(on_dead_letter=fail) as bus:
            await publish(bus, 2)
        stats = bus.subscriptions[0].stats
        assert (stats.hooks_failed, stats.dead_lettered) == (2, 2)

    run(main())
    said = [record for record in caplog.records if record.name == "anybroker.dead_letters"]
    assert [record.getMessage() for record in said] == [
        "orders/billing: on_dead_letter failed: ZeroDivisionError",
    ] * 2
    assert all(record.levelno == logging.ERROR for record in said)


def test_nothing_waits_for_one_that_hangs(run: Any, caplog: pytest.LogCaptureFixture) -> None:
    async def hang(delivery: Delivery, error: BaseException) -> None:
        await asyncio.Event().wait()

    async def main() -> None:
        async with asyncio.timeout(20), refusing(on_dead_letter=hang, drain=0) as bus:
            await publish(bus, 1_005)
            stats = bus.subscriptions[0].stats
            assert (stats.dead_lettered, stats.hooks_failed) == (1_005, 4)  # one is under way, 1,000 wait
        assert stats.hooks_failed == 1_005

    run(main())
    assert any("on_dead_letter was not called" in message for message in caplog.messages)


def test_a_plain_function_is_refused() -> None:
    def tell(delivery: Delivery, error: BaseException) -> None: ...

    with pytest.raises(ConfigError, match="async def"):
        Bus(MemoryBroker(), source="shop", on_dead_letter=tell)  # type: ignore[arg-type]
