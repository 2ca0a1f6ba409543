"""hops: services that answer each other do not run for ever."""

from __future__ import annotations

import pytest

from anybroker import Delivery, Event

from ._kit import TYPE, Kit, counted
from .test_dead_letter import letters


@pytest.mark.parametrize("limit", [3, 14])
async def test_an_endless_chain_is_dead_lettered_with_the_way_it_went(kit: Kit, limit: int) -> None:
    """Two groups answer each other: after ``max_hops`` handlers the next event is dead-lettered, unstarted, and its
    reason says what led to it."""
    ping, pong = kit.topic("ping"), kit.topic("pong")
    bus = kit.bus(max_hops=limit)

    async def answer(delivery: Delivery) -> None:
        n = delivery.event.data["n"] + 1
        await bus.publish(pong if delivery.topic == ping else ping, {"n": n}, type=TYPE, key="k")

    logs = [kit.subscribe(bus, topic, behave=answer) for topic in (ping, pong)]
    async with bus:
        await bus.publish(ping, counted(0, key="k"))
        (letter,) = await letters(kit, bus, pong if limit % 2 == 0 else ping, 1)
    handled = sorted(handling.event.data["n"] for log in logs for handling in log.handlings)
    assert handled == list(range(limit + 1))
    assert isinstance(letter.event, Event)
    assert letter.event.data["n"] == limit + 1
    assert letter.event["causationdepth"] == str(limit + 1)
    assert letter.event["correlationid"] == "w-0"
    assert letter.attempts == 0
    assert f"max_hops={limit}" in letter.reason
    way = f"{ping}/g > {pong}/g"
    assert (way in letter.reason) == (limit >= 9), letter.reason


async def test_a_chain_that_begins_anew_goes_on(kit: Kit) -> None:
    """A handler that means to go on, such as one that sends itself the next page, says so in the event."""
    topic = kit.topic()
    bus = kit.bus(max_hops=2)

    async def next_page(delivery: Delivery) -> None:
        n = delivery.event.data["n"] + 1
        if n < 6:
            await bus.publish(topic, {"n": n}, type=TYPE, extensions={"causationdepth": "0"})

    log = kit.subscribe(bus, topic, behave=next_page)
    async with bus:
        await bus.publish(topic, counted(0))
        await log.until(lambda: len(log.done) == 6, "the last page")
        assert bus.subscriptions[0].stats.dead_lettered == 0
