"""Publishing: one transaction for what waits together, copies, limits, and a disk that takes nothing."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from anybroker.adapter import RESERVED_BYTES, Ack, Foreign, Outbound, Receipt
from anybroker.errors import EventTooLarge, Rejected, Unavailable


def commits(path: Path) -> int:
    """How many segments there are: one a transaction and topic."""
    with sqlite3.connect(path) as connection:
        (count,) = connection.execute("SELECT count(*) FROM ab_segment").fetchone()
    connection.close()
    return int(count)


def test_receipts_come_in_order_with_numbers(opened: Any, kit: ModuleType, run: Any) -> None:
    async def scenario() -> None:
        async with opened() as broker:
            results = await broker.publish(*(Outbound(kit.make_event(n), "orders") for n in range(3000)))
            assert [result.broker_id for result in results] == [str(n + 1) for n in range(3000)]
            receiver = await broker.join(group="billing")
            await broker.publish(Outbound(kit.make_event("after"), "orders"))
            seen: list[Any] = []
            while len(seen) < 3001:
                batch = await receiver.receive(700, lanes=None, timeout=5)
                assert 0 < len(batch) <= 700
                seen += [inbound.event.data for inbound in batch]
            assert seen == [*range(3000), "after"]

    run(scenario())


def test_what_waits_together_is_committed_together(opened: Any, path: Path, kit: ModuleType, run: Any) -> None:
    async def scenario() -> None:
        async with opened() as broker:
            loop = asyncio.get_running_loop()
            results: list[Any] = []
            done = loop.create_future()

            def report(outbound: Outbound, result: Any) -> None:
                results.append(result)
                if len(results) == 200:
                    done.set_result(None)

            for n in range(200):  # each a call of its own; the first may be on its way to the disk already
                await broker.sender.submit([Outbound(kit.make_event(n), "orders")], report)
            await done
            assert all(isinstance(result, Receipt) for result in results)

    run(scenario())
    assert commits(path) < 20


def test_a_copy_is_dropped_and_says_so(opened: Any, kit: ModuleType, run: Any) -> None:
    async def scenario() -> None:
        async with opened() as broker:
            event, other = kit.make_event(1, id="1"), kit.make_event(2, id="2")
            await broker.publish(Outbound(event, "orders"))
            again = await broker.publish(
                Outbound(other, "orders"),
                Outbound(event, "orders"),
                Outbound(event, "orders", hop="replay/billing/1"),
                Outbound(other, "orders"),
                Outbound(kit.make_event(3, id="3"), "orders"),
            )
            assert [(result.broker_id, result.duplicate) for result in again] == [
                ("2", False),
                ("1", True),
                ("3", False),
                ("2", True),
                ("4", False),
            ]
            assert (await broker.adapter.backlog("orders", "billing")).waiting == 4

    run(scenario())


def test_copies_are_known_to_other_processes_and_after_a_restart(opened: Any, kit: ModuleType, run: Any) -> None:
    async def scenario() -> None:
        event = kit.make_event(1, id="1")
        async with opened() as one, opened() as other:
            assert not (await other.publish(Outbound(kit.make_event(0, id="0"), "orders")))[0].duplicate
            assert not (await one.publish(Outbound(event, "orders")))[0].duplicate
            assert (await other.publish(Outbound(event, "orders")))[0].duplicate
            await other.publish(Outbound(event, "orders", group="stock", hop="replay/stock/1"))
            assert (await one.publish(Outbound(event, "orders", group="stock", hop="replay/stock/1")))[0].duplicate
        async with opened() as later:
            assert (await later.publish(Outbound(event, "orders")))[0].duplicate
            assert (await later.publish(Outbound(event, "orders", group="stock", hop="replay/stock/1")))[0].duplicate

    run(scenario())


def test_a_copy_of_what_was_rolled_back_is_stored(opened: Any, kit: ModuleType, run: Any) -> None:
    async def scenario() -> None:
        async with opened() as broker:
            store = broker.adapter._store
            await broker.publish(Outbound(kit.make_event(0, id="0"), "orders"))
            (pages,) = await store.call(lambda store: store.execute("PRAGMA page_count").fetchone())
            await store.call(lambda store: store.execute(f"PRAGMA max_page_count = {pages}").fetchone())
            large = Outbound(kit.make_event("x" * 100_000, id="1"), "orders")
            (result,) = await broker.publish(large)
            assert isinstance(result, Unavailable)
            assert "full" in str(result)
            assert isinstance(result.__cause__, sqlite3.OperationalError)
            await store.call(lambda store: store.execute("PRAGMA max_page_count = 1000000").fetchone())
            (result,) = await broker.publish(large)
            assert isinstance(result, Receipt)
            assert (result.broker_id, result.duplicate) == ("2", False)
            assert (await broker.publish(Outbound(kit.make_event(0, id="0"), "orders")))[0].duplicate

    run(scenario())


def test_a_full_disk_ends_no_receiver(opened: Any, kit: ModuleType, run: Any) -> None:
    async def scenario() -> None:
        async with opened(poll=0.02) as broker:
            store = broker.adapter._store
            receiver = await broker.join()
            await broker.publish(*(Outbound(kit.make_event(n), "orders") for n in range(2)))
            (first,) = await receiver.receive(1, lanes=None, timeout=5)
            real = store.execute

            def full(sql: str, *parameters: Any) -> Any:
                if sql.split()[0] in ("INSERT", "DELETE", "UPDATE"):
                    error = sqlite3.OperationalError("database or disk is full")
                    error.sqlite_errorcode = sqlite3.SQLITE_FULL
                    raise error
                return real(sql, *parameters)

            store.execute = full
            assert await receiver.receive(1, lanes=None, timeout=0.1) == ()
            (settled,) = await receiver.settle([Ack(first)])
            assert isinstance(settled, Unavailable)
            store.execute = real
            assert await receiver.settle([Ack(first)]) == [None]
            (second,) = await receiver.receive(1, lanes=None, timeout=5)
            assert second.event.data == 1

    run(scenario())


def test_a_writer_that_keeps_the_lock_makes_publish_unavailable(
    opened: Any, path: Path, kit: ModuleType, run: Any
) -> None:
    async def scenario() -> None:
        async with opened(busy_timeout=0.05) as broker:
            other = sqlite3.connect(path, isolation_level=None)
            other.execute("BEGIN IMMEDIATE")
            outbound = Outbound(kit.make_event(1), "orders")
            (result,) = await broker.publish(outbound)
            assert isinstance(result, Unavailable)
            assert "locked" in str(result)
            other.execute("ROLLBACK")
            other.close()
            assert isinstance((await broker.publish(outbound))[0], Receipt)

    run(scenario())


def test_the_limit_is_exact_and_the_others_go_on(opened: Any, kit: ModuleType, run: Any) -> None:
    async def scenario() -> None:
        async with opened(max_event_bytes=100_000) as broker:

            def sized(count: int, reserve: int = RESERVED_BYTES) -> Outbound:
                event = kit.Event.create(b"x" * count, source="/s", type="t", id=str(count))
                return Outbound(event, "orders", reserve=reserve)

            small = kit.Outbound(kit.make_event(1), "orders")
            small_too = kit.Outbound(kit.make_event(2), "orders")
            first, too_large, last = await broker.publish(small, sized(100_000), small_too)
            assert isinstance(first, Receipt)
            assert isinstance(last, Receipt)
            assert isinstance(too_large, EventTooLarge)
            assert too_large.limit == 100_000 - RESERVED_BYTES
            most = 100_000 - (too_large.size - too_large.limit)
            fits, over = await broker.publish(sized(most + 1), sized(most + 2))  # a digit less of id and of size
            assert isinstance(fits, Receipt), fits
            while not isinstance(over, EventTooLarge):
                most += 1
                (over,) = await broker.publish(sized(most + 2))
            assert over.size == over.limit + 1
            (reserved,) = await broker.publish(sized(most + 2, reserve=0))
            assert isinstance(reserved, Receipt)

    run(scenario())


def test_large_attributes_count_too(opened: Any, kit: ModuleType, run: Any) -> None:
    async def scenario() -> None:
        async with opened(max_event_bytes=100_000) as broker:
            results = await broker.publish(
                Outbound(kit.make_event(1, subject="s" * 100_000), "orders"),
                Outbound(kit.make_event(1, id="i" * 100_000), "orders"),
                Outbound(kit.make_event(1, "k" * 100_000), "orders"),
                Outbound(kit.make_event(1), "orders", headers={"h": "v" * 100_000}),
            )
            assert [type(result) for result in results] == [EventTooLarge] * 4

    run(scenario())


def test_text_that_is_not_unicode_fails_alone(opened: Any, kit: ModuleType, run: Any) -> None:
    async def scenario() -> None:
        async with opened() as broker:
            broken, fine = await broker.publish(
                Outbound(kit.make_event(1), "orders", headers={"h": "\ud800"}), Outbound(kit.make_event(2), "orders")
            )
            assert type(broken) is Rejected
            assert isinstance(fine, Receipt)

    run(scenario())


def test_what_is_not_there_is_rejected(opened: Any, kit: ModuleType, run: Any) -> None:
    async def scenario() -> None:
        async with opened() as broker:
            topic, group, fine = await broker.publish(
                Outbound(kit.make_event(1), "parcels"),
                Outbound(kit.make_event(1), "orders", group="nobody"),
                Outbound(kit.make_event(1), "orders"),
            )
            assert type(topic) is type(group) is Rejected
            assert "parcels" in str(topic)
            assert "nobody" in str(group)
            assert isinstance(fine, Receipt)

    run(scenario())


def test_an_inlet_reaches_one_group(opened: Any, kit: ModuleType, run: Any) -> None:
    async def scenario() -> None:
        async with opened() as broker:
            billing, stock = await broker.join(group="billing"), await broker.join(group="stock")
            await broker.publish(
                Outbound(kit.make_event("all"), "orders"),
                Outbound(kit.make_event("billing"), "orders", group="billing"),
                Outbound(Foreign(b"raw", (("a", b"b"),), "k"), "orders", group="stock", headers={"h": "v"}),
                Outbound(kit.make_event("all again"), "orders"),
            )
            seen = []
            while len(seen) < 3:
                seen += await billing.receive(10, lanes=None, timeout=5)
            assert sorted(inbound.event.data for inbound in seen) == ["all", "all again", "billing"]
            raw = []
            while len(raw) < 3:
                raw += await stock.receive(10, lanes=None, timeout=5)
            (foreign,) = [inbound for inbound in raw if isinstance(inbound.event, Foreign)]
            assert (foreign.event.body, foreign.event.headers, foreign.key) == (b"raw", [("a", b"b")], "k")
            assert foreign.headers == {"h": "v"}

    run(scenario())


def test_a_delayed_event_comes_no_sooner_and_holds_nobody_up(opened: Any, kit: ModuleType, run: Any) -> None:
    async def scenario() -> None:
        async with opened(ordered=False) as broker:
            receiver = await broker.join(ordered=False)
            due = time.time() + 0.2
            await broker.publish(
                Outbound(kit.make_event("later"), "orders", not_before=due),
                Outbound(kit.make_event("past"), "orders", not_before=due - 10),
                Outbound(kit.make_event("now"), "orders"),
            )
            first = await receiver.receive(10, lanes=None, timeout=5)
            assert [inbound.event.data for inbound in first] == ["past", "now"]
            assert (await broker.adapter.backlog("orders", "billing")).waiting == 1
            (later,) = await receiver.receive(10, lanes=None, timeout=5)
            assert time.time() >= due
            assert later.event.data == "later"

    run(scenario())


@pytest.mark.parametrize("groups", [True, False])
def test_retention_deletes_what_all_groups_have_finished(
    opened: Any, path: Path, kit: ModuleType, run: Any, groups: bool
) -> None:
    async def scenario() -> None:
        async with opened(retention=0.0, deduplication_window=0.0, poll=0.01) as broker:
            topic = "orders" if groups else "empty"
            if not groups:
                await broker.adapter.declare(kit.Topology((kit.TopicSpec("empty", retention=0.0),)), "create")
            for n in range(5):
                await broker.publish(Outbound(kit.make_event(n), topic))
            if groups:
                assert commits(path) == 5, "nobody has had them"
                billing, stock = await broker.join(group="billing"), await broker.join(group="stock")
                taken = await billing.receive(10, lanes=None, timeout=5)
                await billing.settle([Ack(inbound) for inbound in taken])
                held = await stock.receive(10, lanes=None, timeout=5)
                await stock.settle([Ack(inbound) for inbound in held[:2]])
                await stock.receive(10, lanes=None, timeout=0.3)
                assert commits(path) == 3, "the third is held still"
                await stock.settle([Ack(inbound) for inbound in held[2:]])
                await stock.receive(10, lanes=None, timeout=0.3)
                assert commits(path) == 0
            else:
                async with asyncio.timeout(10):
                    while commits(path) > 2:
                        await broker.publish(Outbound(kit.make_event("more"), topic))

    run(scenario())
