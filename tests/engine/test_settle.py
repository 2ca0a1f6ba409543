"""Settling in batches: what a flush waits for, and what is sent again."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from tests.engine.scripted_adapter import ScriptedBroker, bus_of, inbound, run, until

from anybroker import Event
from anybroker.adapter import Settlement
from anybroker.errors import BrokerError, Unavailable


def test_a_flush_does_not_wait_for_what_comes_after_it() -> None:
    async def main() -> None:
        broker = ScriptedBroker()
        bus = bus_of(broker)

        @bus.subscribe("topic", group="group")
        async def handle(event: Event[Any]) -> None:
            pass

        async with bus:
            receiver = broker.receiver
            lane, busy = receiver.assign("a"), receiver.assign("b")
            positions = iter(range(1, 1_000_000))

            async def settle(batch: Sequence[Settlement]) -> Sequence[BrokerError | None]:
                state = bus.subscriptions[0].stats.acked
                receiver.deliver(inbound(busy, next(positions), None))
                await until(lambda: bus.subscriptions[0].stats.acked > state)
                return [None] * len(batch)

            broker.on_settle = settle
            receiver.deliver(inbound(lane, 1))
            await until(lambda: receiver.position(lane) == 2)
            async with asyncio.timeout(2):
                await receiver.listener.revoked([lane])

            async def well(batch: Sequence[Settlement]) -> Sequence[BrokerError | None]:
                return [None] * len(batch)

            broker.on_settle = well

    run(main)


def test_a_commit_that_failed_during_a_flush_is_made_again() -> None:
    async def main() -> None:
        broker = ScriptedBroker()
        bus = bus_of(broker)
        fail = True
        entered = asyncio.Event()
        go = asyncio.Event()

        async def settle(batch: Sequence[Settlement]) -> Sequence[BrokerError | None]:
            entered.set()
            await go.wait()
            return [Unavailable("for a moment") if fail else None] * len(batch)

        broker.on_settle = settle

        @bus.subscribe("topic", group="group")
        async def handle(event: Event[Any]) -> None:
            pass

        async with bus:
            receiver = broker.receiver
            lane, leaving = receiver.assign("a"), receiver.assign("b")
            receiver.deliver(inbound(lane, 1))
            await entered.wait()
            revoking = asyncio.create_task(receiver.listener.revoked([leaving]))
            await asyncio.sleep(0)
            go.set()
            await revoking
            fail = False
            await until(lambda: receiver.position(lane) == 2, "the commit")

    run(main)
