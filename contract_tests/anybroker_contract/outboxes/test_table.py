"""What each call of a table promises by itself."""

from __future__ import annotations

import asyncio
import time

from ._kit import ALL, TOPIC, OutboxKit


async def test_rows_are_what_was_written(kit: OutboxKit) -> None:
    """Position, shard, topic, key, payload and headers; by position, which rises with the order of writing and is the
    receipt's name."""
    app = await kit.app()
    outbox = await kit.open()
    receipts = await kit.commit(app, "k", 3, headers={"a": "ä"})
    rows = await kit.found(outbox, count=3)
    assert [str(row.position) for row in rows] == [receipt.broker_id for receipt in receipts]
    assert [row.position for row in rows] == sorted(row.position for row in rows)
    assert {(row.topic, row.key) for row in rows} == {(TOPIC, "k")}
    assert len({row.shard for row in rows}) == 1
    assert rows[0].shard in ALL
    assert rows[0].headers is not None
    assert "ä" in rows[0].headers
    assert '"k-0"' in str(rows[0].payload)


async def test_only_rows_of_these_shards(kit: OutboxKit) -> None:
    """Of the shards that are asked for, up to the limit."""
    app = await kit.app()
    outbox = await kit.open()
    for key in range(40):
        await kit.commit(app, f"key-{key}")
    rows = await kit.found(outbox, count=40)
    shards = {row.shard for row in rows}
    assert len(shards) > 8
    chosen = sorted(shards)[:2]
    outbox.again()
    assert {row.shard for row in await outbox.rows(chosen, 500)} == set(chosen)
    outbox.again()
    assert len(await outbox.rows(ALL, 3)) == 3
    assert await outbox.rows([], 500) == [] or not await outbox.rows([], 500)


async def test_a_key_has_one_shard(kit: OutboxKit) -> None:
    """All rows of a key are in one shard, whichever topic; those without a key are spread."""
    app = await kit.app()
    outbox = await kit.open()
    writer = await kit.writer()
    for _ in range(64):
        await app.publish(TOPIC, {}, type="t", key="k", within=writer.within)
        await app.publish(TOPIC, {}, type="t", within=writer.within)
    await writer.commit()
    rows = await kit.found(outbox, count=128)
    assert len({row.shard for row in rows if row.key == "k"}) == 1
    assert len({row.shard for row in rows if row.key is None}) > 8


async def test_a_row_comes_again_only_when_it_is_asked_for(kit: OutboxKit) -> None:
    """What was returned is not returned by the next looks; after ``again`` it is."""
    app = await kit.app()
    outbox = await kit.open()
    await kit.commit(app, "k", 3)
    first = await kit.found(outbox, count=3)
    await kit.commit(app, "k", 1)
    assert [row.key for row in await outbox.rows(ALL, 500)] == ["k"]
    outbox.again()
    assert len(await outbox.rows(ALL, 500)) == 4
    outbox.again()
    assert list((await outbox.rows(ALL, 500))[:3]) == first


async def test_only_these_are_removed(kit: OutboxKit) -> None:
    """``remove`` forgets these rows, and no other; those that are gone are ignored."""
    app = await kit.app()
    outbox, other = await kit.open(), await kit.open()
    await kit.commit(app, "k", 5)
    rows = await kit.found(outbox, count=5)
    await outbox.remove([rows[1].position, rows[3].position])
    await outbox.remove([rows[1].position, rows[3].position, 10**12])
    await outbox.remove([])
    left = await kit.found(other, count=3)
    assert left == [rows[0], rows[2], rows[4]]
    outbox.again()
    assert list(await outbox.rows(ALL, 500)) == left


async def test_what_waits_is_counted(kit: OutboxKit) -> None:
    """Rows that wait, the age of the oldest, and what is set aside; what is not committed does not count."""
    app = await kit.app()
    outbox = await kit.open()
    waiting = await outbox.waiting()
    assert (waiting.rows, waiting.age, waiting.parked) == (0, None, 0)
    begun = time.monotonic()
    await kit.commit(app, "k", 3)
    writer = await kit.writer()
    await kit.publish(app, writer.within)
    waiting = await outbox.waiting()
    assert waiting.rows == 3
    assert waiting.age is not None
    assert 0 <= waiting.age <= time.monotonic() - begun + 1.0
    await writer.rollback()
    rows = await kit.found(outbox, count=3)
    await outbox.park([(rows[0].position, "reason"), (10**12, "gone")])
    waiting = await outbox.waiting()
    assert (waiting.rows, waiting.parked) == (2, 1)


async def test_setting_aside_and_back(kit: OutboxKit) -> None:
    """``park``, ``retry`` and ``discard`` of some: what each returns, and what is left; the old position is kept."""
    app = await kit.app()
    outbox = await kit.open()
    await kit.commit(app, "k", 5)
    rows = await kit.found(outbox, count=5)
    await outbox.park([(row.position, f"reason {row.position}\0 \u20ac") for row in rows[:4]])
    await outbox.park([(rows[0].position, "again")])
    parked = await outbox.parked()
    assert [each.position for each in parked] == [row.position for row in rows[:4]]
    assert all(each.reason.startswith(f"reason {each.position}") for each in parked)
    assert len(await outbox.parked(2)) == 2
    assert await outbox.discard([rows[0].position, rows[4].position, 10**12]) == 1
    assert await outbox.retry([rows[1].position, rows[4].position, 10**12]) == 1
    assert await outbox.retry([]) == 0
    assert await outbox.discard([]) == 0
    outbox.again()
    assert [row.position for row in await outbox.rows(ALL, 500)] == [rows[1].position, rows[4].position]
    assert await outbox.retry() == 2
    assert await outbox.retry() == 0
    outbox.again()
    again = await outbox.rows(ALL, 500)
    assert list(again) == rows[1:]
    await outbox.park([(row.position, "for good") for row in rows[1:]])
    assert await outbox.discard() == 4
    assert await outbox.discard() == 0
    assert await outbox.parked() == []


async def test_waiting_ends_when_something_is_committed(kit: OutboxKit) -> None:
    """``wait`` returns soon after a commit, and otherwise after its time."""
    app = await kit.app()
    outbox = await kit.open()
    loop = asyncio.get_running_loop()
    for _ in range(3):  # the first looks may return for what was before
        await outbox.wait(0.2)
    begun = loop.time()
    await outbox.wait(0.5)
    assert 0.4 <= loop.time() - begun <= 2.5
    waiting = asyncio.ensure_future(outbox.wait(kit.patience))
    await asyncio.sleep(0.2)
    begun = loop.time()
    await kit.commit(app, "k")
    await waiting
    assert loop.time() - begun < kit.patience / 4


async def test_it_names_its_database_without_a_secret(kit: OutboxKit) -> None:
    """``target`` is for logs."""
    outbox = kit.outbox()
    assert outbox.target
    assert ":postgres@" not in outbox.target
