"""What a store has to remember is bounded, whatever the source and id of an event."""

from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from anybroker import Bus, Event, MemoryBroker
from anybroker.adapter import Outbound
from anybroker.idempotency import Key, MemoryStore, SqliteStore
from anybroker.middleware import idempotent
from anybroker.testing import settled

MIB = 1024 * 1024


def event(source: str, id_: str) -> Event[Any]:
    return Event({"specversion": "1.0", "id": id_, "source": source, "type": "t"}, 1)


class Watched(MemoryStore):
    """Keeps the keys that it was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[Key] = []

    async def claim(self, key: Key, *more: Any) -> Any:
        self.asked.append(key)
        return await super().claim(key, *more)


async def handled(store: Any, events: list[Event[Any]], key: Callable[[Event[Any]], str] | None = None) -> list[str]:
    """Each one sent twice, in order; the ids of those that the handler was started with."""
    bus = Bus(MemoryBroker(), source="shop")
    started: list[str] = []

    @bus.subscribe("orders", group="billing")
    @idempotent(store, key=key)
    async def charge(event: Event[Any]) -> None:
        started.append(event.id)

    async with bus:
        sender = await bus.adapter.open_sender()
        for one in events:
            for _ in range(2):
                await sender.submit([Outbound(one, "orders")], lambda *_: None)
                await settled(bus)
        (subscription,) = bus.subscriptions
        assert subscription.stats.suppressed == 2 * len(events) - len(started)
    return started


def test_a_key_of_ordinary_length_is_the_source_and_the_id_themselves() -> None:
    store = Watched()
    events = [event("/shop", "1"), event("s" * 128, "i" * 128), event("/shop", "é" * 128)]
    assert len(asyncio.run(handled(store, events))) == 3
    assert [key[2:] for key in dict.fromkeys(store.asked)] == [(one.source, one.id) for one in events]
    assert {key[0] for key in store.asked} == {"billing"}


@pytest.mark.parametrize("make", [lambda _: Watched(), lambda path: SqliteStore(path / "store.db")])
def test_long_ones_are_told_apart_by_their_hashes(make: Callable[[Path], Any], tmp_path: Path) -> None:
    long = "x" * MIB
    events = [event("/shop", long), event("/shop", long + "y"), event("/" + long, "1"), event("/" + long, "2"),
              event("/" + long, long)]  # fmt: skip
    store = make(tmp_path)
    assert asyncio.run(handled(store, events)) == [one.id for one in events]
    if isinstance(store, Watched):
        assert max(len(text) for key in store.asked for text in key) <= 128


def test_a_key_of_the_callers_is_bounded_too() -> None:
    store = Watched()
    events = [event("/shop", "1"), event("/shop", "2")]
    assert asyncio.run(handled(store, events, lambda one: one.id + "x" * MIB)) == ["1", "2"]
    assert asyncio.run(handled(store, events[:1], lambda one: "short")) == ["1"]
    assert [key[2:] for key in dict.fromkeys(store.asked)][2] == ("", "short")
    assert max(len(text) for key in store.asked for text in key) <= 128


def test_what_the_memory_store_holds_is_bounded() -> None:
    store = MemoryStore()
    events = [event(f"/{number}" + "s" * MIB, f"{number}" + "i" * MIB) for number in range(16)]
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        assert len(asyncio.run(handled(store, events))) == 16
        assert len(store) == 16
        assert tracemalloc.get_traced_memory()[0] - before < 2 * MIB
    finally:
        tracemalloc.stop()
