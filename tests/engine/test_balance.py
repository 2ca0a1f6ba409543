"""Lanes that are given back, so that each member has its share."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.engine.scripted_adapter import ScriptedBroker, bus_of, inbound, run, until

from anybroker import Event
from anybroker.adapter import Lane
from anybroker.capabilities import Acknowledgement, Support
from anybroker.errors import Unavailable


def test_balancing_goes_on_after_a_lane_could_not_be_given_back() -> None:
    async def main() -> None:
        broker = ScriptedBroker(balance=Support.EMULATED)
        broker.members = 2

        async def give_back(lane: Lane) -> None:
            if len(broker.receiver.given_back) == 1:
                raise Unavailable("for a moment")

        broker.on_give_back = give_back
        bus = bus_of(broker)

        @bus.subscribe("topic", group="group", lanes=2)
        async def handle(event: Event[Any]) -> None:
            pass

        async with bus:
            for name in "abc":
                broker.receiver.assign(name)
            await until(lambda: len(broker.receiver.given_back) == 2, "the second lane is given back")
            assert not bus.problems

    run(main)


def test_a_lane_with_a_handler_in_it_is_not_given_to_another_member_and_nothing_more_is_fetched_of_it() -> None:
    async def main() -> None:
        broker = ScriptedBroker(balance=Support.EMULATED, acknowledgement=Acknowledgement.PER_MESSAGE)
        broker.members = 2
        go, begun = asyncio.Event(), asyncio.Event()
        bus = bus_of(broker, drain=0.01)

        @bus.subscribe("topic", group="group", lanes=2)
        async def handle(event: Event[Any]) -> None:
            begun.set()
            await go.wait()

        async with bus:
            receiver = broker.receiver
            kept, surplus = (receiver.assign(name) for name in "ab")
            receiver.deliver(inbound(surplus, 1))
            await begun.wait()
            await until(lambda: receiver.deliver() or receiver.asked.count([kept]) > 20, "the lane is left out")
            assert receiver.given_back == []
            go.set()
            await until(lambda: receiver.given_back == [surplus], "the lane is given back, once the handler has ended")
            assert [settlement.inbound.lane for settlement in receiver.settled] == [surplus]

    run(main)
