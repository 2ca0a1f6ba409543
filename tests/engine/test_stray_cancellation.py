"""A cancellation that an adapter lets out of its client must not end a subscription in silence."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.engine.scripted_adapter import ScriptedBroker, until

from anybroker import Bus, Event


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
