"""Keys that other programs choose: what the library does with them is bounded, whatever their length."""

from __future__ import annotations

import asyncio
import gc
import time
import tracemalloc
from collections.abc import Iterable
from typing import Any

import pytest

from anybroker import Bus, Delivery, Event, MemoryBroker, adapter
from anybroker.adapter import Foreign, Outbound, bounded_key, slot_of
from anybroker.middleware import retry
from anybroker.names import MAX_KEY_BYTES, check_key
from anybroker.testing import settled

MIB = 1024 * 1024
ATTRIBUTES = {"specversion": "1.0", "id": "1", "source": "/s", "type": "t"}


def event(key: Any, number: int = 1) -> Event[Any]:
    """As another program may send it: publish() refuses such a key."""
    return Event({**ATTRIBUTES, "id": str(number), "partitionkey": key}, 1)


@pytest.mark.parametrize("key", ["k", "k" * 512, "é" * 256, "🐟" * 128])
def test_a_key_that_publish_takes_stays_as_it_is(key: str) -> None:
    assert check_key(key) == key
    assert bounded_key(key) == key
    assert event(key).key == key
    assert Foreign(b"", (), key).key == key
    assert Outbound(event(key), "orders").key == key


@pytest.mark.parametrize("key", ["k" * 513, "é" * 257, "🐟" * 129, "x" * MIB])
def test_a_longer_one_orders_by_its_hash(key: str) -> None:
    bounded = event(key).key
    assert bounded is not None
    assert bounded.startswith("hash:")
    assert len(bounded) == 45
    assert bounded == bounded_key(key) == bounded_key(bounded) == event(key, 2).key
    assert bounded != event(key + "k").key
    assert event(key)["partitionkey"] == key
    assert Foreign(b"", (), key).key == bounded
    assert Foreign(b"", (), key).without_headers().key == bounded
    assert Outbound(event(key), "orders").key == bounded
    assert slot_of(key) == slot_of(bounded)


@pytest.mark.parametrize(("key", "text"), [(7, "7"), (True, "true"), (b"\x00", "AA=="), ("", None)])
def test_keys_of_other_types(key: Any, text: str | None) -> None:
    assert event(key).key == text


def test_the_hash_of_a_surrogate() -> None:
    assert bounded_key("\ud800" * 600).startswith("hash:")


def keys(length: int, count: int) -> Iterable[str]:
    return (f"{number:08}".ljust(length, "k") for number in range(count))


@pytest.mark.parametrize(("length", "count"), [(MIB, 16), (512, 10_000), (100, 10_000)])
def test_what_is_remembered_of_slots_is_bounded(monkeypatch: pytest.MonkeyPatch, length: int, count: int) -> None:
    monkeypatch.setattr(adapter, "murmur2", len)  # faster
    monkeypatch.setattr(adapter, "_MOST_SLOTS", 2_000)
    adapter._slots.clear()
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for key in keys(length, count):
            assert 0 <= slot_of(key) < 64
        del key
        gc.collect()
        assert tracemalloc.get_traced_memory()[0] - before < MIB // 2
    finally:
        tracemalloc.stop()
        adapter._slots.clear()


def test_the_slot_of_a_huge_key_takes_no_time() -> None:
    key = "k" * (16 * MIB)
    slot_of("warm")
    started = time.perf_counter()
    slot_of(key)
    assert time.perf_counter() - started < 0.5  # murmur2 of it all takes more than a second


def test_a_bus_orders_and_dead_letters_by_what_is_bounded() -> None:
    async def main() -> None:
        broker = MemoryBroker()
        bus = Bus(broker, source="shop")
        seen: list[tuple[str, str | None]] = []
        huge = "k" * MIB

        @bus.subscribe("orders", group="billing", middleware=[retry(attempts=1)])
        async def handle(delivery: Delivery) -> None:
            seen.append((delivery.event.id, delivery.key))
            assert delivery.event["partitionkey"] == huge
            if delivery.event.id == "3":
                raise ValueError("not today")

        async with bus:
            assert bus.adapter is not None
            sender = await bus.adapter.open_sender()
            await sender.submit([Outbound(event(huge, number), "orders") for number in range(20)], lambda *_: None)
            await settled(bus)
            (letter,) = await bus.dead_letters("orders", "billing").list()
        assert [id_ for id_, _ in seen] == [str(number) for number in range(20)]
        assert {key for _, key in seen} == {bounded_key(huge)}
        assert letter.event["partitionkey"] == huge  # type: ignore[index]

    asyncio.run(main())


def test_the_limit_is_that_of_publish() -> None:
    assert MAX_KEY_BYTES == 512
