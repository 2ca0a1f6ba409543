"""Bugs found by reading the publish side, the Bus and the memory adapter: each test failed before its fix."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import pytest
from tests.engine.scripted_adapter import ScriptedBroker, until

from anybroker import Bus, Event, MemoryBroker
from anybroker.adapter import (
    Ack,
    GroupSpec,
    Lane,
    Outbound,
    Receipt,
    Report,
    TopicSpec,
    Topology,
)
from anybroker.engine.publisher import Publisher, Publishing
from anybroker.errors import PublishOutcomeUnknown, StateError, Unavailable
from anybroker.memory import MemoryReceiver
from anybroker.middleware.outgoing import Outgoing, PublishHandler, publish_middleware
from anybroker.stats import PublishStats


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(20):
            await main()

    asyncio.run(bounded())


class ByHand:
    """A sender whose answers the test gives."""

    def __init__(self) -> None:
        self.sent: list[Outbound] = []
        self.report: Report | None = None
        self.hang = False
        self.error: PublishOutcomeUnknown | None = None

    async def submit(self, batch: Sequence[Outbound], report: Report, /) -> None:
        self.report = report
        self.sent += batch
        if self.error is not None:
            raise self.error
        if self.hang:
            await asyncio.Event().wait()

    def answer(self, item: Outbound, result: Any = None) -> None:
        assert self.report is not None
        self.report(item, result or Receipt(item.topic, "1"))

    async def close(self) -> None:
        pass


def publishing(number: int, key: str | None = "k") -> Publishing:
    return Publishing(Event.create(number, type="t", source="s", key=key), "topic", None, None, None, "")


def test_a_publish_ends_by_its_deadline_while_the_sender_hangs_on_an_earlier_one() -> None:
    async def main() -> None:
        sender = ByHand()
        sender.hang = True
        publisher = Publisher(sender, 0.2, PublishStats())
        with pytest.raises(PublishOutcomeUnknown):
            await publisher.send(publishing(1))
        await asyncio.sleep(0.15)  # the last look at the deadlines found nothing in flight
        async with asyncio.timeout(2):
            with pytest.raises(Unavailable):
                await publisher.send(publishing(2))
        await publisher.close(0)

    run(main)


def test_each_unknown_outcome_carries_its_own_event() -> None:
    async def main() -> None:
        sender = ByHand()
        sender.error = PublishOutcomeUnknown("connection lost")
        publisher = Publisher(sender, 5, PublishStats())
        items = [publishing(number) for number in range(3)]
        results = await asyncio.gather(*map(publisher.send, items), return_exceptions=True)
        assert [getattr(result, "event", None) for result in results] == [item.event for item in items]
        await publisher.close(0)

    run(main)


def test_a_retry_waits_for_the_outcome_of_a_later_event_of_its_key() -> None:
    async def main() -> None:
        sender = ByHand()
        publisher = Publisher(sender, 5, PublishStats())
        first, second, other = publishing(1), publishing(2), publishing(3, "other")
        futures = [publisher.send(item) for item in (first, second, other)]
        await until(lambda: len(sender.sent) == 3)
        sender.answer(first, Unavailable("its turn was refused"))
        sender.answer(other, Unavailable("too"))
        await until(lambda: len(sender.sent) >= 4, "what may be sent again is")
        assert first not in sender.sent[3:]
        sender.answer(second)
        sender.answer(other)
        results = await asyncio.gather(*futures, return_exceptions=True)
        assert isinstance(results[0], Unavailable)
        assert isinstance(results[1], Receipt)
        assert first not in sender.sent[3:]
        await publisher.close(0)

    run(main)


def test_a_confirmation_out_of_order_does_not_hide_the_latest_one() -> None:
    async def main() -> None:
        sender = ByHand()
        publisher = Publisher(sender, 5, PublishStats())
        items = [publishing(number) for number in range(3)]
        futures = [publisher.send(item) for item in items]
        await until(lambda: len(sender.sent) == 3)
        sender.answer(items[2])
        sender.answer(items[0])
        sender.answer(items[1], Unavailable("no"))
        async with asyncio.timeout(5):
            results = await asyncio.gather(*futures, return_exceptions=True)
        assert isinstance(results[1], Unavailable)
        assert len(sender.sent) == 3
        await publisher.close(0)

    run(main)


def test_close_while_starting_leaves_nothing_running() -> None:
    async def main() -> None:
        broker = ScriptedBroker()
        connecting, go = asyncio.Event(), asyncio.Event()

        async def connect(*_: object) -> None:
            connecting.set()
            await go.wait()

        broker.on_connect = connect
        bus = Bus(broker, source="test", idempotency="memory://")

        @bus.subscribe("topic", group="group")
        async def handle(event: Event[Any]) -> None:
            pass

        starting = asyncio.create_task(bus.start())
        await connecting.wait()
        closing = asyncio.create_task(bus.close())
        for _ in range(10):
            await asyncio.sleep(0)
        go.set()
        await asyncio.gather(starting, closing, return_exceptions=True)
        assert all(receiver.closed for receiver in broker.receivers)
        with pytest.raises(StateError):
            await bus.publish("topic", 1, type="t")
        left = {task.get_name() for task in asyncio.all_tasks() if task.get_name().startswith("anybroker")}
        assert not left

    run(main)


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


@publish_middleware
async def passing(outgoing: Outgoing, call_next: PublishHandler) -> Receipt:
    await asyncio.sleep(0)
    return await call_next(outgoing)


def test_publish_many_keeps_its_place_through_publish_middleware() -> None:
    async def main() -> None:
        broker = ScriptedBroker()
        async with Bus(broker, source="test", publish_middleware=[passing]) as bus:
            await bus.publish("topic", 0, type="t")
            events = [Event.create(number, type="t", source="s", key="k") for number in range(1, 5)]
            await asyncio.gather(
                bus.publish("topic", events[0]), bus.publish_many("topic", events[1:3]), bus.publish("topic", events[3])
            )
            assert [item.event.data for item in broker.sent] == [0, 1, 2, 3, 4]  # type: ignore[union-attr]

    run(main)


def test_a_cancelled_publish_lets_nobody_past_the_one_before_it() -> None:
    async def main() -> None:
        broker = ScriptedBroker()
        go = asyncio.Event()

        @publish_middleware
        async def first_waits(outgoing: Outgoing, call_next: PublishHandler) -> Receipt:
            if outgoing.event.data == 1:
                await go.wait()
            return await call_next(outgoing)

        async with Bus(broker, source="test", publish_middleware=[first_waits]) as bus:
            await bus.publish("topic", 0, type="t")
            tasks = [asyncio.create_task(bus.publish("topic", number, type="t", key="k")) for number in (1, 2, 3)]
            await asyncio.sleep(0)
            tasks[1].cancel()
            for _ in range(10):
                await asyncio.sleep(0)
            go.set()
            await asyncio.gather(*tasks, return_exceptions=True)
            assert [item.event.data for item in broker.sent] == [0, 1, 3]  # type: ignore[union-attr]

    run(main)


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


def test_a_cancelled_run_ends_its_main() -> None:
    async def main() -> None:
        bus = Bus(MemoryBroker(), source="test")
        begun, ended = asyncio.Event(), asyncio.Event()

        async def own() -> None:
            begun.set()
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()

        running = asyncio.create_task(bus.run_async(own))
        await begun.wait()
        running.cancel()
        await asyncio.wait((running,))
        await asyncio.sleep(0)
        assert ended.is_set()

    run(main)
