"""Closing: what is waited for, what is cancelled, and that nothing keeps the Bus open."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import pytest
from tests.engine.scripted_adapter import (
    PER_MESSAGE,
    ScriptedBroker,
    assert_nothing_open,
    bus_of,
    inbound,
    run,
    until,
    with_handler,
)

from anybroker import Event
from anybroker.adapter import Inbound, Release, Settlement
from anybroker.errors import BrokerError, Unavailable
from anybroker.middleware import retry


@pytest.mark.parametrize("call", ["on_stop", "on_close"])
@pytest.mark.parametrize("way", ["raises", "hangs"])
def test_a_receiver_that_cannot_be_left_does_not_keep_the_bus_open(
    call: str, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("anybroker.engine.session._LEAVE_TIMEOUT", 0.1, raising=False)

    async def main() -> None:
        broker = ScriptedBroker()
        bus = bus_of(broker)

        async def bad(*_: object) -> None:
            if way == "raises":
                raise Unavailable("gone")
            await asyncio.Event().wait()

        setattr(broker, call, bad)

        @bus.subscribe("topic", group="group")
        async def handle(event: Event[Any]) -> None:
            pass

        await bus.start()
        lane = broker.receiver.assign("a")
        broker.receiver.deliver(inbound(lane, 1))
        await until(lambda: bus.subscriptions[0].stats.acked == 1)
        async with asyncio.timeout(5):
            await bus.close(drain=1)
        assert broker.receiver.closed
        assert broker.receiver.position(lane) == 2
        assert broker.closed

    run(main)


def test_close_does_not_wait_for_the_settlements_of_a_dead_receiver() -> None:
    async def main() -> None:
        broker = ScriptedBroker()
        bus = bus_of(broker)
        settling = asyncio.Event()

        async def settle(batch: Sequence[Settlement]) -> Sequence[BrokerError | None]:
            settling.set()
            await asyncio.Event().wait()
            return ()

        broker.on_settle = settle

        @bus.subscribe("topic", group="group")
        async def handle(event: Event[Any]) -> None:
            pass

        await bus.start()
        receiver = broker.receiver
        lane = receiver.assign("a")
        receiver.deliver(inbound(lane, 1))
        await settling.wait()
        receiver.deliver(inbound(lane, 2))
        await until(lambda: bus.subscriptions[0].stats.acked == 2)
        broker.open_error = Unavailable("down")
        receiver.die(Unavailable("dead"))
        await until(lambda: receiver.closed)
        loop = asyncio.get_running_loop()
        begun = loop.time()
        await bus.close(drain=8)
        assert loop.time() - begun < 3

    run(main)


def test_a_handler_that_ignores_its_cancellation_does_not_keep_the_bus_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("anybroker.engine.pump._CANCEL_GRACE", 0.1, raising=False)

    async def main() -> None:
        broker = ScriptedBroker()
        bus = bus_of(broker)
        begun, go, ended = asyncio.Event(), asyncio.Event(), asyncio.Event()

        @bus.subscribe("topic", group="group")
        async def handle(event: Event[Any]) -> None:
            begun.set()
            while not go.is_set():
                try:
                    await go.wait()
                except asyncio.CancelledError:
                    pass
            ended.set()

        await bus.start()
        lane = broker.receiver.assign("a")
        broker.receiver.deliver(inbound(lane, 1))
        await begun.wait()
        try:
            async with asyncio.timeout(3):
                await bus.close(drain=0)
        finally:
            go.set()
        await ended.wait()
        await asyncio.sleep(0)
        assert broker.receiver.position(lane) in (None, 1)

    run(main)


def test_a_cancelled_stop_leaves_the_group_all_the_same() -> None:
    async def main() -> None:
        broker = ScriptedBroker()
        bus = bus_of(broker)
        begun, ended = asyncio.Event(), asyncio.Event()

        @bus.subscribe("topic", group="group")
        async def handle(event: Event[Any]) -> None:
            begun.set()
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()

        async with bus:
            lane = broker.receiver.assign("a")
            broker.receiver.deliver(inbound(lane, 1))
            await begun.wait()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await bus.subscriptions[0].stop()
            await until(lambda: broker.receiver.closed and ended.is_set(), "the receiver is closed")

    run(main)


def test_close_waits_for_a_stop_that_is_under_way() -> None:
    async def main() -> None:
        broker = ScriptedBroker()
        bus = bus_of(broker)
        begun, go, order = asyncio.Event(), asyncio.Event(), []

        @bus.subscribe("topic", group="group")
        async def handle(event: Event[Any]) -> None:
            begun.set()
            await go.wait()
            await bus.publish("next", 1, type="t")
            order.append("handled")

        await bus.start()
        lane = broker.receiver.assign("a")
        broker.receiver.deliver(inbound(lane, 1))
        await begun.wait()
        stopping = asyncio.create_task(bus.subscriptions[0].stop())
        await until(lambda: broker.receiver.stopped)
        closing = asyncio.create_task(bus.close())
        for _ in range(20):
            await asyncio.sleep(0)
        go.set()
        await asyncio.gather(stopping, closing)
        assert order == ["handled"]
        assert broker.receiver.position(lane) == 2

    run(main)


def test_a_receive_that_goes_on_after_stop_is_cut_off() -> None:
    async def main() -> None:
        broker = ScriptedBroker()
        bus = with_handler(bus_of(broker))
        begun, cancelled = asyncio.Event(), []

        async def receive(*_: Any, **__: Any) -> Sequence[Inbound]:
            begun.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.append(1)
                raise
            return ()

        await bus.start()
        broker.receiver.receive = receive  # type: ignore[method-assign] # of this one
        lane = broker.receiver.assign("a")
        broker.receiver.deliver(inbound(lane, 1))
        await begun.wait()
        async with asyncio.timeout(5):
            await bus.close(drain=0)
        assert cancelled == [1]
        assert_nothing_open(broker)

    run(main)


def test_what_is_held_is_given_back_at_close_and_not_waited_for() -> None:
    async def main() -> None:
        broker = ScriptedBroker(**PER_MESSAGE)
        bus = bus_of(broker, drain=60)

        @bus.subscribe("topic", group="group", middleware=[retry(first=3600.0, cap=3600.0)])
        async def handle(event: Event[Any]) -> None:
            raise ValueError("no")

        await bus.start()
        lane = broker.receiver.assign("a")
        later = time.time() + 3600
        broker.receiver.deliver(inbound(lane, 1), inbound(lane, 2), inbound(lane, 3, "other", not_before=later))
        (subscription,) = bus.subscriptions
        await until(lambda: subscription.stats.retried == 1 and subscription.buffered == 3)
        async with asyncio.timeout(5):
            await bus.close()
        releases = [item for item in broker.receiver.settled if isinstance(item, Release)]
        assert {item.inbound.position: item.attempts for item in releases} == {1: 1, 2: 0, 3: 0}
        assert subscription.buffered == 0

    run(main)
