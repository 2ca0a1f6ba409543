"""gaps: what a broker keeps in a topic for itself is not an event, and nobody waits for it."""

from __future__ import annotations

from ._kit import Kit
from .marks import needs_harness, requires


@requires("backlog")
@needs_harness("raw")
async def test_what_is_no_event_does_not_count_as_waiting(kit: Kit) -> None:
    """With transactions of other programs in a topic, or anything else that takes a place there but is not a message,
    the backlog of a group is what its handlers will get: nothing once everything is handled."""
    topic = kit.topic()
    await kit.declared(topic, "g")
    bus = kit.bus()
    log = kit.subscribe(bus, topic)
    async with kit.harness.raw() as client:
        async with bus:
            await client.clutter(topic)
            first = await kit.publish(bus, topic, 12, keys=12)
            await client.clutter(topic)
            await log.wait_done(id_ for _, id_ in first)
            await kit.drained(bus, topic)
            await client.clutter(topic)
            assert (await bus.backlog(topic, "g")).lag == 0
        async with kit.bus(consume=False) as publisher:
            await client.clutter(topic)
            await kit.publish(publisher, topic, 1, keys=1, first=12)
            assert (await publisher.backlog(topic, "g")).lag == 1
