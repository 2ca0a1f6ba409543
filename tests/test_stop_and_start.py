"""A subscription that is stopped and started again, paused and resumed, while its Bus goes on."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.engine.scripted_adapter import PER_MESSAGE, ScriptedBroker, bus_of, inbound, run, until, with_handler

from anybroker import Bus, Event, MemoryBroker
from anybroker.adapter import Release
from anybroker.errors import StateError, Unavailable
from anybroker.testing import settled

# ------------------------------------------------------------------------------------------------- stop and start


def test_before_the_bus_starts_there_is_nothing_to_stop_and_nothing_to_start_on() -> None:
    async def main() -> None:
        broker = ScriptedBroker()
        bus = with_handler(bus_of(broker))
        (subscription,) = bus.subscriptions
        with pytest.raises(StateError, match="not started"):
            await subscription.start()
        await subscription.stop()
        subscription.pause()
        subscription.resume()
        subscription.give_up()
        assert (subscription.running, subscription.buffered, subscription.problem) == (0, 0, None)
        async with bus:
            lane = broker.receiver.assign("a")
            broker.receiver.deliver(inbound(lane, 1))
            await until(lambda: broker.receiver.position(lane) == 2)

    run(main)


def test_it_goes_on_where_it_was_and_its_counts_go_on() -> None:
    async def main() -> None:
        bus = Bus(MemoryBroker(), source="test")
        seen: list[int] = []

        @bus.subscribe("topic", group="group")
        async def handle(number: int) -> None:
            seen.append(number)

        async with bus:
            (subscription,) = bus.subscriptions
            await bus.publish("topic", 1, type="t", key="k")
            await settled(bus)
            for _ in range(2):  # the second does nothing
                await subscription.stop()
            await bus.publish("topic", 2, type="t", key="k")
            assert (await bus.backlog("topic", "group")).waiting == 1
            assert (subscription.running, subscription.buffered, subscription.problem) == (0, 0, None)
            for _ in range(2):
                await subscription.start()
            await settled(bus)
            assert seen == [1, 2]
            assert (subscription.stats.received, subscription.stats.started, subscription.stats.acked) == (2, 2, 2)
        assert subscription.stats.acked == 2

    run(main)


def test_a_second_start_opens_nothing_and_a_second_stop_closes_nothing() -> None:
    async def main() -> None:
        broker = ScriptedBroker()
        closes: list[int] = []

        async def close(*_: object) -> None:
            closes.append(1)

        async def open_receiver(*_: object) -> None:
            await asyncio.sleep(0)  # the other start has its turn

        broker.on_close, broker.on_open_receiver = close, open_receiver
        bus = with_handler(bus_of(broker))
        async with bus:
            (subscription,) = bus.subscriptions
            await asyncio.gather(subscription.start(), subscription.start())
            assert len(broker.receivers) == 1
            await asyncio.gather(subscription.stop(), subscription.stop())
            assert (closes, broker.receiver.closed) == ([1], True)
            await asyncio.gather(subscription.start(), subscription.start())
            assert len(broker.receivers) == 2
        assert closes == [1, 1]

    run(main)


def test_start_and_a_second_stop_wait_for_the_stop_that_is_under_way() -> None:
    async def main() -> None:
        broker = ScriptedBroker()
        bus = bus_of(broker)
        begun, go = asyncio.Event(), asyncio.Event()

        @bus.subscribe("topic", group="group")
        async def handle(event: Event[Any]) -> None:
            begun.set()
            await go.wait()

        async with bus:
            (subscription,) = bus.subscriptions
            first = broker.receiver
            lane = first.assign("a")
            first.deliver(inbound(lane, 1))
            await begun.wait()
            stops = [asyncio.create_task(subscription.stop()) for _ in range(2)]
            await until(lambda: first.stopped)
            starting = asyncio.create_task(subscription.start())
            await asyncio.sleep(0)
            assert not any(task.done() for task in (*stops, starting))
            assert broker.receivers == [first]
            go.set()
            await asyncio.gather(*stops, starting)
            assert first.closed
            assert first.position(lane) == 2
            assert not broker.receiver.closed
            assert len(broker.receivers) == 2

    run(main)


@pytest.mark.parametrize("per_message", [True, False])
def test_a_stop_that_gives_no_time_cancels_and_gives_back(per_message: bool) -> None:
    async def main() -> None:
        broker = ScriptedBroker(**PER_MESSAGE) if per_message else ScriptedBroker()
        bus = bus_of(broker, drain=60)
        begun, cancelled = asyncio.Event(), []

        @bus.subscribe("topic", group="group", max_in_flight=1)
        async def handle(event: Event[Any]) -> None:
            begun.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.append(event.id)
                raise

        async with bus:
            (subscription,) = bus.subscriptions
            receiver = broker.receiver
            lane = receiver.assign("a")
            receiver.deliver(inbound(lane, 1, attempts=2), inbound(lane, 2), inbound(lane, 3, "other", attempts=1))
            await until(lambda: subscription.buffered == 3)
            await begun.wait()
            async with asyncio.timeout(5):
                await subscription.stop(drain=0)
            assert cancelled == ["1"]
            assert subscription.stats.returned == 3
            releases = [item for item in receiver.settled if isinstance(item, Release)]
            given_back = {item.inbound.position: item.attempts for item in releases}
            assert given_back == ({1: 2, 2: 0, 3: 1} if per_message else {})
            assert receiver.position(lane) in (None, 1)
            assert bus.problems == {}

    run(main)


def test_a_start_that_fails_leaves_it_stopped_and_may_be_made_again() -> None:
    async def main() -> None:
        broker = ScriptedBroker()
        bus = bus_of(broker)

        @bus.subscribe("topic", group="group")
        def handle(event: Event[Any]) -> None:  # in a thread: what the start makes for it is made again, too
            pass

        async with bus:
            (subscription,) = bus.subscriptions
            await subscription.stop()
            broker.open_error = Unavailable("down")
            for _ in range(2):
                with pytest.raises(Unavailable, match="down"):
                    await subscription.start()
                assert (subscription.problem, len(broker.receivers)) == (None, 1)
            await subscription.stop()
            broker.open_error = None
            await subscription.start()
            lane = broker.receiver.assign("a")
            broker.receiver.deliver(inbound(lane, 1))
            await until(lambda: broker.receiver.position(lane) == 2)

    run(main)


def test_a_handler_may_be_added_while_it_is_stopped() -> None:
    async def main() -> None:
        broker = ScriptedBroker()
        bus = bus_of(broker)
        seen: list[str] = []
        subscription = bus.subscription("topic", group="group")

        @subscription.on(type="other.v1")
        async def other(event: Event[Any]) -> None:
            seen.append("other")

        async with bus:
            lane = broker.receiver.assign("a")
            broker.receiver.deliver(inbound(lane, 1))
            await until(lambda: broker.receiver.position(lane) == 2)
            assert (seen, subscription.stats.unhandled) == ([], 1)
            await subscription.stop()

            @subscription.on
            async def rest(event: Event[Any]) -> None:
                seen.append("rest")

            await subscription.start()
            lane = broker.receiver.assign("a")
            broker.receiver.deliver(inbound(lane, 2))
            await until(lambda: broker.receiver.position(lane) == 3)
            assert (seen, subscription.stats.unhandled) == (["rest"], 1)

    run(main)


def test_a_stopped_subscription_stays_stopped_at_close_and_does_not_start_after_it() -> None:
    async def main() -> None:
        broker = ScriptedBroker()
        bus = with_handler(bus_of(broker))
        async with bus:
            (subscription,) = bus.subscriptions
            await subscription.stop()
        await subscription.stop()
        assert len(broker.receivers) == 1
        assert broker.closed

    run(main)


# ------------------------------------------------------------------------------------------------ pause and resume


@pytest.mark.parametrize("per_message", [True, False])
def test_while_it_is_paused_nothing_starts_and_what_runs_goes_on(per_message: bool) -> None:
    async def main() -> None:
        broker = ScriptedBroker(**PER_MESSAGE) if per_message else ScriptedBroker()
        bus = bus_of(broker)
        begun, go, seen = asyncio.Event(), asyncio.Event(), []

        @bus.subscribe("topic", group="group")
        async def handle(event: Event[Any]) -> None:
            seen.append(event.id)
            begun.set()
            await go.wait()

        async with bus:
            (subscription,) = bus.subscriptions
            receiver = broker.receiver
            lane = receiver.assign("a")
            receiver.deliver(*(inbound(lane, at) for at in range(1, 4)))
            await begun.wait()
            await until(lambda: subscription.buffered == 3)
            subscription.pause()
            subscription.pause()
            receiver.deliver(inbound(lane, 4), inbound(lane, 5, "other"))
            go.set()
            await until(lambda: len(receiver.settled) == 1, "what ran is settled")
            for _ in range(50):
                await asyncio.sleep(0)
            assert (seen, subscription.running) == (["1"], 0)
            assert subscription.problem is None
            subscription.resume()
            subscription.resume()
            await until(lambda: subscription.stats.acked == 5)
            assert [at for at in seen if at != "5"] == ["1", "2", "3", "4"]

    run(main)


@pytest.mark.parametrize("how", ["stop", "close"])
def test_a_paused_subscription_can_be_left(how: str) -> None:
    async def main() -> None:
        broker = ScriptedBroker(**PER_MESSAGE)
        bus = bus_of(broker)
        seen: list[str] = []

        @bus.subscribe("topic", group="group")
        async def handle(event: Event[Any]) -> None:
            seen.append(event.id)

        await bus.start()
        (subscription,) = bus.subscriptions
        receiver = broker.receiver
        await until(lambda: len(receiver.asked) == 1)
        subscription.pause()
        receiver.deliver(inbound(receiver.assign("a"), 1, attempts=1))
        await until(lambda: subscription.buffered == 1)
        async with asyncio.timeout(5):
            await (subscription.stop() if how == "stop" else bus.close())
        assert (seen, receiver.closed) == ([], True)
        assert [item.attempts for item in receiver.settled if isinstance(item, Release)] == [1]
        await bus.close()

    run(main)


def test_a_receiver_that_dies_while_it_is_paused_is_replaced_and_nothing_starts() -> None:
    async def main() -> None:
        broker = ScriptedBroker()
        bus = bus_of(broker)
        seen: list[str] = []

        @bus.subscribe("topic", group="group")
        async def handle(event: Event[Any]) -> None:
            seen.append(event.id)

        async with bus:
            (subscription,) = bus.subscriptions
            await until(lambda: len(broker.receiver.asked) == 1)
            subscription.pause()
            broker.receiver.die(Unavailable("gone"))
            await until(lambda: subscription.stats.reconnects == 1)
            lane = broker.receiver.assign("a")
            broker.receiver.deliver(inbound(lane, 1))
            for _ in range(50):
                await asyncio.sleep(0)
            assert (seen, broker.receiver.asked) == ([], [])
            subscription.resume()
            await until(lambda: broker.receiver.position(lane) == 2)
            assert seen == ["1"]

    run(main)


@pytest.mark.parametrize("when", ["before the start", "before a stop and a start"])
def test_a_pause_lasts_until_resume(when: str) -> None:
    async def main() -> None:
        broker = ScriptedBroker()
        bus = bus_of(broker)
        seen: list[str] = []

        @bus.subscribe("topic", group="group")
        async def handle(event: Event[Any]) -> None:
            seen.append(event.id)

        (subscription,) = bus.subscriptions
        if when == "before the start":
            subscription.pause()
        async with bus:
            if when != "before the start":
                subscription.pause()
                await subscription.stop()
                await subscription.start()
            lane = broker.receiver.assign("a")
            broker.receiver.deliver(inbound(lane, 1))
            for _ in range(50):
                await asyncio.sleep(0)
            assert seen == []
            subscription.resume()
            await until(lambda: seen == ["1"])

    run(main)


@pytest.mark.parametrize("paused_before", [False, True])
def test_pausing_and_resuming_while_it_starts_count(paused_before: bool) -> None:
    async def main() -> None:
        broker = ScriptedBroker()
        bus = bus_of(broker)
        opening, go_on = asyncio.Event(), asyncio.Event()

        async def open_receiver(_: object) -> None:
            opening.set()
            await go_on.wait()

        broker.on_open_receiver = open_receiver
        seen: list[str] = []

        @bus.subscribe("topic", group="group")
        async def handle(event: Event[Any]) -> None:
            seen.append(event.id)

        (subscription,) = bus.subscriptions
        if paused_before:
            subscription.pause()
        starting = asyncio.create_task(bus.start())
        await opening.wait()
        if paused_before:
            subscription.resume()
        else:
            subscription.pause()
        go_on.set()
        await starting
        broker.receiver.deliver(inbound(broker.receiver.assign("a"), 1))
        if not paused_before:
            for _ in range(50):
                await asyncio.sleep(0)
            assert seen == []
            subscription.resume()
        await until(lambda: seen == ["1"])
        await bus.close()

    run(main)
