"""many: what takes a broker longer than one request may is waited for, within the time that the Bus was given."""

from __future__ import annotations

import asyncio

import pytest

from ._kit import Kit, counted
from .marks import needs_harness


@needs_harness("hurried")
@pytest.mark.timeout(240)  # one broker writes some thousand things to a disk that others use too: 76 s were seen
async def test_many_topics_are_declared_at_once(kit: Kit) -> None:
    """Two hundred topics, each with a group, are created at the start of one Bus, although one of its requests may take
    only a second: ``connect_timeout`` limits the total. Then each accepts an event."""
    names = [kit.topic() for _ in range(200)]
    topics = {name: {"lanes": 1, "groups": ["g"]} for name in names}
    async with kit.bus(target=kit.hurried(), consume=False, topics=topics, connect_timeout=200.0) as bus:
        await asyncio.gather(*(bus.publish(name, counted(0)) for name in names))
