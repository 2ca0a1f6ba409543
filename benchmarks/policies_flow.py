"""What ``circuit``, ``rate_limit`` and ``concurrency`` cost an event that they have nothing to do with, and what others
cost while 10,000 events wait.

``python -m benchmarks.policies_flow`` prints both. The first figure is processor time: calls of the layer around a
handler that does nothing, less calls of that handler alone. The second is the time for 5,000 events of one type in a
subscription where nothing waits, and in the same one where 10,000 events of another type wait for their turn.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from collections.abc import Callable
from typing import Any

from rich.console import Console

from anybroker import Bus, Delivery, Event, MemoryBroker
from anybroker.handlers.provide import Providers
from anybroker.handlers.signature import read_handler
from anybroker.middleware import Chain, Handler, Layer, circuit, concurrency, rate_limit
from anybroker.stats import SubscriptionStats

from .measure import Figure, interleave

__all__ = ["main", "others", "per_call"]

CALLS = 200_000
OTHERS = 5_000
WAITING = 10_000


async def nothing(_: Delivery) -> None:
    """A handler that does nothing."""


def tenant(event: Event[Any]) -> str:
    """A key function that costs nearly nothing itself."""
    return event.type


LAYERS: dict[str, Callable[[], Layer] | None] = {
    "no layer": None,
    "circuit": circuit,
    "rate_limit": lambda: rate_limit(1e9),
    "rate_limit, key": lambda: rate_limit(1e9, key=tenant),
    "concurrency": lambda: concurrency(100),
    "concurrency, key": lambda: concurrency(100, key=tenant),
}


def _chain() -> Chain:
    unused: Any = None
    return Chain(
        topic="orders",
        group="billing",
        ordered=True,
        handler=read_handler(nothing, providers=Providers()),
        capabilities=unused,
        stats=SubscriptionStats(),
        dead_letter=unused,
        recovered=unused,
        lease=20.0,
        stores=unused,
        problem=unused,
    )


def per_call(make: Callable[[], Layer] | None) -> float:
    """Microseconds of processor time for each call."""

    async def calls() -> float:
        unused: Any = object()
        event = Event.create(1, source="bench", type="order.v1")
        delivery = Delivery(event, "orders", "billing", 1, None, unused, unused)
        handler: Handler = nothing if make is None else make().bind(nothing, _chain())
        begun = time.process_time()
        for _ in range(CALLS):
            await handler(delivery)
        return (time.process_time() - begun) * 1e6 / CALLS

    return asyncio.run(calls())


def others(waiting: int, layer: Callable[[], Layer]) -> float:
    """Microseconds of time for each of 5,000 events, while so many others wait in the layer."""

    async def run() -> float:
        broker = MemoryBroker()
        bus = Bus(broker, source="bench", topics={"orders": {"groups": ["billing"], "max_ahead": 100_000}})
        subscription = bus.subscription("orders", group="billing", ordered=False)
        handled = 0
        done = asyncio.Event()
        free = asyncio.Event()

        @subscription.on(type="slow.v1", middleware=[layer()])
        async def slow(_: Delivery) -> None:
            await free.wait()

        @subscription.on(type="quick.v1")
        async def quick(_: Delivery) -> None:
            nonlocal handled
            handled += 1
            if handled == OTHERS:
                done.set()

        async with bus:
            left = waiting + 1 if waiting else 0  # one of them runs
            while left:
                portion = [Event.create(1, source="bench", type="slow.v1") for _ in range(min(left, 1000))]
                await bus.publish_many("orders", portion)
                left -= len(portion)
            while subscription.waiting < waiting:  # noqa: ASYNC110 - nothing tells of it
                await asyncio.sleep(0.01)
            items = [Event.create(1, source="bench", type="quick.v1") for _ in range(OTHERS)]
            begun = time.perf_counter()
            await bus.publish_many("orders", items)
            await done.wait()
            took = time.perf_counter() - begun
            free.set()
            await bus.close(drain=0)
        return took * 1e6 / OTHERS

    return asyncio.run(run())


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    console = Console()
    candidates = {name: (lambda make=make: per_call(make)) for name, make in LAYERS.items()}
    idle = interleave(candidates, rounds, console, "idle")
    bare = idle["no layer"]
    for name, figure in idle.items():
        added = statistics.median(a - b for a, b in zip(figure.rounds, bare.rounds, strict=True))
        console.print(f"{name}: {figure.median:.2f} µs a call, {added:+.2f} µs")
    made: dict[str, Callable[[], float]] = {
        "nothing waits": lambda: others(0, lambda: concurrency(1, key=tenant)),
        f"{WAITING} wait for concurrency": lambda: others(WAITING, lambda: concurrency(1, key=tenant)),
        f"{WAITING} wait for rate_limit": lambda: others(WAITING, lambda: rate_limit(1, per=3600, key=tenant)),
    }
    busy = interleave(made, max(rounds // 2, 1), console, "others go on")
    none: Figure = busy["nothing waits"]
    for name, figure in busy.items():
        console.print(f"{name}: {figure.median:.1f} µs for each other event, {figure.over(none):.2f} times")


if __name__ == "__main__":
    main()
