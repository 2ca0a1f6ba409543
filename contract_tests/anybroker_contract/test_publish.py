"""publish: it returns after durable acceptance, keeps the order of calls per key, and always ends."""

from __future__ import annotations

import asyncio

import pytest

from anybroker import Bus, Receipt
from anybroker.errors import StateError

from ._checkers import duplicates, inversions, lost, unexpected
from ._kit import Kit, counted


async def test_every_event_arrives_as_it_was_published(kit: Kit) -> None:
    """Every event with a receipt reaches the group, its attributes and its body equal to what was published."""
    topic = kit.topic()
    bus = kit.bus()
    log = kit.subscribe(bus, topic)
    async with bus:
        events = [counted(number, key=f"k{number % 5}") for number in range(kit.pick(150, 1000))]
        await asyncio.gather(*(bus.publish(topic, event) for event in events))
        await log.wait_done(event.id for event in events)
    assert {handling.event for handling in log.handlings} == set(events)
    assert not duplicates(log.handlings)


@pytest.mark.parametrize("count", [1, 100, 1000])
async def test_publish_many_gives_one_receipt_each(kit: Kit, count: int) -> None:
    """``publish_many`` returns one receipt an event, in order, each with the broker's id, and each event arrives."""
    topic = kit.topic()
    bus = kit.bus()
    log = kit.subscribe(bus, topic)
    async with bus:
        events = [counted(number) for number in range(count)]
        results = await bus.publish_many(topic, events)
        assert all(isinstance(result, Receipt) for result in results)
        receipts = [result for result in results if isinstance(result, Receipt)]
        assert [receipt.event for receipt in receipts] == events
        assert all(receipt.broker_id and receipt.topic == topic for receipt in receipts)
        await log.wait_done(event.id for event in events)
    assert not duplicates(log.handlings)


async def test_concurrent_publishers_lose_nothing(kit: Kit) -> None:
    """What many tasks publish at the same time arrives whole, nothing of it twice."""
    topic = kit.topic()
    bus = kit.bus()
    log = kit.subscribe(bus, topic)
    writers, each = kit.pick((20, 15), (50, 200))

    async def write(writer: int) -> list[str]:
        ids = []
        for number in range(each):
            event = counted(number, key=f"k{writer}", writer=f"w{writer}")
            await bus.publish(topic, event)
            ids.append(event.id)
        return ids

    async with bus:
        written = [id_ for ids in await asyncio.gather(*map(write, range(writers))) for id_ in ids]
        await log.wait_done(written)
    assert not lost(written, log.handlings)
    assert not unexpected(written, log.handlings)
    assert not duplicates(log.handlings)


async def test_the_order_of_calls_per_key_holds_under_concurrency(kit: Kit) -> None:
    """Events of one key arrive in the order in which ``publish`` was called, also by concurrent tasks."""
    topic = kit.topic()
    bus = kit.bus()
    log = kit.subscribe(bus, topic)
    async with bus:
        published = await kit.publish(bus, topic, kit.pick(200, 1000), keys=4)
        await log.wait_done(id_ for _, id_ in published)
    assert inversions(published, log.handlings) == []


async def test_publish_before_the_start_and_after_close_is_an_error(kit: Kit) -> None:
    """``publish`` on a Bus that is not started, or closed, raises StateError at once and says what to do."""
    topic = kit.topic()
    bus: Bus = kit.bus(consume=False)
    with pytest.raises(StateError, match="not started"):
        await bus.publish(topic, counted(0))
    async with bus:
        await bus.publish(topic, counted(1))
    with pytest.raises(StateError, match="closed"):
        await bus.publish(topic, counted(2))
