"""The store's server down, frozen, restarted, or only readable: clear errors in bounded time, and back by itself."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from typing import Any

import pytest

from anybroker.idempotency import Claim, Key, Store, StoreUnavailable

from .._waiting import eventually
from ._kit import RETAIN, StoreKit, opened
from .marks import needs_harness, requires

LATE = 1.5
"""Seconds by which a call may be later than the store's time-out: this machine may be busy."""


async def back(kit: StoreKit, store: Store, key: Key | None = None) -> Claim:
    """The claim of a key that is free, as soon as the store answers again."""
    got: list[Any] = []

    async def claimed() -> bool:
        try:
            got.append(await store.claim(key or kit.key("back"), "b", kit.brief, RETAIN))
        except StoreUnavailable:
            return False
        return isinstance(got[-1], Claim)

    await eventually(claimed, kit.patience, "the store does not come back")
    claim: Claim = got[-1]
    return claim


async def mark(kit: StoreKit, store: Store, claim: Claim) -> bool:
    """Store.done, as soon as the store answers again."""
    got: list[bool] = []

    async def marked() -> bool:
        try:
            got.append(await store.done(claim))
        except StoreUnavailable:
            return False
        return True

    await eventually(marked, kit.patience, "the store does not come back")
    return got[-1]


async def every_call(kit: StoreKit, store: Store, held: list[Claim]) -> list[Any]:
    """What each kind of call ends with, all at the same moment. A claim of it would have a brief lease."""
    async with asyncio.timeout(kit.harness.timeout + 3 * LATE):
        calls: list[Awaitable[Any]] = [
            store.claim(kit.key("new"), "a", kit.brief, RETAIN),
            store.done(held[0]),
            store.release(held[1]),
            store.extend(held[2:]),
            store.purge(),
        ]
        return await asyncio.gather(*calls, return_exceptions=True)


async def all_fail(kit: StoreKit, store: Store, held: list[Claim]) -> None:
    """Every call ends by the store's time-out, with an error that says which store it is."""
    begun = time.monotonic()
    results = await every_call(kit, store, held)
    took = time.monotonic() - begun
    for name, result in zip(("claim", "done", "release", "extend", "purge"), results, strict=True):
        if name == "purge" and result == 0 and kit.harness.portion == 0:
            continue  # what is too old goes by itself: there is nobody to ask
        assert isinstance(result, StoreUnavailable), f"{name}: {result!r}"
        assert kit.harness.names(kit.place) in str(result), f"{name} does not say which store: {result}"
    assert took <= kit.harness.timeout + LATE, f"{took:.1f} s"


async def some_claims(kit: StoreKit, store: Store) -> list[Claim]:
    """Four claims that live, each of its own key."""
    return [await kit.claimed(store, kit.key(f"held-{number}")) for number in range(4)]


async def nothing_was_lost(kit: StoreKit, store: Store, held: list[Claim]) -> None:
    """What was done is done, what was claimed is claimed; what was asked meanwhile was done or not, and can be done."""
    await kit.is_done(store, kit.key("done"))
    await kit.busy(store, held[2].key)
    assert list(await store.extend(held[2:])) == [True, True]
    assert await store.done(held[0]) is True
    await store.release(held[1])
    await kit.claimed(store, held[1].key, owner="c")
    new = await kit.ran_out(store, kit.key("new"), wait=kit.brief)
    assert await store.done(new) is True


async def before(kit: StoreKit) -> tuple[Store, list[Claim]]:
    """A store with something done and four claims."""
    store = await kit.open()
    assert await store.done(await kit.claimed(store, kit.key("done"))) is True
    return store, await some_claims(kit, store)


@needs_harness("freeze", "thaw")
async def test_every_call_ends_while_it_does_not_answer(kit: StoreKit) -> None:
    """Frozen: each call ends by the store's time-out with StoreUnavailable, which names the store; afterwards it comes
    back by itself, and nothing is lost."""
    store, held = await before(kit)
    await kit.disturb("freeze")
    await all_fail(kit, store, held)
    await kit.disturb("thaw")
    await back(kit, store)
    await nothing_was_lost(kit, store, held)


@needs_harness("freeze", "thaw")
async def test_opening_ends_while_it_does_not_answer(kit: StoreKit) -> None:
    """Frozen: opening ends by the time-out with StoreUnavailable, and the same object can be opened later."""
    async with opened(kit.store()):
        pass  # its tables, or what it has, are there
    store = kit.store()
    await kit.disturb("freeze")
    begun = time.monotonic()
    with pytest.raises(StoreUnavailable) as failed:
        async with asyncio.timeout(kit.harness.timeout + 3 * LATE):
            await store.open()
    assert kit.harness.names(kit.place) in str(failed.value)
    assert time.monotonic() - begun <= kit.harness.timeout + LATE
    await kit.disturb("thaw")

    async def opens() -> bool:
        try:
            await store.open()
        except StoreUnavailable:
            return False
        return True

    await eventually(opens, kit.patience, "it does not open again")
    await kit.claimed(store)
    await store.close()


@requires("durable")
@needs_harness("kill", "start")
async def test_opening_ends_while_the_server_is_down(kit: StoreKit) -> None:
    """Killed: the same, whether or not the object was open before."""
    store = kit.store()
    async with opened(store):
        claim = await kit.claimed(store)
    await kit.disturb("kill")
    for one in (store, kit.store()):
        begun = time.monotonic()
        with pytest.raises(StoreUnavailable) as failed:
            async with asyncio.timeout(kit.harness.timeout + 3 * LATE):
                await one.open()
        assert kit.harness.names(kit.place) in str(failed.value)
        assert time.monotonic() - begun <= kit.harness.timeout + LATE
    await kit.disturb("start")
    async with opened(store):
        assert await mark(kit, store, claim) is True


@needs_harness("freeze", "thaw")
async def test_a_cancelled_call_ends_while_it_does_not_answer(kit: StoreKit) -> None:
    """Frozen: a claim that is cancelled ends at once, and does not keep the key longer than its lease."""
    store, _ = await before(kit)
    await kit.disturb("freeze")
    call = asyncio.ensure_future(store.claim(kit.key("new"), "a", kit.brief, RETAIN))
    await asyncio.sleep(0)
    call.cancel()
    done, _ = await asyncio.wait([call], timeout=kit.harness.timeout / 2)
    assert done
    assert call.cancelled()
    await kit.disturb("thaw")
    await back(kit, store)
    claim = await kit.ran_out(store, kit.key("new"), wait=kit.brief)
    assert await store.done(claim) is True


@needs_harness("freeze", "thaw")
async def test_closing_ends_while_it_does_not_answer(kit: StoreKit) -> None:
    """Frozen: closing ends, and the calls made before it are answered, with errors."""
    store = kit.store()
    await store.open()
    claim = await kit.claimed(store)
    await kit.disturb("freeze")
    call = asyncio.ensure_future(store.done(claim))
    await asyncio.sleep(0)
    async with asyncio.timeout(2 * kit.harness.timeout + LATE):
        await asyncio.gather(store.close(), return_exceptions=True)
        (result,) = await asyncio.gather(call, return_exceptions=True)
    assert isinstance(result, StoreUnavailable)
    await kit.disturb("thaw")
    async with opened(kit.store()) as again:
        assert await mark(kit, again, claim) is True


@requires("durable")
@needs_harness("kill", "start")
async def test_a_killed_server_comes_back_with_everything(kit: StoreKit) -> None:
    """SIGKILL: each call ends with StoreUnavailable; when the server is back, what was done is done, what was claimed
    is claimed, fencing numbers go on rising, and the store needs nobody's help."""
    store, held = await before(kit)
    await kit.disturb("kill")
    await all_fail(kit, store, held)
    await all_fail(kit, store, held)
    await kit.disturb("start")
    claim = await back(kit, store)
    assert claim.fence > 0
    await nothing_was_lost(kit, store, held)
    first = await kit.claimed(store, kit.key("fence"))
    await store.release(first)
    await kit.disturb("kill")
    await kit.disturb("start")
    second = await back(kit, store, kit.key("fence"))
    assert second.fence > first.fence


@requires("durable")
@needs_harness("restart")
async def test_a_restart_of_the_server_loses_nothing(kit: StoreKit) -> None:
    """Restarted gracefully while claims are made: each call ends with an answer or StoreUnavailable, and what was
    answered stays true."""
    store, held = await before(kit)
    made: list[Claim] = []
    over = asyncio.Event()

    async def work() -> None:
        number = 0
        while not over.is_set():
            number += 1
            try:
                claim = await store.claim(kit.key(f"during-{number}"), "a", 600.0, RETAIN)
            except StoreUnavailable:
                await asyncio.sleep(0.02)
                continue
            assert isinstance(claim, Claim)
            made.append(claim)

    working = asyncio.ensure_future(work())
    try:
        await kit.disturb("restart")
        await back(kit, store)
    finally:
        over.set()
        await working
    assert made
    assert list(await store.extend(made)) == [True] * len(made)
    await nothing_was_lost(kit, store, held)


@needs_harness("make_read_only", "make_writable")
async def test_what_can_only_be_read_is_down(kit: StoreKit) -> None:
    """A server that refuses writes, as a standby does: StoreUnavailable, nothing is claimed; back by itself."""
    store, held = await before(kit)
    await kit.disturb("make_read_only")
    results = (await every_call(kit, store, held))[:4]  # purging may find nothing to write
    for name, result in zip(("claim", "done", "release", "extend"), results, strict=True):
        assert isinstance(result, StoreUnavailable), f"{name}: {result!r}"
        assert kit.harness.names(kit.place) in str(result)
    await kit.disturb("make_writable")
    await back(kit, store)
    await nothing_was_lost(kit, store, held)
