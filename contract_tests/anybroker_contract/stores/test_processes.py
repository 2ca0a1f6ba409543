"""Owners in several processes: races, fencing, owners that are killed or stopped, clocks that differ."""

from __future__ import annotations

import asyncio
import random

import pytest

from anybroker.idempotency import Busy, Claim

from .._waiting import eventually
from ._elsewhere import Elsewhere
from ._kit import LONG, RETAIN, SLACK, StoreKit
from .marks import requires

BRIEF = 0.5
"""Seconds, a lease that really runs out: the clock of another process cannot be moved."""


async def take_over(kit: StoreKit, store: Elsewhere, owner: str = "b", lease: float = LONG) -> Claim:
    """The claim that ``store`` takes over once the lease has ended."""
    got: list[Claim] = []

    async def taken() -> bool:
        claim = await store.claim(kit.key(), owner, lease, RETAIN)
        if isinstance(claim, Claim):
            got.append(claim)
        return bool(got)

    await eventually(taken, kit.patience, "the lease does not end")
    return got[0]


@requires("processes")
async def test_processes_that_claim_at_the_same_moment(kit: StoreKit) -> None:
    """Four processes claim the same keys at the same moment, each in its own order: each key has exactly one owner,
    whose mark counts."""
    keys = kit.keys(kit.pick(250, 2_000))
    others = await asyncio.gather(*(kit.elsewhere() for _ in range(4)))
    orders = [random.Random(number).sample(keys, len(keys)) for number in range(4)]
    answers = await asyncio.gather(
        *(
            other.claim_all(order, f"owner-{number}", LONG, RETAIN)
            for number, (other, order) in enumerate(zip(others, orders, strict=True))
        )
    )
    claims = [[claim for claim in answer if isinstance(claim, Claim)] for answer in answers]
    assert sorted(claim.key for mine in claims for claim in mine) == sorted(keys)
    assert sum(isinstance(item, Busy) for answer in answers for item in answer) == 3 * len(keys)
    for other, mine in zip(others, claims, strict=True):
        assert await other.done_all(mine) == [True] * len(mine)
    for item in await others[0].claim_all(keys, "late", LONG, RETAIN):
        assert not isinstance(item, Claim | Busy)


@requires("processes", "durable")
async def test_a_killed_owner_is_taken_over_after_its_lease(kit: StoreKit) -> None:
    """SIGKILL: what the process had marked is done, what it had claimed is kept for its lease, then taken over under a
    higher fencing number."""
    first, second = await asyncio.gather(kit.elsewhere(), kit.elsewhere())
    done = await kit.claimed(first, kit.key("done"))
    assert await first.done(done) is True
    before = kit.now()
    held = await kit.claimed(first, lease=2.0)
    await first.kill()
    claim = await take_over(kit, second)
    assert kit.now() - before >= 2.0 - SLACK, "taken over too early"
    assert claim.fence > held.fence
    await kit.is_done(second, kit.key("done"))
    assert await second.done(claim) is True


@requires("processes")
async def test_a_stopped_owner_that_wakes_up_changes_nothing(kit: StoreKit) -> None:
    """SIGSTOP past its lease: another process takes the claim over; the owner that wakes up can neither extend, nor
    mark, nor release it."""
    first, second = await asyncio.gather(kit.elsewhere(), kit.elsewhere())
    late = await kit.claimed(first, lease=BRIEF)
    first.stop()
    claim = await take_over(kit, second)
    assert claim.fence > late.fence
    extending = asyncio.ensure_future(first.extend([late]))
    marking, releasing = asyncio.ensure_future(first.done(late)), asyncio.ensure_future(first.release(late))
    first.go_on()
    assert list(await extending) == [False]
    assert await marking is False
    await releasing
    await kit.busy(second, owner="c")
    assert list(await second.extend([claim])) == [True]
    assert await second.done(claim) is True
    assert await first.done(late) is False


@requires("processes")
async def test_a_stopped_owner_that_nobody_took_over_marks(kit: StoreKit) -> None:
    """SIGSTOP past its lease, and nobody else came: the owner that wakes up marks its claim done."""
    first, second = await asyncio.gather(kit.elsewhere(), kit.elsewhere())
    late = await kit.claimed(first, lease=BRIEF)
    first.stop()
    await asyncio.sleep(1.5 * BRIEF)
    first.go_on()
    assert await first.done(late) is True
    await kit.is_done(second)


@requires("processes", "durable")
async def test_the_fence_rises_across_processes(kit: StoreKit) -> None:
    """Fencing numbers of a key rise from process to process, one after the other, whether a claim was released or ran
    out."""
    fences: list[int] = []
    for round_ in range(3):
        other = await kit.elsewhere()
        claim = await take_over(kit, other, f"owner-{round_}", lease=BRIEF)
        fences.append(claim.fence)
        if round_ % 2:
            await other.release(claim)
        assert await other.end() == 0
    assert fences == sorted(set(fences))


@requires("processes", "server")
@pytest.mark.parametrize("ahead", [7_200.0, -7_200.0], ids=["ahead", "behind"])
async def test_the_servers_clock_decides_leases(kit: StoreKit, ahead: float) -> None:
    """A process whose clock is two hours wrong takes nothing over that lives, and what it claims can be had after its
    lease, not two hours later."""
    right, wrong = await asyncio.gather(kit.elsewhere(), kit.elsewhere(ahead=ahead))
    claim = await kit.claimed(right)
    there = await kit.busy(wrong)
    assert -SLACK <= there.age <= kit.patience
    assert LONG - kit.patience <= there.left <= LONG + SLACK
    assert await right.done(claim) is True
    await kit.is_done(wrong)
    mine = await wrong.claim(kit.key("2"), "w", LONG, RETAIN)
    assert isinstance(mine, Claim)
    there = await kit.busy(right, kit.key("2"))
    assert LONG - kit.patience <= there.left <= LONG + SLACK
    assert list(await wrong.extend([mine])) == [True]
    there = await kit.busy(right, kit.key("2"))
    assert LONG - kit.patience <= there.left <= LONG + SLACK
    assert await wrong.done(mine) is True
    brief = await wrong.claim(kit.key("3"), "w", BRIEF, RETAIN)
    assert isinstance(brief, Claim)

    async def free() -> bool:
        return isinstance(await right.claim(kit.key("3"), "b", LONG, RETAIN), Claim)

    await eventually(free, kit.patience, "a claim of a process with a wrong clock does not end")
