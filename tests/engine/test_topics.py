"""Topics: the first publish to one declares it, and delays no other; one without a group is counted."""

from __future__ import annotations

import asyncio
from typing import Any, Literal

import pytest
from tests.engine.scripted_adapter import run

from anybroker import Bus, Event, MemoryBroker
from anybroker.adapter import (
    AdapterContext,
    Topology,
)
from anybroker.memory import MemoryAdapter


class Hanging(MemoryBroker):
    """Declares the topic "slow" when it is told to, and the others at once."""

    def __init__(self) -> None:
        super().__init__()
        self.begun = asyncio.Event()
        self.go_on = asyncio.Event()

    def make_adapter(self, context: AdapterContext) -> MemoryAdapter:
        broker = self
        adapter = super().make_adapter(context)
        right = adapter.declare

        async def declare(topology: Topology, mode: Literal["create", "verify"], /) -> None:
            if any(topic.name == "slow" for topic in topology.topics):
                broker.begun.set()
                await broker.go_on.wait()
            await right(topology, mode)

        adapter.declare = declare  # type: ignore[method-assign]
        return adapter


async def check() -> None:
    broker = Hanging()
    seen: list[Any] = []
    bus = Bus(broker, source="test", publish_deadline=5)

    @bus.subscribe("declared", group="g")
    async def handle(data: dict[str, Any]) -> None:
        seen.append(data)

    async with bus:
        slow = [asyncio.create_task(bus.publish("slow", {"n": n}, type="t", id=f"s-{n}", key="k")) for n in range(3)]
        await broker.begun.wait()
        async with asyncio.timeout(5):  # of the three, these are what must not wait
            await bus.publish("declared", {"n": 1}, type="t")
            await bus.publish("new", {"n": 1}, type="t")
        assert not any(task.done() for task in slow)
        broker.go_on.set()
        receipts = await asyncio.gather(*slow)
    numbers = [int(receipt.broker_id) for receipt in receipts]
    assert numbers == sorted(numbers), "those that waited go on in the order of their calls"


def test_a_declaration_that_hangs_delays_no_other_topic() -> None:
    asyncio.run(check())


def test_every_publish_without_a_group_is_counted() -> None:
    async def main() -> None:
        async with Bus(MemoryBroker(), source="test") as bus:
            for _ in range(3):
                await bus.publish("nobody", 1, type="t")
            await bus.publish_many("nobody", [Event.create(1, type="t", source="s")] * 2)
            assert bus.stats.without_group == 5
            await bus.declare("nobody", groups=["somebody"])
            await bus.publish("nobody", 1, type="t")
            assert bus.stats.without_group == 5

    run(main)


def test_what_is_forwarded_without_a_group_is_neither_counted_nor_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    """A relay forwards what others have published, to groups that it need not know. A publish of its own is another
    matter, before it and after it."""

    def warned() -> int:
        return sum("no group" in record.message for record in caplog.records)

    async def main() -> None:
        event = Event.create(1, type="t", source="s")
        async with Bus(MemoryBroker(), source="test") as bus:
            await bus.forward("first", event)
            await bus.forward("first", event)
            assert (bus.stats.without_group, warned()) == (0, 0)
            await bus.publish("first", 1, type="t")
            await bus.publish("first", 1, type="t")
            assert (bus.stats.without_group, warned()) == (2, 1)
            await bus.forward("first", event)
            assert (bus.stats.without_group, warned()) == (2, 1)

    run(main)
