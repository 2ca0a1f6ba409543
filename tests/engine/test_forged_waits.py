"""Moments to wait for that another program wrote to a group's inlet, or that an adapter passed on."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

import pytest

from anybroker import Bus, Delivery, Event, Retry
from anybroker.deadletters.sending import replay
from anybroker.engine.inlet import LONGEST_RELEASE
from anybroker.engine.seldom import Seldom
from anybroker.memory import MemoryBroker
from anybroker.middleware import retry

from .scripted_adapter import until

HOUR = 3600.0


def _event(number: int) -> Event[Any]:
    return Event.create(number, source="test", type="t", id=str(number))


async def _waiting(seconds: float, count: int, **options: Any) -> tuple[Bus, list[int]]:
    """A Bus to which this many events were sent through the inlet, to be handled after this many seconds."""
    bus = Bus(MemoryBroker(), source="test")
    seen: list[int] = []

    async def charge(number: int) -> None:
        seen.append(number)

    bus.subscribe("orders", group="billing", **options)(charge)
    await bus.start()
    headers = {"anybroker-replays": "1", "anybroker-not-before": f"{time.time() + seconds:.3f}"}
    for number in range(count):
        await replay(bus._core.copies, _event(number), "orders", "billing", headers)
    return bus, seen


@pytest.mark.parametrize("seconds", [LONGEST_RELEASE + HOUR, float("inf"), float("nan"), 9e18])
def test_a_wait_that_we_never_write_is_not_believed(seconds: float, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        bus, seen = await _waiting(seconds, 3)
        await until(lambda: seen == [0, 1, 2])
        assert bus.subscriptions[0].stats.not_believed == 3
        await bus.close()

    asyncio.run(main())
    said = [record for record in caplog.records if "is not believed" in record.getMessage()]
    assert [record.levelno for record in said] == [logging.WARNING]  # once, however many there are


def test_a_wait_that_may_be_ours_is_and_problems_say_what_it_holds_up() -> None:
    async def main() -> None:
        bus, seen = await _waiting(LONGEST_RELEASE - HOUR, 3, max_ahead=3)
        subscription = bus.subscriptions[0]
        await until(lambda: subscription.problem is not None)
        said = "max_ahead=3 is reached: everything waits behind an event of no key that may not start yet"
        assert bus.problems == {"orders/billing": said}
        assert (seen, subscription.stats.not_believed, subscription.stats.stalled) == ([], 0, 1)
        await bus.close(drain=0)

    asyncio.run(main())


def test_what_is_released_for_longer_than_that_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would not be believed when it comes back, and start too early."""

    async def main() -> None:
        bus = Bus(MemoryBroker(), source="test", topics={"orders": {"ordered": False}})

        @bus.subscribe("orders", group="billing")
        @retry(mode="release")
        async def charge(delivery: Delivery) -> None:
            raise Retry(after=LONGEST_RELEASE + HOUR)

        async with bus:
            subscription = bus.subscriptions[0]
            pump: Any = subscription._pump
            sent: list[Any] = []

            async def copy(*given: Any) -> None:
                sent.append(given)

            pump._outcome._release_copy = copy
            pump._outcome._released_by_broker = False
            await bus.publish("orders", 1, type="t")
            await until(lambda: subscription.stats.retried == 1)
            assert (sent, subscription.stats.released, pump._holdings.strands.held) == ([], 0, 1)
            await bus.close(drain=0)

    asyncio.run(main())


def test_what_happens_often_is_said_once_in_a_while() -> None:
    say = Seldom(every=0.05)
    assert [say() for _ in range(5)] == [1, 0, 0, 0, 0]
    time.sleep(0.06)
    assert [say(), say()] == [5, 0]
