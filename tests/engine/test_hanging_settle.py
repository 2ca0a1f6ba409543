"""A settle call that hangs: what is in it, and what waits behind it, counts against max_ahead."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from anybroker import Bus
from anybroker.adapter import AdapterContext, Settlement
from anybroker.errors import BrokerError
from anybroker.memory import MemoryAdapter, MemoryBroker


async def check() -> None:
    go_on = asyncio.Event()

    class Hanging(MemoryBroker):
        def make_adapter(self, context: AdapterContext) -> MemoryAdapter:
            adapter = super().make_adapter(context)
            right = adapter.open_receiver

            async def open_receiver(*given: Any) -> Any:
                receiver = await right(*given)
                settle = receiver.settle

                async def hang(batch: Sequence[Settlement], /) -> Sequence[BrokerError | None]:
                    await go_on.wait()
                    return await settle(batch)

                receiver.settle = hang  # type: ignore[method-assign]
                return receiver

            adapter.open_receiver = open_receiver  # type: ignore[method-assign]
            return adapter

    seen = 0
    every = asyncio.Event()
    bus = Bus(Hanging(), source="test")

    @bus.subscribe("orders", group="g", max_ahead=20, max_in_flight=5)
    async def handle(_: dict[str, Any]) -> None:
        nonlocal seen
        seen += 1
        if seen == 200:
            every.set()

    async with bus:
        await asyncio.gather(*(bus.publish("orders", {"n": n}, type="t") for n in range(200)))
        last = -1
        while seen != last:  # three times as long as the fetcher waits before it looks again
            last = seen
            await asyncio.sleep(0.6)
        assert 20 <= seen <= 40, seen
        go_on.set()
        async with asyncio.timeout(10):
            await every.wait()


def test_what_hangs_in_settle_counts_against_max_ahead() -> None:
    asyncio.run(check())
