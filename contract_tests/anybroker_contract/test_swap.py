"""swap: one program does the same on every broker, event by event."""

from __future__ import annotations

import asyncio

from anybroker.memory import MemoryBroker

from ._kit import Kit
from ._swap import PLACES, run


async def test_one_program_does_the_same_on_every_broker(kit: Kit) -> None:
    """A program on this broker and on the memory broker reports the same for each event: starts with their attempts,
    attributes, body and headers, the order of each key, dead letters with their reasons."""
    topic = kit.topic()
    async with asyncio.timeout(kit.patience):
        told = await run(kit.target, topic)
    expected = await run(MemoryBroker(), topic)
    refused, expected_refusal = told.pop("refused"), expected.pop("refused")
    assert told == expected
    assert [len(told["order"][key]) for key in ("parcel-1", "parcel-2", "no key")] == [len(PLACES)] * 3
    assert "start_at_time" in expected_refusal
    if kit.capabilities.start_at_time:
        assert refused is None
    else:
        name = kit.capabilities.adapter
        assert refused == expected_refusal.replace("the memory adapter", f"the {name} adapter")
