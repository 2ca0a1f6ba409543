"""Counts in headers that anybody could have written: thousands of digits, which ``int()`` refuses."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from anybroker import Bus, Delivery, Event, Reject
from anybroker.deadletters.sending import replay
from anybroker.memory import MemoryBroker
from anybroker.middleware import retry
from anybroker.testing import settled


async def _from_the_queue(text: str) -> None:
    broker = MemoryBroker()
    bus = Bus(broker, source="test")
    broken = True
    seen: list[int] = []

    @bus.subscribe("orders", group="billing")
    @retry(attempts=1)
    async def charge(number: int) -> None:
        if broken:
            raise Reject("no")
        seen.append(number)

    async with bus:
        for number in range(2):
            await bus.publish("orders", number, type="t")
        await settled(bus)
        broken = False
        queue = bus.dead_letters("orders", "billing")
        queue.patience = 0.1
        first: Any = next(group.fresh[0] for group in broker.topics[queue.dead_letter_topic].values() if group.fresh)
        first.headers = {**first.headers, "anybroker-dead-replays": text, "anybroker-dead-attempts": text}
        letters = await queue.list()
        assert [(letter.replays, letter.attempts) for letter in letters] == [(0, 0), (0, 1)]
        assert len(await queue.replay()) == 2
        await settled(bus)
        assert await queue.list() == []
        assert bus.problems == {}
    assert sorted(seen) == [0, 1]


async def _on_the_way_in(text: str) -> None:
    bus = Bus(MemoryBroker(), source="test")
    seen: list[tuple[int, int]] = []

    @bus.subscribe("orders", group="billing")
    async def charge(number: int, delivery: Delivery) -> None:
        seen.append((number, delivery.attempt))

    async with bus:
        for number in range(2):
            event = Event.create(number, source="test", type="t")
            await replay(
                bus._core.copies, event, "orders", "billing", {"anybroker-replays": "1", "anybroker-attempts": text}
            )
        async with asyncio.timeout(10):
            await settled(bus)
        assert bus.problems == {}
    assert seen == [(0, 1), (1, 1)]


@pytest.mark.parametrize("text", ["9" * 5_000, "-1", "1e3", "\u0661", ""], ids=["5000", "-1", "1e3", "arabic", "empty"])
@pytest.mark.parametrize("way", [_from_the_queue, _on_the_way_in])
def test_a_count_that_cannot_be_ours_counts_as_none(way: Any, text: str) -> None:
    asyncio.run(way(text))


def test_what_a_replay_never_writes_is_not_copied_on() -> None:
    """From the inlet to the dead letter."""

    async def main() -> None:
        bus = Bus(MemoryBroker(), source="test")

        @bus.subscribe("orders", group="billing")
        @retry(attempts=1)
        async def charge(number: int) -> None:
            raise Reject("no")

        forged = {"anybroker-replays": "9" * 5_000, "anybroker-replayed-at": "x" * 100_000}
        async with bus:
            await replay(bus._core.copies, Event.create(1, source="test", type="t"), "orders", "billing", forged)
            await settled(bus)
            queue = bus.dead_letters("orders", "billing")
            queue.patience = 0.1
            (letter,) = await queue.list()
            assert letter.replays == 0
            assert max(map(len, letter.headers.values())) < 1_000

    asyncio.run(main())
