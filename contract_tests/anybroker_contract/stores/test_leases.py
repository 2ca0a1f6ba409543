"""Leases that end: taking over, and what a late owner can still do."""

from __future__ import annotations

import asyncio

import pytest

from anybroker.idempotency import Busy, Claim

from ._kit import LONG, RETAIN, SLACK, StoreKit


async def test_a_lease_that_ran_out_is_taken_over_and_fenced(kit: StoreKit) -> None:
    """After its lease a claim is taken over under a higher fencing number; the late owner can neither extend it, nor
    mark it done, nor release it, whether the new owner is at work or done."""
    store = await kit.open()
    late = await kit.claimed(store, lease=kit.brief)
    second = await kit.ran_out(store, kit.key(), wait=kit.brief)
    assert second.fence > late.fence
    assert list(await store.extend([late, second])) == [False, True]
    assert await store.done(late) is False
    await kit.busy(store, owner="c")
    await store.release(late)
    await kit.busy(store, owner="c")
    assert await store.done(second) is True
    assert await store.done(late) is False
    await kit.is_done(store, owner="a")


async def test_nobody_takes_over_before_the_lease_ends(kit: StoreKit) -> None:
    """The whole time until its lease ends a claim keeps others out."""
    store = await kit.open()
    lease = 20.0 if kit.moves_time else 2.0
    before = kit.now()
    await kit.claimed(store, lease=lease)
    await kit.pass_time(0.8 * lease)
    there = await store.claim(kit.key(), "b", LONG, RETAIN)
    if isinstance(there, Busy):
        assert lease - (kit.now() - before) - SLACK <= there.left <= 0.2 * lease + SLACK
        await kit.ran_out(store, kit.key(), wait=there.left)
    assert kit.now() - before >= lease - SLACK, "taken over too early"


async def test_a_late_owner_marks_what_nobody_took_over(kit: StoreKit) -> None:
    """After its lease, and a purge, the owner can still mark a claim done that nobody else has taken over."""
    store = await kit.open()
    late = await kit.claimed(store, lease=kit.brief)
    await kit.pass_time(3 * kit.brief)
    await store.purge()
    assert await store.done(late) is True
    await kit.is_done(store)


async def test_a_late_owner_extends_what_nobody_took_over(kit: StoreKit) -> None:
    """After its lease an owner that extends its claim either has it again, and then it keeps others out, or is told
    that it is lost."""
    store = await kit.open()
    late = await kit.claimed(store, lease=kit.brief)
    await kit.pass_time(1.5 * kit.brief)
    (ours,) = await store.extend([late])
    got = await store.claim(kit.key(), "b", LONG, RETAIN)
    assert isinstance(got, Claim) is not ours


async def test_extending_lets_each_claim_last_its_own_lease(kit: StoreKit) -> None:
    """Extending makes each claim last its own lease from then on."""
    store = await kit.open()
    one, two = kit.key("1"), kit.key("2")
    short, long = await kit.claimed(store, one, lease=30.0), await kit.claimed(store, two, lease=90.0)
    await kit.pass_time(10.0 if kit.moves_time else 0.3)
    before = kit.now()
    assert list(await store.extend([short, long])) == [True, True]
    for key, lease in ((one, 30.0), (two, 90.0)):
        there = await kit.busy(store, key)
        assert lease - (kit.now() - before) - SLACK <= there.left <= lease + SLACK


async def test_extending_keeps_a_claim_for_as_long_as_it_goes_on(kit: StoreKit) -> None:
    """A claim that is extended in time outlives its first lease."""
    store = await kit.open()
    lease = 20.0 if kit.moves_time else 1.5
    claim = await kit.claimed(store, lease=lease)
    for _ in range(4):
        await kit.pass_time(lease / 3)
        assert list(await store.extend([claim])) == [True]
        await kit.busy(store)
    assert await store.done(claim) is True


async def test_extending_reports_each_claim_in_order(kit: StoreKit) -> None:
    """Of many claims some are lost: the answers are in the order of the claims, and only those that are kept are
    extended."""
    store = await kit.open()
    keys = kit.keys(40)
    claims = [await kit.claimed(store, key, lease=kit.brief) for key in keys]
    await kit.pass_time(1.2 * kit.brief)
    lost = [number for number in range(40) if number % 3 == 1]
    for number in lost:
        await kit.ran_out(store, keys[number])
    assert list(await store.extend(claims)) == [number not in lost for number in range(40)]
    for number in lost:
        await kit.busy(store, keys[number], owner="c")
        assert await store.done(claims[number]) is False
    assert list(await store.extend([])) == []


async def test_the_fence_rises_with_every_claim(kit: StoreKit) -> None:
    """Fencing numbers of a key rise across releases, leases that ran out, and opening the store again."""
    store = kit.store()
    await store.open()
    fences: list[int] = []
    for round_ in range(3):
        claim = await kit.claimed(store, owner=f"released-{round_}", lease=kit.brief)
        fences.append(claim.fence)
        await store.release(claim)
        claim = await kit.claimed(store, owner=f"late-{round_}", lease=kit.brief)
        fences.append(claim.fence)
        second = await kit.ran_out(store, kit.key(), owner=f"second-{round_}", wait=kit.brief)
        fences.append(second.fence)
        await store.release(second)
        await store.purge()
        await store.close()
        await store.open()
    await store.close()
    assert fences == sorted(set(fences))


@pytest.mark.parametrize("ends", ["done", "release"])
async def test_the_end_of_a_claim_and_the_next_claim_at_the_same_moment(kit: StoreKit, ends: str) -> None:
    """Claims that arrive together with what ends the claim before them: at most one gets the key, and none if it was
    marked done."""
    store = await kit.open()
    keys = kit.keys(30)
    claims = [await kit.claimed(store, key) for key in keys]
    ending = [asyncio.ensure_future(getattr(store, ends)(claim)) for claim in claims]
    asked = await asyncio.gather(*(store.claim(key, owner, LONG, RETAIN) for key in keys for owner in ("b", "c")))
    await asyncio.gather(*ending)
    got = [claim for claim in asked if isinstance(claim, Claim)]
    assert len({claim.key for claim in got}) == len(got)
    if ends == "done":
        assert got == []
        for key in keys:
            await kit.is_done(store, key)
    for claim in got:
        await kit.busy(store, claim.key, owner="d")
