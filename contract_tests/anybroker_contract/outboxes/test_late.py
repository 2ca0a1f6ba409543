"""Transactions that commit late: nothing of them is lost, and nobody waits for them."""

from __future__ import annotations

import asyncio

import pytest

from ._kit import OutboxKit
from .marks import requires

pytestmark = [requires("concurrent")]


async def test_a_transaction_that_commits_after_thousands_of_others(kit: OutboxKit) -> None:
    """Opened and written before, committed after thousands of others have been relayed: it is relayed too."""
    app = await kit.app()
    await kit.relaying()
    late = await kit.writer()
    await kit.publish(app, late.within, "late", 3)
    count = kit.pick(2_000, 20_000)
    for key in ("a", "b"):
        writer = await kit.writer()
        for _ in range(count // 200):
            await kit.publish(app, writer.within, key, 100)
            await writer.commit()
    await kit.wire.until(count)
    await kit.wire.quiet(0.3)
    await late.commit()
    await kit.wire.until(count + 3)
    kit.in_order()
    assert [sent.place for sent in kit.wire.sent[count:]] == [("late", 0), ("late", 1), ("late", 2)]
    outbox = await kit.open()
    await kit.emptied(outbox)


async def test_transactions_that_commit_in_another_order(kit: OutboxKit) -> None:
    """Twenty transactions that write in turns and commit from the last to the first, each after what the ones before
    had written was relayed: all is relayed, each key in order."""
    app = await kit.app()
    await kit.relaying()
    writers = [await kit.writer() for _ in range(20)]
    for _ in range(3):
        for number, writer in enumerate(writers):
            await kit.publish(app, writer.within, f"key-{number}")
    committed = 0
    for writer in reversed(writers):
        await writer.commit()
        committed += 3
        await kit.wire.until(committed)
    kit.in_order()
    outbox = await kit.open()
    await kit.emptied(outbox)


async def test_transactions_that_commit_while_it_is_read(kit: OutboxKit) -> None:
    """Many transactions at once, each open for a random time over those of others, several relays: nothing is lost,
    nothing of what was rolled back is sent."""
    import random

    app = await kit.app()
    for _ in range(2):
        await kit.relaying(kit.relay(batch=7, lease=1.5))
    chance = random.Random(3)
    expected = 0

    async def work(worker: int) -> None:
        nonlocal expected
        writer = await kit.writer()
        for round_ in range(kit.pick(15, 150)):
            rolls_back = chance.random() < 0.2
            key = f"gone-{worker}-{round_}" if rolls_back else f"key-{worker}"
            for _ in range(chance.randint(1, 4)):
                await kit.publish(app, writer.within, key)
                await asyncio.sleep(chance.random() * 0.02)
                expected += not rolls_back
            await (writer.rollback() if rolls_back else writer.commit())

    await asyncio.gather(*(work(worker) for worker in range(12)))
    await kit.wire.when(lambda: len(set(kit.wire.ids)) == expected, lambda: f"{len(set(kit.wire.ids))} of {expected}")
    kit.in_order()
    assert not [id_ for id_ in kit.wire.ids if id_.startswith("gone")]


@pytest.mark.parametrize("writes", [True, False], ids=["writing", "reading"])
async def test_a_long_transaction_beside_stops_nobody(kit: OutboxKit, writes: bool) -> None:
    """While a transaction stays open, others are relayed as fast as before, also those that commit late."""
    app = await kit.app()
    await kit.relaying()
    await kit.reader(writes=writes)
    late = await kit.writer()
    await kit.publish(app, late.within, "late")
    loop = asyncio.get_running_loop()
    for round_ in range(kit.pick(10, 100)):
        begun = loop.time()
        await kit.commit(app, "k")
        await kit.wire.until(round_ + 1)
        assert loop.time() - begun < 2.0
    begun = loop.time()
    await late.commit()
    await kit.wire.until(kit.pick(10, 100) + 1)
    assert loop.time() - begun < 3.0
    kit.in_order()


async def test_a_late_row_is_not_lost_when_relays_change(kit: OutboxKit) -> None:
    """The relay that was ahead is closed, and another one takes over, before the late transaction commits."""
    app = await kit.app()
    first = await kit.relaying()
    late = await kit.writer()
    await kit.publish(app, late.within, "late")
    await kit.commit(app, "k", 50)
    await kit.wire.until(50)
    await first.close()
    await kit.relaying()
    await kit.commit(app, "k", 50)
    await kit.wire.until(100)
    await late.commit()
    await kit.wire.until(101)
    kit.in_order()
