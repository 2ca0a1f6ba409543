"""Handlers whose transaction the outbox takes: mark, effect and events in one commit."""

from __future__ import annotations

import asyncio
from typing import Any

from anybroker import Bus, Event, MemoryBroker
from anybroker.middleware import idempotent, retry

from ._kit import TOPIC, OutboxKit
from .marks import needs_harness, requires

pytestmark = [needs_harness("store")]


def effect_of(kit: OutboxKit) -> Any:
    """What writes an effect through the handler's transaction."""
    style = "%s" if kit.harness.server else "?"

    async def write(transaction: Any, text: str) -> None:
        await transaction.execute(f"INSERT INTO effect(text) VALUES ({style})", (text,))

    return write


async def service(kit: OutboxKit, broker: MemoryBroker, fails: list[str], stops: list[str] | None = None) -> Bus:
    """Handles ``jobs``: an effect, two events by plain ``publish``, and failures as listed."""
    store = kit.harness.store(kit.place)
    bus = Bus(broker, source="billing", sinks=[kit.outbox()], idempotency=store, drain=1.0)
    write = effect_of(kit)

    async def charge(job: Event[dict[str, Any]], transaction: Any) -> None:
        await write(transaction, f"{job.id}")
        await bus.publish(TOPIC, {"n": 0}, type="order", key=job.id, extensions={"key": job.id})
        await bus.publish(TOPIC, {"n": 1}, type="order", key=job.id, extensions={"key": job.id})
        if fails and fails[0] == job.id:
            del fails[0]
            raise RuntimeError("a deliberate failure")

    charge.__annotations__["transaction"] = store.transaction_type
    charge.__annotations__["job"] = Event[dict[str, Any]]
    bus.subscribe("jobs", group="billing", middleware=[retry(attempts=5, first=0.01), idempotent()])(charge)
    await kit._started(bus)
    return bus


async def test_mark_effect_and_events_are_one_commit(kit: OutboxKit) -> None:
    """Each job has one effect and its two events once, in order, also those whose first runs failed after they had
    published; the events have the job as their cause, and the same ids whenever the handler runs."""
    await kit.relaying()
    bus = await service(kit, MemoryBroker(), ["1", "1", "2"])
    for job in ("0", "1", "2", "3"):
        await bus.publish("jobs", {"job": job}, type="job", id=job)
    await kit.wire.until(8)
    assert len(await kit.wire.quiet(0.5)) == 8
    kit.in_order()
    assert sorted(await kit.effects()) == ["0", "1", "2", "3"]
    for sent in kit.wire.sent:
        assert sent.event["causationid"] == sent.event["key"]
        assert sent.event.source == "billing"


@requires("whole")
async def test_nothing_is_sent_while_the_handler_runs(kit: OutboxKit) -> None:
    """What a handler publishes is sent after it has returned."""
    await kit.relaying()
    store = kit.harness.store(kit.place)
    bus = Bus(MemoryBroker(), source="billing", sinks=[kit.outbox()], idempotency=store, drain=1.0)
    published, go_on = asyncio.Event(), asyncio.Event()

    async def handle(job: Event[dict[str, Any]], transaction: Any) -> None:
        await bus.publish(TOPIC, {"n": 0}, type="order", key="k", extensions={"key": "k"})
        published.set()
        await go_on.wait()

    handle.__annotations__["transaction"] = store.transaction_type
    handle.__annotations__["job"] = Event[dict[str, Any]]
    bus.subscribe("jobs", group="billing", middleware=[idempotent()])(handle)
    await kit._started(bus)
    await bus.publish("jobs", {}, type="job")
    await published.wait()
    assert await kit.wire.quiet(0.4) == []
    go_on.set()
    await kit.wire.until(1)


async def test_a_redelivery_sends_nothing_twice(kit: OutboxKit) -> None:
    """The broker delivers a job again that is done: neither effect nor events again."""
    await kit.relaying()
    broker = MemoryBroker()
    bus = await service(kit, broker, [])
    for _ in range(3):
        await bus.publish("jobs", {}, type="job", id="7")
    await bus.publish("jobs", {}, type="job", id="8")
    await kit.wire.until(4)
    assert len(await kit.wire.quiet(0.5)) == 4
    assert sorted(await kit.effects()) == ["7", "8"]


@requires("concurrent")
async def test_within_another_transaction_than_the_handlers(kit: OutboxKit) -> None:
    """A handler may still name a transaction of its own: what it publishes there is committed with that one."""
    await kit.relaying()
    store = kit.harness.store(kit.place)
    bus = Bus(MemoryBroker(), source="billing", sinks=[kit.outbox()], idempotency=store, drain=1.0)
    writer = await kit.writer()

    async def handle(job: Event[dict[str, Any]], transaction: Any) -> None:
        await kit.publish(bus, writer.within, "own")
        await writer.commit()
        raise RuntimeError("a deliberate failure")

    handle.__annotations__["transaction"] = store.transaction_type
    handle.__annotations__["job"] = Event[dict[str, Any]]
    bus.subscribe("jobs", group="billing", middleware=[idempotent()])(handle)
    await kit._started(bus)
    await bus.publish("jobs", {}, type="job")
    (sent,) = await kit.wire.until(1)
    assert sent.place == ("own", 0)
