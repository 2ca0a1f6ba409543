"""Stores that share a transaction with the handler: its effect happens once for each event."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from anybroker import Delivery
from anybroker.idempotency import Claim, ClaimLost, Done, StoreUnavailable
from anybroker.middleware import idempotent, retry

from .._waiting import eventually
from ._kit import LONG, RETAIN, StoreKit
from .marks import needs_harness, requires

pytestmark = [requires("transactional")]

BRIEF = 0.5
"""Seconds, a lease that really runs out."""


async def prepared(kit: StoreKit) -> Any:
    """A store, opened, with a table for effects beside it."""
    await asyncio.to_thread(kit.harness.prepare_effects, kit.place)
    return await kit.open()


async def effects(kit: StoreKit) -> list[str]:
    """What is committed."""
    return sorted(await asyncio.to_thread(kit.harness.effects, kit.place))


async def test_the_effect_is_there_when_it_is_done(kit: StoreKit) -> None:
    """The effect is committed when ``done`` has answered."""
    store = await prepared(kit)
    claim = await kit.claimed(store)
    await kit.harness.effect(store.transaction(claim), "x")
    assert await store.done(claim) is True
    assert await effects(kit) == ["x"]
    await kit.is_done(store)


async def test_a_handler_that_fails_and_runs_again_has_one_effect(kit: StoreKit) -> None:
    """Effect, failure, release; then the same again, and done: one effect."""
    store = await prepared(kit)
    for _ in range(3):
        claim = await kit.claimed(store)
        await kit.harness.effect(store.transaction(claim), "x")
        await store.release(claim)
    claim = await kit.claimed(store)
    await kit.harness.effect(store.transaction(claim), "x")
    assert await store.done(claim) is True
    assert await effects(kit) == ["x"]


async def test_transactions_of_many_handlers_are_apart(kit: StoreKit) -> None:
    """Twenty handlers at once, of which every third fails: the effects of the others, and only those, are there once
    all have ended and those that failed have run again."""
    store = await prepared(kit)
    keys = kit.keys(20)

    async def handle(key: tuple[str, str, str, str], fails: bool) -> None:
        claim = await store.claim(key, "a", LONG, RETAIN)
        assert isinstance(claim, Claim)
        await kit.harness.effect(store.transaction(claim), key[3])
        if fails:
            await store.release(claim)
        else:
            assert await store.done(claim) is True

    await asyncio.gather(*(handle(key, number % 3 == 0) for number, key in enumerate(keys)))
    await asyncio.gather(*(handle(key, False) for number, key in enumerate(keys) if number % 3 == 0))
    assert await effects(kit) == sorted(key[3] for key in keys)


@pytest.mark.parametrize("wrote", ["before", "after"])
async def test_a_late_owner_has_no_second_effect(kit: StoreKit, wrote: str) -> None:
    """An owner whose claim was taken over, before or after it wrote: the effect is there once, of whichever owner, and
    its mark is refused."""
    store = await prepared(kit)
    late = await kit.claimed(store, lease=kit.brief)
    transaction = store.transaction(late)
    if wrote == "before":
        await kit.harness.effect(transaction, "x")
    second = await kit.ran_out(store, kit.key(), wait=kit.brief)
    await kit.harness.effect(store.transaction(second), "x")
    if wrote == "after":
        try:
            await kit.harness.effect(transaction, "x")
        except ClaimLost:
            pass
    assert await store.done(late) is False
    assert await store.done(second) is True
    assert await store.done(late) is False
    assert await effects(kit) == ["x"]


async def test_what_is_done_takes_no_more_effects(kit: StoreKit) -> None:
    """A late owner that writes after the new one is done: nothing is added."""
    store = await prepared(kit)
    late = await kit.claimed(store, lease=kit.brief)
    second = await kit.ran_out(store, kit.key(), wait=kit.brief)
    await kit.harness.effect(store.transaction(second), "x")
    assert await store.done(second) is True
    try:
        await kit.harness.effect(store.transaction(late), "y")
    except ClaimLost:
        pass
    assert await store.done(late) is False
    assert await effects(kit) == ["x"]


@requires("processes", "durable")
@pytest.mark.parametrize("point", ["before the effect", "after the effect", "in done", "after done"])
async def test_a_process_that_is_killed_leaves_one_effect(kit: StoreKit, point: str) -> None:
    """SIGKILL before the effect, after it, while it is committed, and after that: once another process has handled the
    event, or found it done, there is one effect."""
    store = await prepared(kit)
    for round_ in range(kit.pick(2, 10) if point == "in done" else 1):
        other = await kit.elsewhere()
        key = kit.key(f"{round_}")
        claim = await kit.claimed(other, key, lease=BRIEF)
        if point != "before the effect":
            await other.effect(claim, key[3])
        if point == "after done":
            assert await other.done(claim) is True
        if point == "in done":
            call = asyncio.ensure_future(other.done(claim))
            await asyncio.sleep(0.002 * round_)
            await other.kill()
            await asyncio.gather(call, return_exceptions=True)
        else:
            await other.kill()
        mine: list[Any] = []

        async def had(key: Any = key, mine: list[Any] = mine) -> bool:
            mine.append(await store.claim(key, "b", LONG, RETAIN))
            return isinstance(mine[-1], Claim | Done)

        await eventually(had, kit.patience, "the claim of a killed process does not end")
        assert isinstance(mine[-1], Done) or point != "after done"
        if isinstance(mine[-1], Claim):
            await kit.harness.effect(store.transaction(mine[-1]), key[3])
            assert await store.done(mine[-1]) is True
        assert await effects(kit) == [str(number) for number in range(round_ + 1)]


async def never_a_mark_without_the_effect(kit: StoreKit, down: str, up: str) -> None:
    """The store goes down between the effect and the mark: the mark is made with the effect, or refused."""
    store = await prepared(kit)
    claim = await kit.claimed(store)
    await kit.harness.effect(store.transaction(claim), "x")
    await kit.disturb(down)
    with pytest.raises(StoreUnavailable):
        await store.done(claim)
    await kit.disturb(up)
    marked: list[bool] = []

    async def answers() -> bool:
        try:
            marked.append(await store.done(claim))
        except StoreUnavailable:
            return False
        return True

    await eventually(answers, kit.patience, "the store does not come back")
    if not marked[0]:
        assert await effects(kit) == []
        await store.release(claim)
        claim = await kit.ran_out(store, kit.key())
        await kit.harness.effect(store.transaction(claim), "x")
        assert await store.done(claim) is True
    assert await effects(kit) == ["x"]
    await kit.is_done(store)


@needs_harness("freeze", "thaw")
async def test_no_mark_without_the_effect_after_a_freeze(kit: StoreKit) -> None:
    """Frozen between the effect and the mark, and called again: True with the effect; or False without it, and the
    handler runs again."""
    await never_a_mark_without_the_effect(kit, "freeze", "thaw")


@needs_harness("kill", "start")
async def test_no_mark_without_the_effect_after_a_kill(kit: StoreKit) -> None:
    """The same with the server killed, and started again."""
    await never_a_mark_without_the_effect(kit, "kill", "start")


async def test_a_service_with_failing_handlers_has_one_effect_each(kit: StoreKit) -> None:
    """Under a Bus: copies, and handlers that fail after their effect, have one effect for each event."""
    store = kit.store()
    await asyncio.to_thread(kit.harness.prepare_effects, kit.place)
    bus = kit.bus(store)
    runs = 0

    async def book(delivery: Delivery, transaction: Any) -> None:
        nonlocal runs
        runs += 1
        await kit.harness.effect(transaction, delivery.event.id)
        if runs % 4 == 0:
            raise RuntimeError("after the effect")

    book.__annotations__["delivery"] = Delivery
    book.__annotations__["transaction"] = store.transaction_type  # type: ignore[attr-defined] # it is transactional
    bus.subscription("orders", group="g", middleware=[retry(attempts=9, first=0.01), idempotent()]).on(book)
    async with bus:
        for number in range(20):
            for _ in range(2):
                await bus.publish("orders", number, type="com.example.contract.numbered.v1", id=f"{number:02}")

        async def all_settled() -> bool:
            return (await bus.backlog("orders", "g")).lag == 0

        await eventually(all_settled, kit.patience, "not all events are settled")
    assert await effects(kit) == [f"{number:02}" for number in range(20)]
