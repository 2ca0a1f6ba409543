"""Claiming: one owner at a time, until it is released or done."""

from __future__ import annotations

import asyncio

import pytest

from anybroker.idempotency import Busy, Claim

from ._kit import LONG, RETAIN, SLACK, StoreKit
from .marks import requires


async def test_what_is_done_stays_done(kit: StoreKit) -> None:
    """What was marked done is done for every owner, and a release after it changes nothing."""
    store = await kit.open()
    claim = await kit.claimed(store)
    assert await store.done(claim) is True
    await kit.is_done(store, owner="a")
    await kit.is_done(store, owner="b")
    await store.release(claim)
    await kit.is_done(store)


async def test_a_claim_says_what_was_claimed(kit: StoreKit) -> None:
    """A claim has the key, the lease and the retention that it was made with, and its end on the store's clock."""
    store = await kit.open()
    claim = await kit.claimed(store, lease=17.0, retain=1_234.0)
    assert (claim.key, claim.lease, claim.retain) == (kit.key(), 17.0, 1_234.0)
    assert claim.until - claim.since == pytest.approx(17.0, abs=SLACK)
    assert claim.fence >= 1
    assert kit.key()[0] in repr(claim)


async def test_a_live_claim_keeps_others_out_and_its_own_owner_too(kit: StoreKit) -> None:
    """While a claim lives nobody else gets the key, nor another delivery of its owner; the answer has its age and what
    is left of its lease."""
    store = await kit.open()
    before = kit.now()
    await kit.claimed(store)
    after = kit.now()
    await kit.pass_time(3.0 if kit.moves_time else 0.3)
    for owner in ("a", "b"):
        asked = kit.now()
        there = await kit.busy(store, owner=owner)
        answered = kit.now()
        assert asked - after - SLACK <= there.age <= answered - before + SLACK
        assert LONG - (answered - before) - SLACK <= there.left <= LONG - (asked - after) + SLACK


async def test_what_is_released_can_be_had_at_once(kit: StoreKit) -> None:
    """After a release the next owner has the key at once, under a higher fencing number; a second release changes
    nothing."""
    store = await kit.open()
    first = await kit.claimed(store)
    await store.release(first)
    second = await kit.claimed(store, owner="b")
    assert second.fence > first.fence
    await store.release(first)
    await kit.busy(store, owner="c")


async def test_a_claim_at_the_same_moment_is_given_once(kit: StoreKit) -> None:
    """Three owners claim fifty keys at the same moment: each key has one owner, and the others are told that it is
    claimed."""
    store = await kit.open()
    keys = kit.keys(50)
    results = await asyncio.gather(
        *(store.claim(key, owner, LONG, RETAIN) for owner in ("a", "b", "c") for key in keys)
    )
    claims = [result for result in results if isinstance(result, Claim)]
    assert sorted(claim.key for claim in claims) == sorted(keys)
    assert sum(isinstance(result, Busy) for result in results) == 100
    assert await asyncio.gather(*(store.done(claim) for claim in claims)) == [True] * 50


@requires("processes")
async def test_two_objects_on_one_place_share_it(kit: StoreKit) -> None:
    """What one object has claimed or done, another object on the same place knows."""
    store, other = await kit.open(), await kit.open()
    claim = await kit.claimed(store)
    await kit.busy(other)
    assert await store.done(claim) is True
    await kit.is_done(other)


async def test_done_can_be_said_again(kit: StoreKit) -> None:
    """Marking done twice, as after an answer that was lost, is True both times."""
    store = await kit.open()
    claim = await kit.claimed(store)
    assert await store.done(claim) is True
    assert await store.done(claim) is True
    await kit.is_done(store)
