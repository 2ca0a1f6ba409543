"""Lanes that are revoked or lost while their events are handled, held or dead-lettered."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.engine.scripted_adapter import PER_MESSAGE, ScriptedBroker, bus_of, inbound, run, until, with_handler

from anybroker import Event
from anybroker.adapter import Commit, Lane
from anybroker.errors import Rejected, Unavailable
from anybroker.middleware import retry

QUICK = [retry(attempts=2, first=0.0)]


def test_a_handler_that_fails_while_its_lane_is_revoked_leaves_its_key_open() -> None:
    async def main() -> None:
        broker = ScriptedBroker()
        bus = bus_of(broker)
        begun, go, seen = asyncio.Event(), asyncio.Event(), []

        @bus.subscribe("topic", group="group", middleware=QUICK)
        async def handle(event: Event[Any]) -> None:
            seen.append(event.id)
            if event.id == "1":
                begun.set()
                await go.wait()
                raise ValueError("no")

        async with bus:
            receiver = broker.receiver
            lane = receiver.assign("a")
            receiver.deliver(inbound(lane, 1), inbound(lane, 2))
            await begun.wait()
            revoking = asyncio.create_task(receiver.listener.revoked([lane]))
            await asyncio.sleep(0)
            go.set()
            await revoking
            assert bus.subscriptions[0].buffered == 0
            again = receiver.assign("a")
            receiver.deliver(inbound(again, 3))
            await until(lambda: "3" in seen, "the key's next event")

    run(main)


def test_a_dead_letter_that_fails_after_its_lane_was_lost_is_no_problem_of_ours() -> None:
    async def main() -> None:
        broker = ScriptedBroker()
        bus = bus_of(broker)
        broker.on_send = lambda _: Rejected("no")
        begun, go = asyncio.Event(), asyncio.Event()

        @bus.subscribe("topic", group="group", middleware=[retry(attempts=1)])
        async def handle(event: Event[Any]) -> None:
            begun.set()
            await go.wait()
            raise ValueError("no")

        async with bus:
            lane = broker.receiver.assign("a")
            broker.receiver.deliver(inbound(lane, 1))
            await begun.wait()
            broker.receiver.listener.lost([lane])
            go.set()
            await until(lambda: bus.subscriptions[0].running == 0)
            assert not bus.problems

    run(main)


def test_a_subscription_that_stopped_itself_goes_on_when_the_event_is_no_longer_its_own() -> None:
    async def main() -> None:
        broker = ScriptedBroker()
        bus = bus_of(broker)
        broker.on_send = lambda _: Rejected("no")
        seen: list[str] = []

        @bus.subscribe("topic", group="group", middleware=[retry(attempts=1)])
        async def handle(event: Event[Any]) -> None:
            seen.append(event.id)
            if event.id == "1":
                raise ValueError("no")

        async with bus:
            lane = broker.receiver.assign("a")
            broker.receiver.deliver(inbound(lane, 1))
            await until(lambda: bool(bus.problems))
            broker.receiver.listener.lost([lane])
            other = broker.receiver.assign("a")
            broker.receiver.deliver(inbound(other, 2))
            await until(lambda: "2" in seen or bool(bus.problems), "it runs, or says why not")

    run(main)


def test_two_revocations_of_one_lane_both_end_with_its_handler() -> None:
    async def main() -> None:
        broker = ScriptedBroker()
        bus = bus_of(broker)
        begun, go = asyncio.Event(), asyncio.Event()

        @bus.subscribe("topic", group="group")
        async def handle(event: Event[Any]) -> None:
            begun.set()
            await go.wait()

        async with bus:
            lane = broker.receiver.assign("a")
            broker.receiver.deliver(inbound(lane, 1))
            await begun.wait()
            both = [asyncio.create_task(broker.receiver.listener.revoked([lane])) for _ in range(2)]
            await asyncio.sleep(0)
            go.set()
            async with asyncio.timeout(5):
                await asyncio.gather(*both)

    run(main)


@pytest.mark.parametrize("per_message", [True, False])
def test_a_handler_that_outlasts_the_revocation_settles_nothing(per_message: bool) -> None:
    async def main() -> None:
        broker = ScriptedBroker(**PER_MESSAGE) if per_message else ScriptedBroker()
        bus = bus_of(broker, drain=0.01)
        begun, go = asyncio.Event(), asyncio.Event()

        @bus.subscribe("topic", group="group")
        async def handle(event: Event[Any]) -> None:
            begun.set()
            await go.wait()

        async with bus:
            receiver = broker.receiver
            lane = receiver.assign("a")
            receiver.deliver(inbound(lane, 1))
            await begun.wait()
            async with asyncio.timeout(5):
                await receiver.listener.revoked([lane])
            (subscription,) = bus.subscriptions
            assert subscription.running == 1
            go.set()
            await until(lambda: subscription.buffered == 0)
            assert subscription.stats.stale_settlements == 1
            assert [item for item in receiver.settled if not isinstance(item, Commit)] == []
            assert receiver.position(lane) in (None, 1)
            again = receiver.assign("a")
            receiver.deliver(inbound(again, 1))
            await until(lambda: subscription.stats.acked == 1)

    run(main)


def test_a_lane_that_is_lost_while_it_is_revoked_is_not_waited_for() -> None:
    async def main() -> None:
        broker = ScriptedBroker()
        bus = bus_of(broker, drain=60)
        begun, go = asyncio.Event(), asyncio.Event()

        @bus.subscribe("topic", group="group")
        async def handle(event: Event[Any]) -> None:
            begun.set()
            await go.wait()

        async with bus:
            receiver = broker.receiver
            lane = receiver.assign("a")
            receiver.deliver(inbound(lane, 1))
            await begun.wait()
            revoking = asyncio.create_task(receiver.listener.revoked([lane]))
            await asyncio.sleep(0)
            assert not revoking.done()
            receiver.listener.lost([lane])
            async with asyncio.timeout(5):
                await revoking
            assert bus.subscriptions[0].running == 1
            go.set()
            await until(lambda: bus.subscriptions[0].running == 0)
            assert receiver.position(lane) is None

    run(main)


def test_lanes_that_it_does_not_have_may_be_revoked_and_lost() -> None:
    async def main() -> None:
        broker = ScriptedBroker()
        bus = with_handler(bus_of(broker))
        async with bus:
            receiver = broker.receiver
            lane, nobodys = receiver.assign("a"), Lane("b", 1)
            await receiver.listener.revoked([nobodys])
            receiver.listener.lost([nobodys])
            receiver.deliver(inbound(nobodys, 7), inbound(lane, 1))
            await until(lambda: receiver.position(lane) == 2)
            stats = bus.subscriptions[0].stats
            assert (stats.received, stats.started) == (1, 1)
            assert receiver.position(nobodys) is None

    run(main)


@pytest.mark.parametrize("way", ["lost", "revoked"])
def test_the_key_of_a_held_event_goes_on_in_another_lane(way: str) -> None:
    async def main() -> None:
        broker = ScriptedBroker()
        bus = bus_of(broker)
        seen: list[str] = []

        @bus.subscribe("topic", group="group", middleware=[retry(first=3600.0, cap=3600.0)])
        async def handle(event: Event[Any]) -> None:
            seen.append(event.id)
            if event.id == "1":
                raise ValueError("no")

        async with bus:
            receiver = broker.receiver
            leaving, staying = receiver.assign("a"), receiver.assign("b")
            receiver.deliver(inbound(leaving, 1), inbound(leaving, 2), inbound(staying, 3))
            (subscription,) = bus.subscriptions
            await until(lambda: subscription.stats.retried == 1 and subscription.buffered == 3)
            assert seen == ["1"]
            if way == "lost":
                receiver.listener.lost([leaving])
            else:
                await receiver.listener.revoked([leaving])
            await until(lambda: receiver.position(staying) == 4)
            assert seen == ["1", "3"]
            assert subscription.buffered == 0
            assert receiver.position(leaving) in (None, 1)

    run(main)


def test_a_revocation_that_comes_after_the_receiver_died_is_nothing_to_wait_for() -> None:
    async def main() -> None:
        broker = ScriptedBroker()
        bus = bus_of(broker)
        begun, go = asyncio.Event(), asyncio.Event()

        @bus.subscribe("topic", group="group")
        async def handle(event: Event[Any]) -> None:
            begun.set()
            await go.wait()

        async with bus:
            first = broker.receiver
            lane = first.assign("a")
            first.deliver(inbound(lane, 1))
            await begun.wait()
            broker.open_error = Unavailable("down")
            first.die(Unavailable("gone"))
            await until(lambda: first.closed)
            async with asyncio.timeout(5):
                await first.listener.revoked([lane])
            broker.open_error = None
            go.set()
            await until(lambda: len(broker.receivers) == 2)
            assert bus.subscriptions[0].stats.stale_settlements == 1
            assert first.position(lane) is None

    run(main)
