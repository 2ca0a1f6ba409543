"""Leases: what is extended, and what becomes of an event whose lease is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from tests.engine.scripted_adapter import PER_MESSAGE, ScriptedBroker, bus_of, inbound, run, until

from anybroker import Event
from anybroker.adapter import Inbound
from anybroker.capabilities import Support
from anybroker.errors import BrokerError, LeaseLost, Unavailable
from anybroker.middleware import retry


def test_a_lost_lease_leaves_nothing_behind() -> None:
    async def main() -> None:
        broker = ScriptedBroker(**PER_MESSAGE, lease_extension=Support.NATIVE)
        broker.on_extend = lambda batch: [LeaseLost("gone")] * len(batch)
        bus = bus_of(broker, lease=1)
        go = asyncio.Event()

        @bus.subscribe("topic", group="group")
        async def handle(event: Event[Any]) -> None:
            await go.wait()

        async with bus:
            lane = broker.receiver.assign("a")
            broker.receiver.deliver(inbound(lane, 1))
            pump = bus.subscriptions[0]._pump
            assert pump is not None
            await until(lambda: bus.subscriptions[0].stats.leases_lost == 1)
            go.set()
            await until(lambda: pump.buffered == 0)
            assert not pump._holdings.not_ours

    run(main)


def test_a_lost_lease_ends_the_wait_for_the_next_start() -> None:
    async def main() -> None:
        broker = ScriptedBroker(**PER_MESSAGE, lease_extension=Support.NATIVE)
        broker.on_extend = lambda batch: [LeaseLost("gone")] * len(batch)
        bus = bus_of(broker, lease=1)
        seen: list[str] = []

        @bus.subscribe("topic", group="group", middleware=[retry(first=3600.0, cap=3600.0)])
        async def handle(event: Event[Any]) -> None:
            seen.append(event.id)
            if event.id == "1":
                raise ValueError("later")

        async with bus:
            lane = broker.receiver.assign("a")
            broker.receiver.deliver(inbound(lane, 1), inbound(lane, 2, "other"))
            await until(lambda: "2" in seen and "1" in seen)
            await until(lambda: bus.subscriptions[0].buffered == 0, "the held event is forgotten")
            broker.receiver.deliver(inbound(lane, 3))
            await until(lambda: "3" in seen, "the key's next event")

    run(main)


def test_an_extension_that_fails_once_is_made_again() -> None:
    async def main() -> None:
        broker = ScriptedBroker(**PER_MESSAGE, lease_extension=Support.NATIVE)
        calls: list[int] = []

        def extend(batch: Sequence[Inbound]) -> Sequence[BrokerError | None]:
            calls.append(len(batch))
            if len(calls) == 1:
                raise Unavailable("for a moment")
            return [None] * len(batch)

        broker.on_extend = extend
        bus = bus_of(broker, lease=1)
        go = asyncio.Event()

        @bus.subscribe("topic", group="group")
        async def handle(event: Event[Any]) -> None:
            await go.wait()

        async with bus:
            lane = broker.receiver.assign("a")
            broker.receiver.deliver(inbound(lane, 1))
            await until(lambda: len(calls) == 2, "a second extension")
            assert not bus.problems
            go.set()

    run(main)


@pytest.mark.parametrize("way", ["revoked", "lost", "late"])
def test_leases_of_lanes_that_are_gone_are_not_extended(way: str) -> None:
    async def main() -> None:
        broker = ScriptedBroker(**PER_MESSAGE, lease_extension=Support.NATIVE)
        bus = bus_of(broker, lease=1)
        begun, go = asyncio.Event(), asyncio.Event()

        @bus.subscribe("topic", group="group")
        async def handle(event: Event[Any]) -> None:
            begun.set()
            await go.wait()

        async with bus:
            receiver = broker.receiver
            lane = receiver.assign("a")
            kept = receiver.assign("b")
            if way != "late":
                receiver.deliver(inbound(lane, 1), inbound(lane, 2))
                await begun.wait()
            receiver.deliver(inbound(kept, 3, "other"))
            await begun.wait()
            if way == "revoked":
                go.set()
                await receiver.listener.revoked([lane])
                go.clear()
                receiver.deliver(inbound(kept, 4, "other"))
            else:
                receiver.listener.lost([lane])
            if way == "late":
                receiver.deliver(inbound(lane, 1))
            await until(lambda: not receiver.inbox)
            before = len(receiver.extended)
            await until(lambda: len(receiver.extended) >= before + 1, "an extension")
            assert {item.lane for item in receiver.extended[-1]} == {kept}
            go.set()

    run(main)


def test_a_lane_whose_lost_lease_waits_behind_another_leaves_nothing_behind() -> None:
    async def main() -> None:
        broker = ScriptedBroker(**PER_MESSAGE, lease_extension=Support.NATIVE)
        bus = bus_of(broker, lease=1)
        go = asyncio.Event()

        @bus.subscribe("topic", group="group")
        async def handle(event: Event[Any]) -> None:
            await go.wait()

        async with bus:
            lane = broker.receiver.assign("a")
            broker.receiver.deliver(inbound(lane, 1), inbound(lane, 2))
            pump = bus.subscriptions[0]._pump
            assert pump is not None
            await until(lambda: pump.buffered == 2)
            broker.on_extend = lambda batch: [LeaseLost("gone") if item.position == 2 else None for item in batch]
            await until(lambda: bus.subscriptions[0].stats.leases_lost == 1)
            broker.receiver.listener.lost([lane])
            go.set()
            await until(lambda: pump.buffered == 0)
            assert not pump._holdings.not_ours

    run(main)
