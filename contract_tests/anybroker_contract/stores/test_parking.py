"""Parked keys: a set of rows for each key, with an order, that all members of a group share."""

from __future__ import annotations

import asyncio
from typing import Any

from anybroker.idempotency import ParkedRow, ParkingStore, StoreUnavailable

from ._kit import StoreKit
from .marks import needs_harness, requires

PLACE = "orders/billing"


async def parking(kit: StoreKit) -> ParkingStore:
    """An opened store, of which it is certain that it remembers parked keys."""
    store: Any = await kit.open()
    assert isinstance(store, ParkingStore)
    return store


@requires("parking")
async def test_a_key_is_parked_while_it_has_a_row(kit: StoreKit) -> None:
    """The first event parks its key, those behind it join, in order; the key is free when each of them is finished."""
    store = await parking(kit)
    place = f"{PLACE}-{kit.key()[0]}"
    assert await store.parked(place) == {}
    assert await store.park(place, "k", "b", True) is None
    assert await store.parked(place) == {}
    first = await store.park(place, "k", "a", False)
    second = await store.park(place, "k", "b", True)
    third = await store.park(place, "k", "c", True)
    assert first is not None
    assert second is not None
    assert third is not None
    assert first.number < second.number < third.number
    assert [each.first for each in (first, second, third)] == ["a", "a", "a"]
    assert not any(each.finished for each in (first, second, third))
    assert await store.parked(place) == {"k": 3}
    assert await store.unpark(place, "k", "a") == 2
    assert await store.park(place, "k", "c", True) == ParkedRow(third.number, "b", False)
    assert await store.unpark(place, "k", "b") == 1
    assert await store.unpark(place, "k", "c") == 0
    assert await store.parked(place) == {}
    assert await store.park(place, "k", "d", True) is None


@requires("parking")
async def test_rows_are_a_set(kit: StoreKit) -> None:
    """Each call may be made again, as after a crash: numbers, counts and answers stay the same."""
    store = await parking(kit)
    place = f"{PLACE}-{kit.key()[0]}"
    first = await store.park(place, "k", "a", False)
    second = await store.park(place, "k", "b", True)
    assert await store.park(place, "k", "a", False) == first
    assert await store.park(place, "k", "a", True) == first
    assert await store.park(place, "k", "b", True) == second
    assert await store.parked(place) == {"k": 2}
    assert [await store.unpark(place, "k", "a") for _ in range(2)] == [1, 1]
    assert await store.unpark(place, "k", "unknown") == 1
    assert await store.unpark(place, "nobody", "a") == 0
    assert await store.parked(place) == {"k": 1}


@requires("parking")
async def test_what_is_finished_stays_finished_while_others_wait(kit: StoreKit) -> None:
    """An event that was handled while others of its key still wait is told apart from one that waits; when none waits
    any more, it is forgotten."""
    store = await parking(kit)
    place = f"{PLACE}-{kit.key()[0]}"
    first = await store.park(place, "k", "a", False)
    assert first is not None
    await store.park(place, "k", "b", True)
    await store.unpark(place, "k", "a")
    assert await store.park(place, "k", "a", True) == ParkedRow(first.number, "", True)
    assert await store.park(place, "k", "a", False) == ParkedRow(first.number, "", True)
    assert await store.parked(place) == {"k": 1}
    await store.unpark(place, "k", "b")
    assert await store.park(place, "k", "a", True) is None


@requires("parking")
async def test_keys_and_groups_are_apart(kit: StoreKit) -> None:
    """A key is parked in one group of one topic, and no other key is."""
    store = await parking(kit)
    one, other = f"{PLACE}-{kit.key()[0]}", f"{PLACE}-two-{kit.key()[0]}"
    for key in ("k", "K", "k ", "%", "'\"\\"):
        assert await store.park(one, key, "a", False) is not None
    assert await store.park(one, "k2", "a", True) is None
    assert await store.park(other, "k", "a", True) is None
    assert await store.parked(other) == {}
    assert await store.parked(one) == dict.fromkeys(("k", "K", "k ", "%", "'\"\\"), 1)
    await store.unpark(one, "k", "a")
    assert await store.parked(one) == dict.fromkeys(("K", "k ", "%", "'\"\\"), 1)


@requires("parking")
async def test_a_key_can_be_freed_whatever_waits(kit: StoreKit) -> None:
    """``unpark`` without an event removes all rows of the key, and of no other."""
    store = await parking(kit)
    place = f"{PLACE}-{kit.key()[0]}"
    for name in "abc":
        await store.park(place, "k", name, False)
        await store.park(place, "other", name, False)
    assert await store.unpark(place, "k", None) == 0
    assert await store.parked(place) == {"other": 3}


@requires("parking")
async def test_calls_at_the_same_moment(kit: StoreKit) -> None:
    """Many calls at once: each row is written once, numbers differ, and an event joins a key or finds it free, never
    both."""
    store = await parking(kit)
    place = f"{PLACE}-{kit.key()[0]}"
    count = kit.pick(50, 300)
    await store.park(place, "k", "first", False)
    rows = await asyncio.gather(*(store.park(place, "k", f"e{number % count}", True) for number in range(2 * count)))
    assert all(row is not None and row.first == "first" for row in rows)
    assert rows[:count] == rows[count:]
    assert len({row.number for row in rows if row is not None}) == count
    joining = [store.park(place, "free", f"e{number}", True) for number in range(count)]
    answers = await asyncio.gather(*joining, store.park(place, "free", "first", False))
    joined = sum(answer is not None for answer in answers)
    assert await store.parked(place) == {"k": count + 1, "free": joined}


@requires("parking", "processes")
async def test_another_object_sees_the_same_keys(kit: StoreKit) -> None:
    """Two objects on one place: what one parks, the other one finds parked, and may free."""
    one, other = await parking(kit), await parking(kit)
    place = f"{PLACE}-{kit.key()[0]}"
    await one.park(place, "k", "a", False)
    assert await other.parked(place) == {"k": 1}
    second = await other.park(place, "k", "b", True)
    assert second is not None
    assert second.first == "a"
    assert await other.unpark(place, "k", "a") == 1
    assert await one.park(place, "k", "b", True) == ParkedRow(second.number, "b", False)
    assert await one.unpark(place, "k", "b") == 0
    assert await other.park(place, "k", "c", True) is None


@requires("parking", "durable")
async def test_parked_keys_outlive_the_object(kit: StoreKit) -> None:
    """Rows are there when the store is opened again, and nothing is forgotten by age."""
    place = f"{PLACE}-{kit.key()[0]}"
    store: Any = kit.store(retain=1.0)
    await store.open()
    try:
        first = await store.park(place, "k", "a", False)
    finally:
        await store.close()
    again: Any = await kit.open(retain=1.0)
    await kit.pass_time(2.0)
    await again.purge()
    assert await again.park(place, "k", "a", True) == first
    assert await again.parked(place) == {"k": 1}


@requires("parking")
@needs_harness("freeze")
async def test_parking_fails_while_the_store_does_not_answer(kit: StoreKit) -> None:
    """Each call ends with ``StoreUnavailable``; afterwards nothing is forgotten."""
    store = await parking(kit)
    place = f"{PLACE}-{kit.key()[0]}"
    await store.park(place, "k", "a", False)
    await kit.disturb("freeze")
    calls = (store.parked(place), store.park(place, "k", "b", False), store.unpark(place, "k", "a"))
    answers = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(answer) for answer in answers] == [StoreUnavailable] * 3
    await kit.disturb("thaw")
    counted = await store.parked(place)
    assert counted["k"] >= 1
