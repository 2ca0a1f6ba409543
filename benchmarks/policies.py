"""What a middleware costs when it has nothing to do: microseconds an event, of the layer alone.

A layer is bound as a Bus binds it, and its composed handler is called with one event that succeeds, over and over. The
figure is that of the quickest of many short slices of processor time: a whole consumer varies by more than a layer
costs. Add a row to ``POLICIES``.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import cache, partial
from typing import Any

from anybroker import Bus, Delivery, MemoryBroker
from anybroker.middleware import Chain, Handler, Layer, deadline, retry, retry_budget
from anybroker.testing import settled

from . import in_process

__all__ = ["CANDIDATES", "MOST", "NOTHING"]

MOST = 1.0
"""µs an event that one policy may cost."""
NOTHING = "a handler without middleware"
SLICES = 200
CALLS = 1_000
"""Of one slice: about a tenth of a millisecond."""

POLICIES: dict[str, Callable[[], Layer | None]] = {
    NOTHING: lambda: None,
    "retry()": retry,
    "retry(delays=, for_=, per=, then=)": lambda: retry(
        3, for_=600, on=lambda exc: True, per={TimeoutError: retry(delays=1)}, then=retry(delays=[60, 300])
    ),
    "deadline()": deadline,
    "retry_budget()": retry_budget,
}
"""By name, what is bound around the handler."""


class _Probe(Layer):
    """Keeps what a Bus gives to a layer."""

    kind = "probe"
    chain: Chain
    delivery: Delivery

    def bind(self, call_next: Handler, chain: Chain) -> Handler:
        """Keep the chain now, and the delivery when one comes."""
        self.chain = chain

        async def run(delivery: Delivery) -> None:
            self.delivery = delivery
            await call_next(delivery)

        return run


@cache
def _given() -> _Probe:
    """What a Bus gives to a layer, of one event."""
    probe = _Probe()

    async def main() -> None:
        bus = Bus(MemoryBroker(), source="bench", topics=in_process.TOPICS, middleware=[probe])

        @bus.subscribe("orders", group="billing")
        async def handle(number: int) -> None:
            """The event succeeds."""

        async with bus:
            await bus.publish("orders", 1, type="order.v1", key="c-1")
            await settled(bus)

    asyncio.run(main())
    return probe


async def _inner(_: Delivery) -> None:
    """The handler."""


def _run(make: Callable[[], Layer | None]) -> float:
    given, layer = _given(), make()
    handler: Callable[[Delivery], Any] = _inner if layer is None else layer.bind(_inner, given.chain)
    delivery = given.delivery
    quickest = float("inf")
    for _ in range(SLICES):
        begun = time.process_time_ns()
        for _ in range(CALLS):
            try:
                handler(delivery).send(None)
            except StopIteration:
                pass
        quickest = min(quickest, time.process_time_ns() - begun)
    return quickest / 1000 / CALLS


CANDIDATES: dict[str, Callable[[], float]] = {name: partial(_run, make) for name, make in POLICIES.items()}
