"""A cancellation that an adapter lets out of its client must not end a subscription in silence."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from typing import Any, Literal, cast

import pytest
from tests.engine.scripted_adapter import ScriptedBroker, bus_of, inbound, run, until

from anybroker import Bus, Event, MemoryBroker, PublishOutcomeUnknown, StateError
from anybroker.adapter import (
    Adapter,
    AdapterContext,
    Backlog,
    Inbound,
    Lane,
    LaneListener,
    Outbound,
    Receiver,
    Report,
    ReportsBacklog,
    Sender,
    Settlement,
    SubscriptionSpec,
    Topology,
)
from anybroker.errors import BrokerError, Unavailable
from anybroker.middleware import retry
from anybroker.testing import AdapterWrapper, ReceiverWrapper, SenderWrapper, adapter_of, settled


def test_the_receiver_is_taken_for_dead_and_replaced() -> None:
    async def main() -> None:
        broker = ScriptedBroker()
        bus = Bus(broker, source="test", idempotency="memory://")

        @bus.subscribe("topic", group="group")
        async def handle(event: Event[Any]) -> None:
            """Nothing comes."""

        async with asyncio.timeout(20), bus:
            stray: Any = asyncio.CancelledError()
            broker.receiver.die(stray)
            await until(lambda: bool(bus.problems), "a problem")
            assert bus.problems == {"topic/group": "reconnecting: receiving failed: CancelledError()"}
            await until(lambda: len(broker.receivers) == 2, "another receiver")
            await until(lambda: bus.problems == {}, "it is well again")
            assert bus.subscriptions[0].stats.reconnects == 1

    asyncio.run(main())


def test_closing_is_no_problem() -> None:
    async def main() -> None:
        broker = ScriptedBroker()
        bus = Bus(broker, source="test", idempotency="memory://")

        @bus.subscribe("topic", group="group")
        async def handle(event: Event[Any]) -> None:
            """Nothing comes."""

        async with asyncio.timeout(20):
            await bus.start()
            await bus.close(drain=0)
            assert bus.problems == {}

    asyncio.run(main())


@pytest.mark.parametrize("max_in_flight", [1, 2])
def test_a_cancellation_that_comes_after_its_handler_stops_nothing(max_in_flight: int) -> None:
    async def main() -> None:
        broker = ScriptedBroker()
        bus = Bus(broker, source="test", idempotency="memory://")
        tasks: list[asyncio.Task[Any]] = []
        seen: list[str] = []

        @bus.subscribe("topic", group="group", max_in_flight=max_in_flight)
        async def handle(event: Event[Any]) -> None:
            task = asyncio.current_task()
            assert task is not None
            tasks.append(task)
            seen.append(event.id)

        async with asyncio.timeout(20), bus:
            lane = broker.receiver.assign("a")
            pump = bus.subscriptions[0]._pump
            assert pump is not None
            broker.receiver.deliver(inbound(lane, 1))
            await until(lambda: seen == ["1"] and len(pump._idle) == 1, "the first")
            accept = pump._intake.accept

            def accept_and_cancel(batch: Any) -> None:
                accept(batch)
                tasks[0].cancel()  # the worker is woken, and has not run yet

            pump._intake.accept = accept_and_cancel  # type: ignore[method-assign]
            broker.receiver.deliver(inbound(lane, 2))
            await until(lambda: tasks[0].done(), "the end of the worker")
            pump._intake.accept = accept  # type: ignore[method-assign]
            broker.receiver.deliver(inbound(lane, 3))
            await until(lambda: seen == ["1", "2", "3"], "the others")

    asyncio.run(main())


def test_a_cancellation_while_a_worker_gives_way_stops_nothing() -> None:
    async def main() -> None:
        broker = ScriptedBroker()
        bus = Bus(broker, source="test", idempotency="memory://")
        seen: list[str] = []

        @bus.subscribe("topic", group="group", max_in_flight=1)
        async def handle(event: Event[Any]) -> None:
            seen.append(event.id)
            if len(seen) == 32:  # the worker gives way after this one
                task = asyncio.current_task()
                assert task is not None
                asyncio.get_running_loop().call_soon(task.cancel)

        async with asyncio.timeout(20), bus:
            lane = broker.receiver.assign("a")
            broker.receiver.deliver(*(inbound(lane, at) for at in range(40)))
            await until(lambda: len(seen) == 40, "the others")

    asyncio.run(main())


@pytest.mark.parametrize("attempts", [1, 5])
def test_a_loop_that_ends_under_the_bus_starts_no_more_handlers_and_fails_none(attempts: int) -> None:
    broker = ScriptedBroker()
    bus = Bus(broker, source="test", idempotency="memory://")
    seen: list[str] = []

    @bus.subscribe("topic", group="group", max_in_flight=2, middleware=[retry(attempts=attempts)])
    async def handle(event: Event[Any]) -> None:
        seen.append(event.id)
        await asyncio.Event().wait()

    async def main() -> None:
        await bus.start()
        lane = broker.receiver.assign("a")
        broker.receiver.deliver(*(inbound(lane, at, f"k{at}") for at in range(5)))
        await until(lambda: len(seen) == 2, "the handlers")

    asyncio.run(main())
    assert seen == ["0", "1"]
    assert broker.sent == []
    assert bus.subscriptions[0].stats.stuck == bus.subscriptions[0].stats.retried == 0


class Cancelling:
    """A broker whose calls of one name raise ``CancelledError`` out of the client, for the first ``times`` times."""

    def __init__(self, call: str, times: int) -> None:
        self.broker = MemoryBroker()
        self.call = call
        self.left = times

    def make_adapter(self, context: AdapterContext) -> Adapter:
        return _CancellingAdapter(adapter_of(self.broker, context), self)

    def stray(self, call: str) -> None:
        """Raises if it is this call's turn."""
        if call == self.call and self.left:
            self.left -= 1
            raise asyncio.CancelledError


class _CancellingAdapter(AdapterWrapper):
    def __init__(self, inner: Adapter, broker: Cancelling) -> None:
        super().__init__(inner)
        self._broker = broker

    async def connect(self) -> None:
        self._broker.stray("connect")
        await self.inner.connect()

    async def declare(self, topology: Topology, mode: Literal["create", "verify"], /) -> None:
        self._broker.stray("declare")
        await self.inner.declare(topology, mode)

    async def open_sender(self) -> Sender:
        self._broker.stray("open_sender")
        return await super().open_sender()

    async def open_receiver(self, subscription: SubscriptionSpec, listener: LaneListener, /) -> Receiver:
        self._broker.stray("open_receiver")
        return await super().open_receiver(subscription, listener)

    async def backlog(self, topic: str, group: str, /) -> Backlog:
        self._broker.stray("backlog")
        return await cast("ReportsBacklog", self.inner).backlog(topic, group)

    async def close(self) -> None:
        await self.inner.close()
        self._broker.stray("close")

    def wrap_sender(self, sender: Sender) -> Sender:
        return _CancellingSender(sender, self._broker)

    def wrap_receiver(self, receiver: Receiver, subscription: SubscriptionSpec) -> Receiver:
        return _CancellingReceiver(receiver, self._broker)


class _CancellingSender(SenderWrapper):
    def __init__(self, inner: Sender, broker: Cancelling) -> None:
        super().__init__(inner)
        self._broker = broker

    async def submit(self, batch: Sequence[Outbound], report: Report, /) -> None:
        self._broker.stray("submit")
        await self.inner.submit(batch, report)

    async def close(self) -> None:
        await self.inner.close()
        self._broker.stray("sender.close")


class _CancellingReceiver(ReceiverWrapper):
    def __init__(self, inner: Receiver, broker: Cancelling) -> None:
        super().__init__(inner)
        self._broker = broker

    async def receive(self, limit: int, /, *, lanes: Collection[Lane] | None, timeout: float) -> Sequence[Inbound]:
        batch = await self.inner.receive(limit, lanes=lanes, timeout=timeout)
        if batch:
            self._broker.stray("receive")
        return batch

    async def settle(self, batch: Sequence[Settlement], /) -> Sequence[BrokerError | None]:
        self._broker.stray("settle")
        return await self.inner.settle(batch)


@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.parametrize("call", ["receive", "settle"])
def test_a_receiver_whose_call_is_cancelled_is_replaced_and_nothing_is_lost(call: str, times: int) -> None:
    async def main() -> None:
        broker = Cancelling(call, times)
        bus = Bus(broker, source="test", idempotency="memory://")
        seen: list[str] = []

        @bus.subscribe("topic", group="group")
        async def handle(event: Event[Any]) -> None:
            seen.append(event.id)

        async with asyncio.timeout(20), bus:
            for number in range(5):
                await bus.publish("topic", number, type="t", id=str(number), key="k")
            await settled(bus, deadline=15)
            assert broker.left == 0
            assert list(dict.fromkeys(seen)) == ["0", "1", "2", "3", "4"]
            await until(lambda: bus.problems == {}, "it is well again")
            assert bus.subscriptions[0].stats.reconnects == times
            await bus.publish("topic", 5, type="t", id="5", key="k")
            await settled(bus)
            assert seen[-1] == "5"

    asyncio.run(main())


def test_a_submit_that_is_cancelled_is_an_unknown_outcome_and_publishing_goes_on() -> None:
    async def main() -> None:
        bus = Bus(Cancelling("submit", 1), source="test", consume=False, topics={"topic": {"groups": ["g"]}})
        async with asyncio.timeout(20), bus:
            with pytest.raises(PublishOutcomeUnknown) as caught:
                await bus.publish("topic", 1, type="t", id="1")
            assert caught.value.event is not None
            await bus.publish("topic", 1, type="t", id="1")
            assert (bus.stats.published, bus.stats.unknown) == (1, 1)
            assert (await bus.backlog("topic", "g")).lag == 1

    asyncio.run(main())


@pytest.mark.parametrize("call", ["connect", "declare", "open_sender", "open_receiver"])
def test_a_call_that_is_cancelled_while_the_bus_starts_is_an_error_of_the_start(call: str) -> None:
    async def main() -> None:
        bus = Bus(Cancelling(call, 1), source="test", idempotency="memory://")

        @bus.subscribe("topic", group="group")
        async def handle(event: Event[Any]) -> None:
            """Nothing comes."""

        async with asyncio.timeout(20):
            with pytest.raises(Unavailable, match="the adapter's client cancelled its own call"):
                await bus.start()

    asyncio.run(main())


@pytest.mark.parametrize("call", ["close", "sender.close"])
def test_a_close_that_is_cancelled_closes_the_bus_all_the_same(call: str) -> None:
    async def main() -> None:
        broker = Cancelling(call, 1)
        bus = Bus(broker, source="test", consume=False, topics={"topic": {"groups": ["g"]}})
        async with asyncio.timeout(20):
            async with bus:
                await bus.publish("topic", 1, type="t")
            assert broker.left == 0
            await bus.close()  # again: at once
            with pytest.raises(StateError):
                await bus.publish("topic", 1, type="t")

    asyncio.run(main())


def test_a_count_that_is_cancelled_is_unavailable() -> None:
    async def main() -> None:
        bus = Bus(Cancelling("backlog", 1), source="test", consume=False, topics={"topic": {"groups": ["g"]}})
        async with asyncio.timeout(20), bus:
            with pytest.raises(Unavailable, match="backlog: the adapter's client cancelled its own call"):
                await bus.backlog("topic", "g")
            assert (await bus.backlog("topic", "g")).lag == 0

    asyncio.run(main())


@pytest.mark.parametrize("call", ["open_receiver", "receive", "settle"])
def test_reading_dead_letters_that_is_cancelled_is_unavailable(call: str) -> None:
    async def main() -> None:
        broker = Cancelling(call, 0)
        topics = {"topic": {"groups": ["g"]}, "topic.g.dlq": {"groups": ["dlq"]}}
        bus = Bus(broker, source="test", consume=False, topics=topics)
        async with asyncio.timeout(20), bus:
            await bus.publish("topic.g.dlq", 1, type="t")
            broker.left = 1
            with pytest.raises(Unavailable, match="dead letters: the adapter's client cancelled its own call"):
                await bus.dead_letters("topic", "g").discard("no such id")
            assert len(await bus.dead_letters("topic", "g").list()) == 1

    asyncio.run(main())


QUICK = [retry(attempts=2, first=0.0)]


def test_a_handler_that_raises_cancelled_error_by_itself_has_failed() -> None:
    async def main() -> None:
        broker = ScriptedBroker()
        bus = bus_of(broker)
        seen: list[str] = []

        @bus.subscribe("topic", group="group", middleware=QUICK)
        async def handle(event: Event[Any]) -> None:
            seen.append(event.id)
            if event.id == "1":
                raise asyncio.CancelledError

        async with bus:
            lane = broker.receiver.assign("a")
            broker.receiver.deliver(inbound(lane, 1), inbound(lane, 2))
            await until(lambda: broker.receiver.position(lane) == 3, "both are finished")
            assert seen == ["1", "1", "2"]
            assert [item.topic for item in broker.sent] == ["topic.group.dlq"]

    run(main)
