"""Events of one key are sent in the order in which they were written, whatever fails in between."""

from __future__ import annotations

import asyncio
import random

from anybroker.adapter import Outbound
from anybroker.errors import BrokerError, PublishOutcomeUnknown, Unavailable

from .._waiting import eventually
from ._kit import OutboxKit


async def test_keys_keep_their_order_and_do_not_wait_for_each_other(kit: OutboxKit) -> None:
    """While the first event of one key has no answer, its later ones are not sent, and those of other keys are."""
    app = await kit.app()
    await kit.relaying()
    waiting = kit.wire.held = []
    await kit.commit(app, "a", 3)
    await kit.wire.when(lambda: kit.wire.tried == 1, lambda: f"{kit.wire.tried} events were sent")
    await kit.commit(app, "b", 1)
    await kit.commit(app, "c", 1)
    await kit.wire.when(lambda: kit.wire.tried == 3, lambda: f"{kit.wire.tried} events were sent")
    await kit.wire.quiet(0.4)
    assert len(waiting) == 3
    await kit.wire.let_go()
    await kit.wire.until(5)
    kit.in_order()


async def test_order_is_kept_through_failures(kit: OutboxKit) -> None:
    """Every few events the broker is unavailable, or loses an answer after it has stored the event: order per key, and
    what is sent again has the same id."""
    app = await kit.app()
    chance = random.Random(1)

    def refuse(outbound: Outbound) -> BrokerError | None:
        number = chance.random()
        if number < 0.05:
            return Unavailable("a deliberate fault")
        return PublishOutcomeUnknown("a deliberate fault") if number < 0.1 else None

    kit.wire.refuse = refuse
    kit.wire.lose_answer = lambda _: chance.random() < 0.05
    await kit.relaying(kit.relay(batch=20))
    keys = [f"key-{number}" for number in range(10)]
    count = kit.pick(20, 200)
    for _ in range(count // 10):
        for key in keys:
            await kit.commit(app, key, 10)

    def complete() -> bool:
        return len(set(kit.wire.ids)) == count * len(keys)

    await kit.wire.when(complete, lambda: f"{len(set(kit.wire.ids))} of {count * len(keys)}")
    kit.in_order()
    assert len(kit.wire.sent) > count * len(keys), "nothing was sent again"
    outbox = await kit.open()
    await kit.emptied(outbox)


async def test_an_unknown_outcome_is_sent_again_under_the_same_id(kit: OutboxKit) -> None:
    """The broker has stored it, and the answer is lost: it is sent again with the same id and source, before the next
    one of its key."""
    app = await kit.app()
    lost: list[str] = []

    def lose(outbound: Outbound) -> bool:
        lost.append(outbound.event.id)  # type: ignore[union-attr] # it is an Event
        return len(lost) == 1

    kit.wire.lose_answer = lose
    await kit.relaying()
    await kit.commit(app, "k", 2)
    await kit.wire.until(3)
    assert kit.wire.ids == ["k-0", "k-0", "k-1"]
    assert kit.wire.sent[0].event == kit.wire.sent[1].event


async def test_writers_of_one_key_one_after_another(kit: OutboxKit) -> None:
    """Transactions that write the same key one after the other, on connections of their own: in that order."""
    app = await kit.app()
    await kit.relaying()
    for _ in range(kit.pick(30, 300)):
        await kit.commit(app, "k")
    await kit.wire.until(kit.pick(30, 300))
    assert [sent.event.data["n"] for sent in kit.wire.sent] == list(range(kit.pick(30, 300)))


async def test_publishes_at_the_same_time_in_one_transaction(kit: OutboxKit) -> None:
    """``asyncio.gather`` over publishes in one transaction: the order in which they were begun."""
    app = await kit.app()
    await kit.relaying()
    writer = await kit.writer()
    await asyncio.gather(*(kit.publish(app, writer.within) for _ in range(50)))
    await writer.commit()
    await kit.wire.until(50)
    kit.in_order()


async def test_four_relays_that_start_and_stop(kit: OutboxKit) -> None:
    """Four relays, of which one after another is closed and started again while events are written: order per key, each
    event is sent, and those that were sent twice are few."""
    app = await kit.app()
    buses = [await kit.relaying(kit.relay(batch=20, lease=1.0)) for _ in range(4)]
    keys = [f"key-{number}" for number in range(32)]
    over = asyncio.Event()
    written = 0

    async def write() -> None:
        nonlocal written
        while not over.is_set():
            for key in keys:
                await kit.commit(app, key)
                written += 1

    writing = asyncio.ensure_future(write())
    try:
        for round_ in range(kit.pick(6, 40)):
            reached = len(kit.wire.sent)
            await kit.wire.until(reached + 50)
            await buses[round_ % 4].close()
            buses[round_ % 4] = await kit.relaying(kit.relay(batch=20, lease=1.0))
    finally:
        over.set()
        await writing

    async def complete() -> bool:
        return len(set(kit.wire.ids)) == written

    await eventually(complete, kit.patience, f"not all of {written} events were sent")
    kit.in_order()
    assert len(kit.wire.sent) - written <= written / 10
    outbox = await kit.open()
    await kit.emptied(outbox)


async def test_four_relays_and_failures(kit: OutboxKit) -> None:
    """Four relays, and a broker that fails every few events: order per key."""
    app = await kit.app()
    chance = random.Random(2)
    kit.wire.refuse = lambda _: Unavailable("a deliberate fault") if chance.random() < 0.05 else None
    kit.wire.lose_answer = lambda _: chance.random() < 0.05
    for _ in range(4):
        await kit.relaying(kit.relay(batch=20, lease=1.0))
    keys = [f"key-{number}" for number in range(32)]
    for key in keys:
        await kit.commit(app, key, 20)
    await kit.wire.when(lambda: len(set(kit.wire.ids)) == 640, lambda: f"{len(set(kit.wire.ids))} of 640")
    kit.in_order()
