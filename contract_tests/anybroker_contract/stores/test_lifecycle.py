"""Opening, closing, and calls that are cancelled."""

from __future__ import annotations

import asyncio

import pytest

from anybroker.idempotency import Claim, Done, TransactionalStore

from ._kit import LONG, RETAIN, StoreKit, opened
from .marks import needs_harness, requires


async def test_a_store_is_what_its_harness_declares(kit: StoreKit) -> None:
    """What the tests are chosen by is what the store says of itself."""
    store = kit.store()
    assert store.durable is kit.harness.durable
    assert isinstance(store, TransactionalStore) is kit.harness.transactional
    assert kit.store(retain=1_234.0).retain == 1_234.0
    assert 0 < store.retain < float("inf")


async def test_a_store_is_open_until_the_last_one_has_closed_it(kit: StoreKit) -> None:
    """Opens are counted: the store works until it was closed as often, and can be opened again."""
    store = kit.store()
    async with opened(store):
        async with opened(store), opened(store):
            claim = await kit.claimed(store)
        await kit.busy(store)
        assert await store.done(claim) is True
    async with opened(store):
        await kit.is_done(store)
        await kit.claimed(store, kit.key("2"))


async def test_closing_completes_what_was_called_before(kit: StoreKit) -> None:
    """Marks that were called and not yet answered when the store is closed are made, and say so."""
    store = kit.store()
    await store.open()
    keys = kit.keys(50)
    claims = await asyncio.gather(*(store.claim(key, "a", LONG, RETAIN) for key in keys))
    marks = [asyncio.ensure_future(store.done(claim)) for claim in claims if isinstance(claim, Claim)]
    await asyncio.sleep(0)
    await store.close()
    assert await asyncio.gather(*marks) == [True] * 50
    async with opened(store):
        answers = await asyncio.gather(*(store.claim(key, "b", LONG, RETAIN) for key in keys))
        assert all(isinstance(answer, Done) for answer in answers)


async def test_opening_at_the_same_moment(kit: StoreKit) -> None:
    """Several Buses start, and close, at the same moment with one store."""
    store = kit.store()
    await asyncio.gather(*(store.open() for _ in range(5)))
    claim = await kit.claimed(store)
    await asyncio.gather(*(store.close() for _ in range(4)))
    assert await store.done(claim) is True
    await store.close()


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
async def test_a_claim_that_is_cancelled_does_not_stay(kit: StoreKit, turns: int) -> None:
    """A claim whose call was cancelled, at whatever moment, is not there, is released, or expires with its lease; other
    calls of its batch are answered."""
    store = await kit.open()
    keys = kit.keys(30)
    calls = [asyncio.ensure_future(store.claim(key, "a", kit.brief, RETAIN)) for key in keys]
    for _ in range(turns):
        await asyncio.sleep(0)
    for call in calls[::2]:
        call.cancel()
    results = await asyncio.gather(*calls, return_exceptions=True)
    for number, result in enumerate(results):
        if number % 2:
            assert isinstance(result, Claim), repr(result)
        elif isinstance(result, Claim):  # it was made before it could be cancelled
            await store.release(result)
        else:
            assert isinstance(result, asyncio.CancelledError)
    await kit.pass_time(kit.brief)
    for key in keys[::2]:
        claim = await kit.ran_out(store, key)
        assert await store.done(claim) is True


async def test_a_mark_that_is_cancelled_is_made_or_not(kit: StoreKit) -> None:
    """After a cancelled mark the key is done or still claimed, and the mark can be made."""
    store = await kit.open()
    keys = kit.keys(20)
    claims = [await kit.claimed(store, key) for key in keys]
    calls = [asyncio.ensure_future(store.done(claim)) for claim in claims]
    await asyncio.sleep(0)
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    for key, claim in zip(keys, claims, strict=True):
        assert not isinstance(await store.claim(key, "b", LONG, RETAIN), Claim)
        assert await store.done(claim) is True
        await kit.is_done(store, key)


@requires("durable")
async def test_a_new_object_remembers(kit: StoreKit) -> None:
    """What is done, and what is claimed, is known to an object that is made after the first one was closed."""
    async with opened(kit.store()) as store:
        claim = await kit.claimed(store, kit.key("done"))
        assert await store.done(claim) is True
        held = await kit.claimed(store, kit.key("held"))
    async with opened(kit.store()) as again:
        await kit.is_done(again, kit.key("done"))
        await kit.busy(again, kit.key("held"))
        assert await again.done(held) is True


@needs_harness("by_url")
async def test_a_store_is_made_by_its_url(kit: StoreKit) -> None:
    """``Bus(idempotency=…)`` with the store's URL."""
    store = kit.store_by_url(kit.harness.by_url(kit.place))
    async with opened(store):
        claim = await kit.claimed(store)
        assert await store.done(claim) is True
        await kit.is_done(store)
