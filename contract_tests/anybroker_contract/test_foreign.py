"""foreign: messages of other programs are read with their quirks; what is not an event is kept raw, or wrapped."""

from __future__ import annotations

from typing import Any

from anybroker.adapter import Foreign

from ._kit import Kit, counted
from .marks import needs_harness
from .test_dead_letter import letters
from .test_interop import canonical


@needs_harness("raw")
async def test_the_quirks_of_other_programs_are_read(kit: Kit) -> None:
    """Events as other languages and products write them (no time, empty or null attributes, attribute headers on a
    structured event, other prefixes, envelopes) reach the handler correctly, and nothing is added."""
    topic = kit.topic()
    await kit.declared(topic, "g")
    arrived: list[Any] = []

    async def keep(delivery: Any) -> None:
        arrived.append(delivery.event)

    bus = kit.bus()
    log = kit.subscribe(bus, topic, behave=keep)
    async with kit.harness.raw() as client, bus:
        for name, quirk in client.quirks().items():
            if quirk.attributes is None:
                continue
            await client.send(topic, "g", quirk.message)
            await log.until(lambda: arrived, f"a message with this quirk: {name}")
            event = arrived.pop()
            assert (name, canonical(event.attributes)) == (name, quirk.attributes)
            assert (name, event.body) == (name, quirk.body)
        assert bus.subscriptions[0].stats.foreign == 0


@needs_harness("raw")
async def test_what_is_no_event_is_dead_lettered_as_it_came(kit: Kit) -> None:
    """Messages that are not CloudEvents, or broken ones, are dead-lettered with their original body and headers. Each
    says what is wrong, equal ones are each kept, and events among them are handled."""
    topic = kit.topic()
    await kit.declared(topic, "g")
    bus = kit.bus()
    log = kit.subscribe(bus, topic)
    async with kit.harness.raw() as client, bus:
        broken = [quirk for quirk in client.quirks().values() if quirk.attributes is None]
        broken += broken[-2:]  # equal ones are two: they have no id that they could be copies by
        for number, quirk in enumerate(broken):
            await client.send(topic, "g", quirk.message)
            await bus.publish(topic, counted(number))
        await log.wait_done(f"w-{number}" for number in range(len(broken)))
        found = await letters(kit, bus, topic, len(broken))
        assert bus.subscriptions[0].stats.foreign == len(broken)
        await kit.drained(bus, topic)
    assert len(log.handlings) == len(broken)
    foreign = [letter.event for letter in found if isinstance(letter.event, Foreign)]
    assert len(foreign) == len(found) == len(broken)
    assert sorted(str(message.body) for message in foreign) == sorted(str(quirk.body) for quirk in broken)
    legacy = [dict(message.headers).get("x-legacy") for message in foreign]
    assert legacy.count(b"yes") == len([quirk for quirk in broken if "x-legacy" in quirk.message.headers]) >= 2
    assert all(letter.reason.startswith("not a CloudEvent: ") and letter.attempts == 0 for letter in found)


@needs_harness("raw")
async def test_what_is_no_event_is_wrapped_where_the_topic_says_so(kit: Kit) -> None:
    """With ``foreign = "wrap"`` a message of a program without CloudEvents reaches the handler as an event around its
    bytes, with a new id and its headers, also after a restart of the consumer."""
    topic = kit.topic()
    await kit.declared(topic, "g")
    log = kit.log()
    bodies = [b'{"order": 1}', b"order 2", b"order 2", b"order 3"]
    async with kit.harness.raw() as client:
        for expected, half in ((2, bodies[:2]), (4, bodies[2:])):
            bus = kit.bus(topics={topic: {"foreign": "wrap"}})
            kit.subscribe(bus, topic, log=log)
            async with bus:
                for body in half:
                    await client.send(topic, "g", client.build(body, "application/json", None, {"x-legacy": "yes"}))
                await log.wait_started(expected)
                await kit.drained(bus, topic)
    assert sorted(handling.event.body for handling in log.handlings) == sorted(bodies)
    assert {handling.event.type for handling in log.handlings} == {"io.anybroker.foreign.v1"}
    assert [handling.headers["x-legacy"] for handling in log.handlings] == ["yes"] * 4
    assert len({handling.id for handling in log.handlings}) == 4
