"""unreadable: what the broker takes from others, and its client for Python cannot read, stops nothing else."""

from __future__ import annotations

from anybroker.adapter import Foreign

from ._kit import Kit, counted
from .marks import needs_harness
from .test_dead_letter import letters


@needs_harness("raw")
async def test_a_message_that_the_client_cannot_read_stops_nothing(kit: Kit) -> None:
    """Among good events of its topic it is dead-lettered once, with its original body and headers. The others of its
    group, and another subscription of the same Bus, continue without a reconnect. When replayed, it fails again,
    alone."""
    topic, other = kit.topic(), kit.topic()
    await kit.declared(topic, "g")
    bus = kit.bus()
    log, beside = kit.subscribe(bus, topic), kit.subscribe(bus, other)
    async with kit.harness.raw() as client, bus:
        found = list(client.unreadable().values())
        for number, message in enumerate(found):
            await bus.publish(topic, counted(number, key=f"k{number}"))
            await client.send(topic, "g", message)
            await bus.publish(other, counted(number))
        await bus.publish(topic, counted(len(found)))
        await log.wait_done(f"w-{number}" for number in range(len(found) + 1))
        await beside.wait_done(f"w-{number}" for number in range(len(found)))
        dead = await letters(kit, bus, topic, len(found))
        await kit.drained(bus, topic)
        assert [each.stats.reconnects for each in bus.subscriptions] == [0, 0]
        if found:
            again = bus.dead_letters(topic, "g")
            again.patience = kit.brief
            await again.replay()
        dead_again = await letters(kit, bus, topic, len(found))
    assert len(log.handlings) == len(found) + 1
    for letters_ in (dead, dead_again):
        foreign = [letter.event for letter in letters_ if isinstance(letter.event, Foreign)]
        assert len(foreign) == len(letters_) == len(found)
        assert sorted(str(message.body) for message in foreign) == sorted(str(message.body) for message in found)
        assert [dict(message.headers).get("x-legacy") for message in foreign] == [b"yes"] * len(found)
    assert [letter.replays for letter in dead_again] == [1] * len(found)


@needs_harness("raw")
async def test_what_cannot_be_read_stops_no_new_consumer(kit: Kit) -> None:
    """Such messages are at the head of a group's backlog: a Bus that starts handles what is behind them."""
    topic = kit.topic()
    await kit.declared(topic, "g")
    bus = kit.bus()
    log = kit.subscribe(bus, topic)
    async with kit.harness.raw() as client:
        found = client.unreadable().values()
        for message in found:
            await client.send(topic, "g", message)
        async with kit.bus(consume=False) as publisher:
            await kit.publish(publisher, topic, 20, keys=5)
        async with bus:
            await log.wait_done(f"w-{number}" for number in range(20))
            await letters(kit, bus, topic, len(found))
            await kit.drained(bus, topic)
            assert bus.subscriptions[0].stats.reconnects == 0
    assert len(log.handlings) == 20
