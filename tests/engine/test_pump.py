"""The pump: which lanes are fetched from, and what workers take and survive."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.engine.scripted_adapter import ScriptedBroker, bus_of, inbound, run, until

from anybroker import Event


def test_a_full_lane_is_left_out_and_comes_back() -> None:
    async def main() -> None:
        broker = ScriptedBroker()
        bus = bus_of(broker)
        go, seen = asyncio.Event(), []

        @bus.subscribe("topic", group="group", max_ahead=4, max_in_flight=2)
        async def handle(event: Event[Any]) -> None:
            if event.id == "1":
                await go.wait()
            seen.append(event.id)

        async with bus:
            receiver = broker.receiver
            full, other = receiver.assign("a"), receiver.assign("b")
            receiver.deliver(*(inbound(full, at, str(at)) for at in range(1, 5)))
            await until(lambda: seen == ["2", "3", "4"])
            await until(lambda: receiver.asked[-1] == [other], "the full lane is left out")
            receiver.deliver(*(inbound(full, at, str(at)) for at in range(5, 8)), inbound(other, 100))
            await until(lambda: "100" in seen)
            assert "5" not in seen
            go.set()
            await until(lambda: receiver.position(full) == 8)

    run(main)
