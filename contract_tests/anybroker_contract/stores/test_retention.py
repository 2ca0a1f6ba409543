"""How long what is done is remembered, and forgetting it."""

from __future__ import annotations

import asyncio

from anybroker.idempotency import Claim, Key, Store

from .._waiting import eventually
from ._kit import LONG, StoreKit

DAY = 86_400.0


async def marked(kit: StoreKit, store: Store, keys: list[Key], retain: float) -> None:
    """Claim these keys and mark them done."""
    claims = await asyncio.gather(*(store.claim(key, "a", LONG, retain) for key in keys))
    assert all(await asyncio.gather(*(store.done(claim) for claim in claims if isinstance(claim, Claim))))


async def purged(store: Store) -> list[int]:
    """Purge until there is nothing more to forget; how many each call says."""
    counts: list[int] = []
    while not counts or counts[-1]:
        counts.append(await store.purge())
        assert isinstance(counts[-1], int)
        assert counts[-1] >= 0
        assert len(counts) < 1_000, "a purge never comes to an end"
    return counts


async def forgotten(kit: StoreKit, store: Store, key: Key, every: float) -> None:
    """Return when the store has forgotten the key. A store may take a few rounds, and looking at a key may keep it."""

    async def gone() -> bool:
        for _ in range(4 if kit.moves_time else 1):
            await kit.pass_time(every)
            await purged(store)
        claim = await store.claim(key, "b", LONG, every)
        if isinstance(claim, Claim):
            await store.release(claim)
        return isinstance(claim, Claim)

    await eventually(gone, kit.patience, f"{key} is still remembered")


async def test_each_claim_is_remembered_for_as_long_as_it_says(kit: StoreKit) -> None:
    """What is done is remembered for the seconds that its claim was made with, also where the store's own are fewer,
    and forgotten in the end."""
    unit = DAY if kit.moves_time else 0.3
    store = await kit.open(retain=unit)
    keys = kit.keys(20)
    await marked(kit, store, keys, 10 * unit if kit.moves_time else 60.0)
    await marked(kit, store, [kit.key("short")], unit)
    for _ in range(3):
        await kit.pass_time(2 * unit)
        await purged(store)
    for key in keys:
        await kit.is_done(store, key)
    # A store that ages in generations keeps the short one for as long as the others.
    await forgotten(kit, store, kit.key("short"), 10 * unit if kit.moves_time else unit)


async def test_what_is_done_is_remembered_until_then(kit: StoreKit) -> None:
    """A purge just before the end of the retention forgets nothing."""
    retain = 10 * DAY if kit.moves_time else 2.0
    store = await kit.open(retain=retain)
    keys = kit.keys(20)
    before = kit.now()
    await marked(kit, store, keys, retain)
    await kit.pass_time(0.7 * retain)
    await purged(store)
    answers = await asyncio.gather(*(store.claim(key, "b", LONG, retain) for key in keys))
    if kit.now() - before < retain:  # a machine that was asleep meanwhile has shown nothing
        assert not any(isinstance(answer, Claim) for answer in answers)


async def test_a_purge_never_forgets_what_is_held(kit: StoreKit) -> None:
    """A claim whose handler still runs is not purged, however long ago it was made."""
    unit = 10 * DAY if kit.moves_time else 0.2
    store = await kit.open(retain=unit)
    lease = 2 * unit if kit.moves_time else 3.0
    held = await kit.claimed(store, lease=lease, retain=unit)
    for _ in range(4):
        await kit.pass_time(1.5 * unit)
        assert list(await store.extend([held])) == [True]
        await purged(store)
        await kit.busy(store)
    assert await store.done(held) is True
    await kit.is_done(store)


async def test_a_purge_goes_in_portions(kit: StoreKit) -> None:
    """Forgetting many entries takes several calls with a bounded number each, so that claims need not wait long; in the
    end none is left, and what is not old stays."""
    unit = 10 * DAY if kit.moves_time else 0.2
    store = await kit.open(retain=unit)
    keys = kit.keys(kit.pick(2_500, 20_000))
    await marked(kit, store, keys, unit)
    await marked(kit, store, [kit.key("young")], 100 * unit if kit.moves_time else 60.0)
    await kit.pass_time(2 * unit)
    counts = await purged(store)
    if kit.harness.portion is not None:
        assert max(counts) <= kit.harness.portion
    await kit.is_done(store, kit.key("young"))
    for key in (keys[0], keys[-1]):
        await forgotten(kit, store, key, 100 * unit if kit.moves_time else unit)


async def test_the_fence_rises_over_what_was_forgotten(kit: StoreKit) -> None:
    """A key that was done and forgotten is claimed under a higher fencing number than before."""
    unit = DAY if kit.moves_time else 0.2
    store = await kit.open(retain=unit)
    first = await kit.claimed(store, retain=unit)
    assert await store.done(first)
    await forgotten(kit, store, kit.key(), unit)
    second = await kit.claimed(store, owner="b")
    assert second.fence > first.fence
    assert await store.done(second) is True
