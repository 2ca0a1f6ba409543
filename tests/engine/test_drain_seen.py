"""What a subscription says of itself while it drains, and afterwards."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from anybroker import Bus, Event
from anybroker.engine import watch as module
from anybroker.errors import StateError

Run = Callable[[Coroutine[Any, Any, Any]], Any]
Until = Callable[[Callable[[], object]], Coroutine[Any, Any, None]]


def test_handlers_in_flight_are_seen_until_they_end(
    bus: Bus, run: Run, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_EVERY", 0.02)
    leave = asyncio.Event()
    refused: list[str] = []

    @bus.subscribe("orders", group="g", type="t")
    async def handle(_: Event[Any]) -> None:
        await leave.wait()
        try:
            await bus.close()
        except StateError as exc:
            refused.append(str(exc))

    async def main() -> None:
        async with bus:
            await bus.publish("orders", 1, type="t")
            (subscription,) = bus.subscriptions
            await until(lambda: subscription.unfinished_age)
            closing = asyncio.create_task(bus.close())
            await until(lambda: subscription.state == "stopping")
            age = subscription.unfinished_age or 0.0
            await until(lambda: (subscription.unfinished_age or 0.0) > age + 0.1)
            seen = bus.health().subscriptions[0]
            assert (seen.state, seen.running, seen.buffered, seen.held_lanes) == ("stopping", 1, 1, 1)
            assert len(subscription.handling()) == 1
            leave.set()
            await closing
            seen = bus.health().subscriptions[0]
            assert (seen.running, seen.buffered, seen.held_lanes, seen.unfinished_age) == (0, 0, 0, None)

    run(main())
    assert len(refused) == 1, "a handler that waits for the close which waits for it"


def test_what_was_cut_off_does_not_grow_older_when_the_bus_is_closed(
    bus: Bus, run: Run, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_EVERY", 0.02)

    @bus.subscribe("orders", group="g", type="t")
    async def handle(_: Event[Any]) -> None:
        await asyncio.Event().wait()

    async def main() -> None:
        async with bus:
            await bus.publish("orders", 1, type="t")
            await until(lambda: bus.subscriptions[0].unfinished_age)
            await bus.close(drain=0.0)
            assert bus.subscriptions[0].unfinished_age is None

    run(main())
