"""A progress callback that raises: what was replayed before it is settled, and not replayed again."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from anybroker import Bus, Reject
from anybroker.memory import MemoryBroker
from anybroker.middleware import retry
from anybroker.testing import settled


async def check() -> None:
    seen: list[int] = []
    broken = True
    bus = Bus(MemoryBroker(), source="test")

    @bus.subscribe("orders", group="g")
    @retry(attempts=1)
    async def handle(data: dict[str, Any]) -> None:
        if broken:
            raise Reject("no")
        seen.append(data["n"])

    def progress(_: int) -> None:
        raise ZeroDivisionError("the caller's own")

    async with bus:
        for n in range(5):
            await bus.publish("orders", {"n": n}, type="t")
        await settled(bus)
        broken = False
        queue = bus.dead_letters("orders", "g")
        queue.patience = 0.1
        with pytest.raises(ZeroDivisionError):
            await queue.replay(progress=progress)
        await queue.replay()
        await settled(bus)
        assert await queue.list() == []
    assert sorted(seen) == list(range(5))


def test_a_progress_that_raises_leaves_nothing_to_be_replayed_twice() -> None:
    asyncio.run(check())
