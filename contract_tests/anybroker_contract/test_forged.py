"""forged: headers that the library or the broker writes, beside the event of another program, are not believed."""

from __future__ import annotations

from ._kit import Kit, counted
from .marks import needs_harness
from .raw.api import MINIMAL


@needs_harness("raw")
async def test_forged_headers_stop_and_end_nothing(kit: Kit) -> None:
    """An event of another program, in the middle of good ones of its key, with counts of starts and hand-overs, and a
    moment to wait for, that are not true: it is handled at once, at its first start, and so are those behind it."""
    topic = kit.topic()
    await kit.declared(topic, "g")
    bus = kit.bus()
    log = kit.subscribe(bus, topic)
    async with kit.harness.raw() as client, bus:
        for number in range(20):
            await bus.publish(topic, counted(number, key="k"))
            if number in (0, 10):
                attributes = {**MINIMAL, "id": f"forged-{number}", "partitionkey": "k"}
                await client.send(topic, "g", client.build(b"1", "application/json", attributes, client.forged(), "k"))
        expected = [f"w-{number}" for number in range(20)]
        expected += ["forged-0", "forged-10"]
        await log.wait_done(expected)
        await kit.drained(bus, topic)
    assert sorted(log.started) == sorted(expected)
    assert {handling.attempt for handling in log.handlings} == {1}
