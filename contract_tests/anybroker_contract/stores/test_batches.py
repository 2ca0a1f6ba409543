"""Many calls at once: each gets its own answer."""

from __future__ import annotations

import asyncio
import random

import pytest

from anybroker.idempotency import Busy, Claim, Done

from ._kit import LONG, RETAIN, StoreKit


async def test_each_of_many_calls_gets_its_own_answer(kit: StoreKit) -> None:
    """Claims of free, claimed and done keys that are made in one turn of the event loop: each is told about its own
    key."""
    store = await kit.open()
    free, held, done = kit.keys(90)[:30], kit.keys(90)[30:60], kit.keys(90)[60:]
    for key in (*held, *done):
        claim = await kit.claimed(store, key)
        if key in done:
            assert await store.done(claim)
    keys = [*free, *held, *done]
    random.Random(1).shuffle(keys)
    answers = await asyncio.gather(*(store.claim(key, "b", LONG, RETAIN) for key in keys))
    for key, answer in zip(keys, answers, strict=True):
        assert isinstance(answer, Claim if key in free else Busy if key in held else Done), (key, answer)
        if isinstance(answer, Claim):
            assert answer.key == key


async def test_many_kinds_of_calls_at_once(kit: StoreKit) -> None:
    """Claims, marks, releases and extensions of different keys in one turn of the event loop have the effect that each
    has alone."""
    store = await kit.open()
    keys = kit.keys(80)
    to_mark, to_release, to_extend, to_claim = keys[:20], keys[20:40], keys[40:60], keys[60:]
    claims = {key: await kit.claimed(store, key) for key in keys[:60]}
    marked, _, extended, claimed = await asyncio.gather(
        asyncio.gather(*(store.done(claims[key]) for key in to_mark)),
        asyncio.gather(*(store.release(claims[key]) for key in to_release)),
        store.extend([claims[key] for key in to_extend]),
        asyncio.gather(*(store.claim(key, "b", LONG, RETAIN) for key in to_claim)),
    )
    assert list(marked) == [True] * 20
    assert list(extended) == [True] * 20
    assert [claim.key for claim in claimed if isinstance(claim, Claim)] == to_claim
    for key in to_mark:
        await kit.is_done(store, key)
    for key in to_release:
        await kit.claimed(store, key, owner="c")
    for key in (*to_extend, *to_claim):
        await kit.busy(store, key, owner="c")


async def test_marks_answer_for_their_own_claim(kit: StoreKit) -> None:
    """Marks of claims of which some were taken over, in one turn of the event loop: False for those, True for the
    others."""
    store = await kit.open()
    keys = kit.keys(30)
    claims = [await kit.claimed(store, key, lease=kit.brief) for key in keys]
    await kit.pass_time(1.2 * kit.brief)
    for key in keys[::2]:
        await kit.ran_out(store, key)
    assert await asyncio.gather(*(store.done(claim) for claim in claims)) == [False, True] * 15


@pytest.mark.parametrize("copies", [2, 7])
async def test_copies_of_one_key_in_one_batch(kit: StoreKit, copies: int) -> None:
    """Claims of one key in one turn of the event loop, by one owner: one gets it, the others are told that it is
    claimed."""
    store = await kit.open()
    for round_ in range(5):
        key = kit.key(str(round_))
        answers = await asyncio.gather(*(store.claim(key, "a", LONG, RETAIN) for _ in range(copies)))
        assert sum(isinstance(answer, Claim) for answer in answers) == 1, answers
        assert sum(isinstance(answer, Busy) for answer in answers) == copies - 1


async def test_copies_that_take_over_in_one_batch(kit: StoreKit) -> None:
    """Claims of one key whose lease has ended, in one turn of the event loop: one takes it over."""
    store = await kit.open()
    late = await kit.claimed(store, lease=kit.brief)
    await kit.pass_time(1.2 * kit.brief)
    answers = await asyncio.gather(*(store.claim(kit.key(), owner, LONG, RETAIN) for owner in "bcdef"))
    (claim,) = [answer for answer in answers if isinstance(answer, Claim)]
    assert claim.fence > late.fence
    assert await store.done(late) is False
    assert await store.done(claim) is True


async def test_two_thousand_claims_at_once(kit: StoreKit) -> None:
    """More calls than go into one batch of any store: all are claimed, all are marked, none is mixed up."""
    store = await kit.open()
    keys = kit.keys(kit.pick(2_000, 10_000))
    claims = await asyncio.gather(*(store.claim(key, "a", LONG, RETAIN) for key in keys))
    assert [claim.key for claim in claims if isinstance(claim, Claim)] == keys
    marks = await asyncio.gather(*(store.done(claim) for claim in claims if isinstance(claim, Claim)))
    assert all(marks)
    again = await asyncio.gather(*(store.claim(key, "b", LONG, RETAIN) for key in keys))
    assert all(isinstance(answer, Done) for answer in again)
