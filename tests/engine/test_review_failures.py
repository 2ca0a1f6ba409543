"""Failures that are odd themselves: what they say must be kept, and nothing may stop for them."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.engine.scripted_adapter import ScriptedBroker, inbound, until

from anybroker import Bus, Event
from anybroker.capabilities import Acknowledgement
from anybroker.middleware import retry

PER_MESSAGE: dict[str, Any] = {"acknowledgement": Acknowledgement.PER_MESSAGE}


def test_a_failure_in_a_thread_keeps_its_cause() -> None:
    async def main() -> None:
        broker = ScriptedBroker(**PER_MESSAGE)
        bus = Bus(broker, source="test", idempotency="memory://")

        @bus.subscribe("topic", group="group", middleware=[retry(attempts=1)])
        def handle(event: Event[Any]) -> None:
            try:
                raise KeyError("the cause")
            except KeyError as exc:
                raise ValueError("no") from exc

        async with asyncio.timeout(20), bus:
            lane = broker.receiver.assign("a")
            broker.receiver.deliver(inbound(lane, 1))
            await until(lambda: len(broker.sent) == 1, "the dead letter")
            headers = broker.sent[0].headers
            assert headers is not None
            assert headers["anybroker-dead-error"] == "builtins.ValueError: no <- builtins.KeyError: 'the cause'"

    asyncio.run(main())
