"""The memory adapter: the order of what was put aside, and what it keeps."""

from __future__ import annotations

from typing import Any

from tests.engine.scripted_adapter import run

from anybroker import Event, MemoryBroker
from anybroker.adapter import (
    Ack,
    GroupSpec,
    Lane,
    TopicSpec,
    Topology,
)
from anybroker.engine.publisher import Publishing
from anybroker.memory import MemoryReceiver


def publishing(number: int, key: str | None = "k") -> Publishing:
    return Publishing(Event.create(number, type="t", source="s", key=key), "topic", None, None, None, "")


def test_memory_gives_what_was_put_aside_before_what_came_after_it() -> None:
    async def main() -> None:
        broker = MemoryBroker()
        broker.declare(Topology((TopicSpec("topic", (GroupSpec("group"),)),)), create=True)
        group = broker.group("topic", "group")
        listener = _Listener()
        one, two = MemoryReceiver(group, listener), MemoryReceiver(group, listener)
        events = [publishing(number) for number in range(3)]
        group.put(events[0])
        (first,) = await one.receive(10, lanes=None, timeout=1)
        group.put(events[1])
        assert not await two.receive(10, lanes=None, timeout=0.01)  # it is put aside: the other member has the key
        group.put(events[2])
        received = list(await one.receive(10, lanes=None, timeout=0.01))
        await one.settle([Ack(first), *map(Ack, received)])
        received += await one.receive(10, lanes=None, timeout=0.01)
        assert [item.event.data for item in received] == [1, 2]  # type: ignore[union-attr]

    run(main)


def test_memory_keeps_no_trace_of_receives_that_got_nothing() -> None:
    async def main() -> None:
        broker = MemoryBroker()
        broker.declare(Topology((TopicSpec("topic", (GroupSpec("group"),)),)), create=True)
        group = broker.group("topic", "group")
        receiver = MemoryReceiver(group, _Listener())
        for _ in range(3):
            assert not await receiver.receive(1, lanes=None, timeout=0.001)
        assert not group.waiting

    run(main)


class _Listener:
    def assigned(self, lane: Lane, note: str = "") -> None:
        pass

    async def revoked(self, lanes: Any, /) -> None:
        pass

    def lost(self, lanes: Any, /) -> None:
        pass
