"""``publish_many(within=)``: a whole batch in the caller's transaction, in the order of the list."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from anybroker import Bus, Event, MemoryBroker, Receipt
from anybroker.errors import ConfigError, EventError
from anybroker.middleware import idempotent, publish_middleware, retry
from anybroker.middleware.outgoing import Outgoing

from ._kit import TOPIC, OutboxKit
from .harness import Outbox, Writer
from .marks import needs_harness, requires
from .test_within import nothing_happened


def events(key: str, count: int, first: int = 0, **attributes: Any) -> list[Event[Any]]:
    """Of one key, numbered."""
    return [
        Event.create(
            {"n": number},
            type="order",
            source="shop",
            id=f"{key}-{number}",
            key=key,
            extensions={"key": key},
            **attributes,
        )
        for number in range(first, first + count)
    ]


def event_loops(kit: OutboxKit) -> list[str]:
    """The kinds that the event loop's thread can use."""
    first, *others = kit.harness.kinds()
    return [first, *(kind for kind in others if kind not in kit.harness.threads())]


async def written(kit: OutboxKit, outbox: Outbox, count: int) -> dict[str, str]:
    """By position: the payload."""
    return {str(row.position): str(row.payload) for row in await kit.found(outbox, count=count)}


async def test_every_kind_takes_many(kit: OutboxKit) -> None:
    """What is committed is sent in the order of the list, behind what the transaction has published before, and before
    what it publishes after; what is rolled back is never sent."""
    app = await kit.app()
    await kit.relaying()
    sent = 0
    for kind in event_loops(kit):
        writer = await kit.writer(kind)
        await app.publish_many(TOPIC, events(f"gone {kind}", 5), within=writer.within)
        await writer.rollback()
        await writer.effect(kind)
        await app.publish(TOPIC, events(kind, 1)[0], within=writer.within)
        receipts = await app.publish_many(TOPIC, events(kind, 6, 1), within=writer.within)
        await app.publish(TOPIC, events(kind, 1, 7)[0], within=writer.within)
        await writer.commit()
        sent += 8
        published = [each.event for each in receipts if isinstance(each, Receipt)]
        assert [each.id for each in published if each is not None] == [f"{kind}-{n}" for n in range(1, 7)]
        await kit.wire.until(sent)
        assert [each.place for each in kit.wire.sent[-8:]] == [(kind, number) for number in range(8)]
    assert await kit.effects() == event_loops(kit)
    assert not [gone for gone in kit.wire.ids if gone.startswith("gone")]


async def test_a_receipt_names_the_row_of_its_event(kit: OutboxKit) -> None:
    """Each ``broker_id`` is the position of the row that has this event, and positions rise with the list."""
    app = await kit.app()
    outbox = await kit.open()
    await outbox.take("a relay", 60.0)
    count = 0
    for kind in event_loops(kit):
        writer = await kit.writer(kind)
        receipts = await app.publish_many(TOPIC, events(kind, 7), within=writer.within)
        await writer.commit()
        count += 7
        rows = await written(kit, outbox, count)
        assert len(rows) == count
        positions = [int(each.broker_id or "") for each in receipts if isinstance(each, Receipt)]
        assert positions == sorted(positions)
        for number, position in enumerate(positions):
            assert f'"{kind}-{number}"' in rows[str(position)]
        outbox.again()


async def test_a_thousand_rows_in_one_transaction(kit: OutboxKit) -> None:
    """Of fifty keys, with bodies of different size: all are sent, each key in its order, and nothing before the
    commit."""
    app = await kit.app()
    outbox = await kit.open()
    await kit.relaying()
    writer = await kit.writer()
    batch = [
        Event.create(
            {"n": number // 50, "text": "x" * (number % 7) * 100},
            type="order",
            source="shop",
            id=f"{number}",
            key=f"k{number % 50}",
            extensions={"key": f"k{number % 50}"},
        )
        for number in range(1_000)
    ]
    receipts = await app.publish_many(TOPIC, batch, within=writer.within)
    assert len({each.broker_id for each in receipts if isinstance(each, Receipt)}) == 1_000
    assert await kit.wire.quiet(0.3) == []
    await writer.commit()
    await kit.wire.until(1_000)
    await kit.emptied(outbox)
    assert sorted(map(int, kit.wire.ids)) == list(range(1_000))
    kit.in_order()


async def test_large_bodies(kit: OutboxKit) -> None:
    """Twenty events of a megabyte in one call."""
    app = await kit.app()
    await kit.relaying()
    writer = await kit.writer()
    body = "y" * 1_000_000
    batch = [event.replace(data={"n": event.data["n"], "text": body}) for event in events("k", 20)]
    await app.publish_many(TOPIC, batch, within=writer.within)
    await writer.commit()
    await kit.wire.until(20)
    assert [each.place for each in kit.wire.sent] == [("k", number) for number in range(20)]
    assert {each.event.data["text"] == body for each in kit.wire.sent} == {True}


async def test_text_that_looks_like_sql_or_json(kit: OutboxKit) -> None:
    """Attributes, keys and data with quotes, percent signs, colons, backslashes and controls arrive as they are."""
    app = await kit.app()
    await kit.relaying()
    odd = "a'b\"c%s%%:p0::text?$1\\n\\u0000;-- \U0001f600 }]"
    batch = [
        Event.create(odd, type=odd, source="shop", id=odd, key=odd, subject=odd, datacontenttype="text/plain"),
        Event.create({"text": "\0\x1f\\"}, type="t", source="shop", id="2", key=odd),
        Event.create(type="t", source="shop", id="3"),
    ]
    for kind in event_loops(kit):
        writer = await kit.writer(kind)
        await app.publish_many(TOPIC, batch, within=writer.within)
        await writer.commit()
        await kit.wire.until(3)
        sent = {each.event.id: each.event for each in kit.wire.sent}
        assert (sent[odd].data, sent[odd].type, sent[odd].key, sent[odd].subject) == (odd,) * 4
        assert (sent["2"].data, sent["3"].key) == ({"text": "\0\x1f\\"}, None)
        kit.wire.sent.clear()


async def test_headers_of_many(kit: OutboxKit) -> None:
    """A publish middleware gives each event headers of its own."""

    @publish_middleware
    async def number(outgoing: Outgoing, call_next: Callable[[Outgoing], Any]) -> Receipt:
        outgoing.headers["number"] = f"ü{outgoing.event.id}"
        receipt: Receipt = await call_next(outgoing)
        return receipt

    app = await kit.app(publish_middleware=[number])
    await kit.relaying()
    writer = await kit.writer()
    await app.publish_many(TOPIC, events("k", 4), within=writer.within)
    await writer.commit()
    sent = await kit.wire.until(4)
    assert [each.headers["number"] for each in sent] == [f"ük-{number}" for number in range(4)]


async def test_none_at_all(kit: OutboxKit) -> None:
    """An empty list writes nothing, and returns one."""
    app = await kit.app()
    writer = await kit.writer()
    assert await app.publish_many(TOPIC, [], within=writer.within) == []
    await writer.commit()
    await nothing_happened(kit, app)


async def test_one_that_is_wrong_keeps_all_out(kit: OutboxKit) -> None:
    """A wrong payload is raised before any row is written, and leaves the transaction usable."""
    app = await kit.app()
    writer = await kit.writer()
    wrong: Any
    for wrong in ({"n": 2}, Event.create({}, type="t", source="s", key="k" * 600)):
        with pytest.raises((ConfigError, EventError)):
            await app.publish_many(TOPIC, [*events("k", 2), wrong], within=writer.within)
    await writer.effect("still there")
    await writer.commit()
    assert await kit.effects() == ["still there"]
    await nothing_happened(kit, app)


@requires("aborts")
async def test_many_in_a_transaction_that_is_aborted(kit: OutboxKit) -> None:
    """The driver's error is raised, and no results; after the rollback the same connection can be used again."""
    app = await kit.app()
    for kind in event_loops(kit):
        writer = await kit.writer(kind)
        await app.publish_many(TOPIC, events(kind, 3), within=writer.within)
        await writer.fail()
        with pytest.raises(Exception, match=r"(?i)abort|rolled back"):
            await app.publish_many(TOPIC, events(kind, 3, 3), within=writer.within)
        await writer.rollback()
        assert len(await app.publish_many(TOPIC, events(kind, 3), within=writer.within)) == 3
        await writer.rollback()
    await nothing_happened(kit, app)


async def test_many_into_a_database_without_the_table(kit: OutboxKit) -> None:
    """ConfigError, which says how to make it."""
    app = await kit.app()
    folder = kit.folder / "other"
    folder.mkdir()
    place = await asyncio.to_thread(kit.harness.place, folder)
    try:
        for kind in event_loops(kit):
            writer = await kit.harness.writer(place, kind)
            with pytest.raises(ConfigError, match="anybroker db sql"):
                await app.publish_many(TOPIC, events("k", 2), within=writer.within)
            await writer.rollback()
            await writer.close()
    finally:
        await asyncio.to_thread(kit.harness.clean, place)


async def test_many_at_once_do_not_mix(kit: OutboxKit) -> None:
    """Calls that are made at the same time on one transaction are written one after the other, in their order."""
    app = await kit.app()
    await kit.relaying()
    writer = await kit.writer()
    await asyncio.gather(
        app.publish_many(TOPIC, events("k", 50), within=writer.within),
        app.publish(TOPIC, events("k", 1, 50)[0], within=writer.within),
        app.publish_many(TOPIC, events("k", 50, 51), within=writer.within),
    )
    await writer.commit()
    await kit.wire.until(101)
    assert [each.place for each in kit.wire.sent] == [("k", number) for number in range(101)]


async def test_many_from_the_thread_of_a_connection(kit: OutboxKit) -> None:
    """``bus.from_thread.publish_many`` writes into a connection that belongs to the thread."""
    app = await kit.app()
    await kit.relaying()

    def work(kind: str, commits: bool) -> None:
        writer: Writer = _run(kit.harness.writer(kit.place, kind))
        key = kind if commits else f"gone {kind}"
        _run(writer.effect(key))
        app.from_thread.publish_many(TOPIC, events(key, 4), within=writer.within)
        _run(writer.commit() if commits else writer.rollback())
        _run(writer.close())

    for kind in kit.harness.threads():
        await asyncio.to_thread(work, kind, False)
        await asyncio.to_thread(work, kind, True)
    await kit.wire.until(4 * len(kit.harness.threads()))
    kit.in_order()
    assert await kit.effects() == list(kit.harness.threads())


def _run(coroutine: Any) -> Any:
    """One that never waits."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value
    raise AssertionError("it waits")


@needs_harness("store")
async def test_a_handler_publishes_many_in_its_transaction(kit: OutboxKit) -> None:
    """They are committed with its mark, once, under the ids that they had in the first run."""
    await kit.relaying()
    store = kit.harness.store(kit.place)
    bus = Bus(MemoryBroker(), source="billing", sinks=[kit.outbox()], idempotency=store, drain=1.0)
    runs: list[list[str]] = []

    async def charge(job: Event[dict[str, Any]], transaction: Any) -> None:
        made = [
            Event.create({"n": number}, type="order", source="billing", id=f"{job.id}-{number}", key=job.id)
            for number in range(20)
        ]
        made = [event.replace(extensions={"key": job.id}) for event in made]
        receipts = await bus.publish_many(TOPIC, made)
        runs.append([str(each.broker_id) for each in receipts if isinstance(each, Receipt)])
        if len(runs) == 1:
            raise RuntimeError("a deliberate failure")

    charge.__annotations__["transaction"] = store.transaction_type
    charge.__annotations__["job"] = Event[dict[str, Any]]
    bus.subscribe("jobs", group="billing", middleware=[retry(attempts=3, first=0.01), idempotent()])(charge)
    await kit._started(bus)
    await bus.publish("jobs", {"job": 1}, type="job", id="j")
    await kit.wire.until(20)
    assert len(await kit.wire.quiet(0.5)) == 20
    assert [each.place for each in kit.wire.sent] == [("j", number) for number in range(20)]
    assert [len(run) for run in runs] == [20, 20]
