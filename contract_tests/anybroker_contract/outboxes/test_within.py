"""Everything that ``publish(within=)`` takes, and what it refuses, before anything is sent."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from anybroker import Bus, Event
from anybroker.errors import ConfigError

from ._kit import TOPIC, OutboxKit
from .harness import Writer
from .marks import needs_harness, requires


async def nothing_happened(kit: OutboxKit, app: Bus) -> None:
    """Neither sent, nor written."""
    outbox = await kit.open()
    assert (await outbox.waiting()).rows == 0
    assert kit.wire.sent == []
    assert app.stats.published == 0


async def test_every_kind_of_transaction(kit: OutboxKit) -> None:
    """Each kind of connection and session: committed together with the effect, and rolled back together."""
    app = await kit.app()
    await kit.relaying()
    sent = 0
    for kind in kit.harness.kinds():
        if kind in kit.harness.threads() and kind != kit.harness.kinds()[0]:
            continue
        writer = await kit.writer(kind)
        await writer.effect(f"gone {kind}")
        await kit.publish(app, writer.within, f"gone {kind}", 2)
        await writer.rollback()
        await writer.effect(kind)
        receipts = await kit.publish(app, writer.within, kind, 3, headers={"kind": kind})
        assert len({receipt.broker_id for receipt in receipts}) == 3
        await writer.effect(kind)
        await writer.commit()
        sent += 3
        await kit.wire.until(sent)
        assert [each.place for each in kit.wire.sent[-3:]] == [(kind, 0), (kind, 1), (kind, 2)]
        assert {each.headers["kind"] for each in kit.wire.sent[-3:]} == {kind}
        assert (await kit.effects())[-2:] == [kind, kind]
    assert not [sent for sent in kit.wire.ids if sent.startswith("gone")]
    assert not [effect for effect in await kit.effects() if effect.startswith("gone")]


async def test_what_belongs_to_a_thread(kit: OutboxKit) -> None:
    """A connection that belongs to a thread: ``bus.from_thread.publish`` writes into its transaction, there."""
    app = await kit.app()
    await kit.relaying()

    def work(kind: str, commits: bool) -> Any:
        writer: Writer = _run(kit.harness.writer(kit.place, kind))
        key = kind if commits else f"gone {kind}"
        _run(writer.effect(key))
        for number in range(2):
            app.from_thread.publish(
                TOPIC,
                {"n": number},
                type="order",
                key=key,
                id=f"{key}-{number}",
                extensions={"key": key},
                within=writer.within,
            )
        _run(writer.commit() if commits else writer.rollback())
        _run(writer.close())

    for kind in kit.harness.threads():
        await asyncio.to_thread(work, kind, False)
        await asyncio.to_thread(work, kind, True)
    await kit.wire.until(2 * len(kit.harness.threads()))
    kit.in_order()
    assert await kit.effects() == list(kit.harness.threads())


def _run(coroutine: Any) -> Any:
    """One that never waits."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value
    raise AssertionError("it waits")


@pytest.mark.parametrize("within", [object(), "text", 7, [], type], ids=["object", "text", "7", "list", "type"])
async def test_what_is_no_transaction_is_refused(kit: OutboxKit, within: Any) -> None:
    """ConfigError, which names the argument and the type."""
    app = await kit.app()
    with pytest.raises(ConfigError, match="within") as refused:
        await kit.publish(app, within)
    assert type(within).__name__ in str(refused.value)
    await nothing_happened(kit, app)


async def test_a_bus_without_an_outbox_refuses(kit: OutboxKit) -> None:
    """ConfigError, which says what to do."""
    app = await kit.app(sinks=[])
    writer = await kit.writer()
    with pytest.raises(ConfigError, match="within"):
        await kit.publish(app, writer.within)
    await nothing_happened(kit, app)


async def test_a_database_without_the_table(kit: OutboxKit, tmp_path: Any) -> None:
    """ConfigError, which says how to make it; nothing is sent. A relay that must not make it is refused in the same
    way, and one that may makes it."""
    app = await kit.app()
    folder = kit.folder / "other"
    folder.mkdir()
    place = await asyncio.to_thread(kit.harness.place, folder)
    try:
        for kind in kit.harness.kinds():
            if kind in kit.harness.threads() and kind != kit.harness.kinds()[0]:
                continue
            writer = await kit.harness.writer(place, kind)
            with pytest.raises(ConfigError, match="anybroker db sql"):
                await kit.publish(app, writer.within)
            await writer.rollback()
            await writer.close()
        with pytest.raises(ConfigError):
            await kit.outbox(place=place, create=False).open()
        outbox = kit.outbox(place=place, create=True)
        await outbox.open()
        await outbox.close()
        writer = await kit.harness.writer(place, kit.harness.kinds()[0])
        await kit.publish(app, writer.within)
        await writer.commit()
        await writer.close()
    finally:
        await asyncio.to_thread(kit.harness.clean, place)


async def test_a_connection_that_is_closed(kit: OutboxKit) -> None:
    """The driver's error, at once; nothing is sent."""
    app = await kit.app()
    writer = await kit.harness.writer(kit.place, kit.harness.kinds()[0])
    await writer.close()
    with pytest.raises(Exception, match=r"(?i)closed"):
        await kit.publish(app, writer.within)
    await nothing_happened(kit, app)


@requires("aborts")
async def test_a_transaction_that_is_aborted(kit: OutboxKit) -> None:
    """The driver's error; after the rollback the same connection can be used again."""
    app = await kit.app()
    for kind in kit.harness.kinds():
        if kind in kit.harness.threads():
            continue
        writer = await kit.writer(kind)
        await writer.fail()
        with pytest.raises(Exception, match=r"(?i)abort|rolled back"):
            await kit.publish(app, writer.within)
        await writer.rollback()
        await kit.publish(app, writer.within)
        await writer.rollback()
    await nothing_happened(kit, app)


@needs_harness("make_read_only", "make_writable")
async def test_a_transaction_that_may_only_read(kit: OutboxKit) -> None:
    """The driver's error; nothing is sent."""
    app = await kit.app()
    await kit.disturb("make_read_only")
    writer = await kit.writer()
    with pytest.raises(Exception, match=r"(?i)read-only|readonly"):
        await kit.publish(app, writer.within)
    await writer.rollback()
    await kit.disturb("make_writable")
    await nothing_happened(kit, app)


async def test_an_event_that_is_wrong_is_not_written(kit: OutboxKit) -> None:
    """Errors of the event are raised before anything is written, and leave the transaction usable."""
    app = await kit.app()
    await kit.relaying()
    writer = await kit.writer()
    await kit.publish(app, writer.within)
    wrong: Any
    for wrong in ({"type": ""}, {"type": "t", "headers": {"ce-id": "1"}}, {"type": "t", "extensions": {"NOT": "x"}}):
        with pytest.raises((ConfigError, ValueError)):
            await app.publish(TOPIC, {}, within=writer.within, **wrong)
    with pytest.raises(ConfigError):
        await app.publish("no topic\n", {}, type="t", within=writer.within)
    await kit.publish(app, writer.within)
    await writer.commit()
    await kit.wire.until(2)
    assert kit.wire.ids == ["k-0", "k-1"]


async def test_publish_many_stops_at_the_first_failure(kit: OutboxKit) -> None:
    """``publish_many(within=)`` raises what failed: the caller rolls back."""
    app = await kit.app()
    writer = await kit.harness.writer(kit.place, kit.harness.kinds()[0])
    await writer.close()
    with pytest.raises(Exception, match=r"(?i)closed"):
        await app.publish_many(TOPIC, [Event.create({}, type="t", source="s")] * 2, within=writer.within)
    await nothing_happened(kit, app)
