"""Receiving and settling: claims, leases, the order of a key, and who gets which."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from anybroker.adapter import Ack, ExtendsLease, Inbound, Outbound, Release
from anybroker.errors import LeaseLost, Unavailable
from anybroker_sqlite.store import CLAIM


def data(batch: Any) -> list[Any]:
    return [inbound.event.data for inbound in batch]


async def put(broker: Any, *items: tuple[str | None, Any]) -> None:
    await broker.publish(*(Outbound(broker.kit.make_event(value, key), "orders") for key, value in items))


async def take(receiver: Any, limit: int = 100, timeout: float = 5.0) -> list[Inbound]:
    return list(await receiver.receive(limit, lanes=None, timeout=timeout))


async def ack(receiver: Any, batch: Any) -> None:
    assert await receiver.settle([Ack(inbound) for inbound in batch]) == [None] * len(batch)


def test_a_member_of_an_empty_topic_waits_and_gets_nothing(opened: Any, run: Any) -> None:
    async def scenario() -> None:
        async with opened() as broker:
            receiver = await broker.join()
            assert isinstance(receiver, ExtendsLease)
            begun = time.monotonic()
            assert await receiver.receive(10, lanes=None, timeout=0.05) == ()
            assert time.monotonic() - begun < 2
            assert await receiver.receive(10, lanes=[], timeout=0.05) == ()
            waiting = asyncio.ensure_future(receiver.receive(10, lanes=None, timeout=60))
            await asyncio.sleep(0)
            await receiver.stop()
            assert await waiting == ()
            await receiver.close()
            await receiver.close()

    run(scenario())


def test_what_is_published_wakes_the_waiting_members(opened: Any, run: Any) -> None:
    """One of this adapter, directly, and one of another, as in another process, through its FIFO."""

    async def scenario() -> None:
        async with opened(poll=10) as here, opened(poll=10) as there:
            members = await here.join(group="billing"), await there.join(group="stock")
            waiting = [asyncio.ensure_future(take(receiver, timeout=60)) for receiver in members]
            for receiver in members:  # a round of each through its thread: its claim of nothing is committed
                await receiver.settle([])
            async with asyncio.timeout(5):
                await put(here, ("k", 1))
                assert [data(batch) for batch in await asyncio.gather(*waiting)] == [[1], [1]]

    run(scenario())


def test_settled_is_settled(opened: Any, run: Any) -> None:
    async def scenario() -> None:
        async with opened(poll=0.01) as broker:
            receiver = await broker.join()
            await put(broker, ("a", 1), ("b", 2), ("c", 3))
            one, two, three = await take(receiver)
            assert (one.attempts, one.deliveries, one.lane) == (0, 1, receiver.lane)
            assert one.position < two.position < three.position
            results = await receiver.settle([Ack(one), Ack(one), Release(two, 4, failed=True)])
            assert results[0] is results[2] is None
            assert isinstance(results[1], LeaseLost)
            (again,) = await take(receiver)
            assert (again.event, again.attempts, again.deliveries) == (two.event, 4, 2)
            stale = await receiver.settle([Ack(two)])
            assert isinstance(stale[0], LeaseLost), "that delivery was given back; the new one is another"
            await ack(receiver, [again, three])
            backlog = await broker.adapter.backlog("orders", "billing")
            assert (backlog.waiting, backlog.in_flight, backlog.lag) == (0, 0, 0)
            assert (await broker.adapter.backlog("orders", "stock")).lag == 3

    run(scenario())


def test_given_back_comes_before_what_follows(opened: Any, run: Any) -> None:
    async def scenario() -> None:
        async with opened() as broker:
            receiver = await broker.join()
            await put(broker, *(("k", n) for n in range(6)))
            first = await take(receiver, 3)
            assert await receiver.settle([Release(inbound, 0) for inbound in reversed(first)]) == [None] * 3
            assert data(await take(receiver)) == list(range(6))

    run(scenario())


def test_a_delayed_release_comes_no_sooner(opened: Any, run: Any) -> None:
    async def scenario() -> None:
        async with opened() as broker:
            receiver = await broker.join()
            await put(broker, ("k", 1), ("k", 2))
            one, _ = await take(receiver)
            begun = time.time()
            assert await receiver.settle([Release(one, 1, delay=0.1, failed=True)]) == [None]
            assert (await broker.adapter.backlog("orders", "billing")).waiting == 1
            (again,) = await take(receiver)
            assert time.time() - begun >= 0.1
            assert (again.event.data, again.attempts) == (1, 1)

    run(scenario())


def test_closing_gives_everything_back_at_once(opened: Any, run: Any) -> None:
    async def scenario() -> None:
        async with opened() as broker:
            leaving, staying = await broker.join(), await broker.join()
            await put(broker, *((f"k{n % 3}", n) for n in range(9)))
            held = await take(leaving)
            assert len(held) == 9
            waiting = asyncio.ensure_future(take(staying))
            await leaving.close()
            async with asyncio.timeout(2):
                batch = await waiting
                assert data(batch) == list(range(9))
            assert {inbound.deliveries for inbound in batch} == {2}
            assert all(isinstance(result, LeaseLost) for result in await leaving.settle([Ack(held[0])]))

    run(scenario())


def test_a_key_belongs_to_one_member_at_a_time(opened: Any, run: Any) -> None:
    async def scenario() -> None:
        async with opened(poll=0.01) as broker, opened(poll=0.01) as elsewhere:
            one, two = await broker.join(), await elsewhere.join()
            await put(broker, ("a", 1), ("b", 2), ("a", 3), (None, 4), ("a", 5))
            first = await take(one, 1)
            assert data(first) == [1]
            second = await take(two)
            assert data(second) == [2, 4], "what has the key of an open claim is not handed to another"
            assert await two.receive(10, lanes=None, timeout=0.05) == ()
            await ack(one, first)
            assert data(await take(two)) == [3, 5]

    run(scenario())


def test_a_second_member_gets_its_share_of_the_keys(opened: Any, run: Any) -> None:
    """The first has open claims of every key all the time, and still does not keep them."""

    async def scenario() -> None:
        async with opened(poll=0.01) as broker, opened(poll=0.01) as elsewhere:
            first, second = await broker.join(), await elsewhere.join()
            await put(broker, *((f"k{n % 8}", n) for n in range(2_400)))
            handled: dict[Any, list[int]] = {first: [], second: []}
            order: list[int] = []
            ended = asyncio.Event()

            async def work(receiver: Any) -> None:
                held: list[Inbound] = []
                while not ended.is_set():
                    held += await take(receiver, 64 - len(held), 0.0 if held else 0.1)
                    done, held = held[:8], held[8:]
                    handled[receiver] += data(done)
                    order.extend(data(done))
                    await ack(receiver, done)
                    if len(order) == 2_400:
                        ended.set()

            leading = await take(first, 8)
            assert len({inbound.key for inbound in leading}) == 8
            async with asyncio.timeout(30):
                await asyncio.gather(work(first), work(second), _settle_soon(first, leading, order))
            assert min(len(values) for values in handled.values()) > 100, handled
            for key in range(8):
                assert [n for n in order if n % 8 == key] == list(range(key, 2_400, 8))

    run(scenario())


async def _settle_soon(receiver: Any, batch: list[Inbound], order: list[int]) -> None:
    order[:0] = data(batch)
    await ack(receiver, batch)


def test_an_unordered_group_knows_no_keys(opened: Any, run: Any) -> None:
    async def scenario() -> None:
        async with opened(ordered=False) as broker:
            one, two = await broker.join(ordered=False), await broker.join(ordered=False)
            await put(broker, *(("k", n) for n in range(4)))
            assert data(await take(one, 1)) == [0]
            assert data(await take(two, 3)) == [1, 2, 3]

    run(scenario())


def test_an_expired_claim_goes_to_another(opened: Any, run: Any) -> None:
    async def scenario() -> None:
        async with opened(lease=0.3, poll=0.02) as broker, opened(lease=0.3, poll=0.02) as elsewhere:
            slow, other = await broker.join(), await elsewhere.join()
            await put(broker, ("k", 1), ("k", 2), ("l", 3))
            lost = await take(slow)
            begun = time.monotonic()
            kept = lost[2]
            taken: list[Inbound] = []
            while len(taken) < 2:
                assert await slow.extend([kept]) == [None]
                taken += await take(other, timeout=0.05)
            assert 0.2 < time.monotonic() - begun < 5
            assert data(taken) == [1, 2]
            results = await slow.settle([Ack(inbound) for inbound in lost])
            assert [type(result) for result in results] == [LeaseLost, LeaseLost, type(None)]
            assert [type(result) for result in await slow.extend(lost)] == [LeaseLost] * 3
            await ack(other, taken)

    run(scenario())


def test_an_extended_claim_stays(opened: Any, run: Any) -> None:
    async def scenario() -> None:
        async with opened(lease=0.2, poll=0.02) as broker:
            slow, other = await broker.join(), await broker.join()
            await put(broker, ("k", 1))
            held = await take(slow)
            end = time.monotonic() + 0.6
            while time.monotonic() < end:
                assert await slow.extend(held) == [None]
                assert await take(other, timeout=0.03) == []
            await ack(slow, held)

    run(scenario())


def test_a_member_taken_for_dead_says_so(opened: Any, path: Path, run: Any) -> None:
    async def scenario() -> None:
        async with opened(poll=0.01) as broker, opened(poll=0.01) as elsewhere:
            ours, other = await broker.join(), await elsewhere.join()
            await put(broker, ("k", 1))
            held = await take(ours)
            (path.parent / "shop.db-wake" / ours._fifo.name).unlink()
            assert data(await take(other)) == [1]
            assert isinstance((await ours.settle([Ack(held[0])]))[0], LeaseLost)
            with pytest.raises(LeaseLost, match="removed this receiver"):
                await take(ours)
            await ours.close()

    run(scenario())


def test_a_member_whose_process_died_leaves_nothing_behind(opened: Any, path: Path, run: Any) -> None:
    async def scenario() -> None:
        async with opened() as broker:
            receiver = await broker.join()
            folder = path.parent / "shop.db-wake"
            await put(broker, ("k", 1))
            (inbound,) = await take(receiver)
            with sqlite3.connect(path) as connection:
                connection.execute("INSERT INTO ab_member(id, grp, wake) SELECT id, id, 'dead' FROM ab_group")
            connection.close()
            await ack(receiver, [inbound])
            await receiver.close()
            again = await broker.join()
            with sqlite3.connect(path) as connection:
                left = connection.execute(
                    "SELECT count(*) FROM ab_member JOIN ab_group g ON g.id = grp WHERE g.name = 'billing'"
                ).fetchone()
            connection.close()
            assert left == (1,)
            await again.close()
            assert list(folder.iterdir()) == []

    run(scenario())


def test_many_keys_put_aside_do_not_stop_the_others(opened: Any, monkeypatch: pytest.MonkeyPatch, run: Any) -> None:
    """A key that one member holds and whose events fill the topic: the others go on behind them, up to a limit."""
    monkeypatch.setattr("anybroker_sqlite.claims._MAX_PARKED", 50)
    monkeypatch.setattr("anybroker_sqlite.claims._MAX_PASSED_OVER", 8)

    async def scenario() -> None:
        async with opened(poll=0.01) as broker:
            holder, other = await broker.join(), await broker.join()
            await put(broker, ("hot", 0))
            held = await take(holder)
            await put(broker, *(("hot", n) for n in range(1, 31)), ("cool", 31))
            assert data(await take(other)) == [31]
            await put(broker, *(("hot", n) for n in range(32, 80)))
            assert await take(other, timeout=0.05) == []
            await put(broker, ("cool", 80))
            assert await take(other, timeout=0.05) == [], "so far ahead nobody looks"
            await ack(holder, held)
            seen: list[int] = []
            while len(seen) < 79:
                batch = [*await take(holder, timeout=0.02), *await take(other, timeout=0.02)]
                seen += data(batch)
                for receiver in (holder, other):
                    await ack(receiver, [inbound for inbound in batch if inbound.lane is receiver.lane])
            assert [n for n in seen if n != 80] == [*range(1, 31), *range(32, 80)]

    run(scenario())


def test_large_events_come_in_small_batches(opened: Any, monkeypatch: pytest.MonkeyPatch, run: Any) -> None:
    monkeypatch.setattr("anybroker_sqlite.claims._MAX_BYTES", 3_000_000)

    async def scenario() -> None:
        async with opened() as broker:
            receiver = await broker.join()
            await put(broker, *(("k", "x" * 1_000_000) for _ in range(8)))
            first = await take(receiver)
            assert 1 <= len(first) <= 4
            second = await take(receiver)
            assert 1 <= len(second) <= 4
            assert await receiver.settle([Release(inbound, 0) for inbound in [*first, *second]])
            again = await take(receiver)
            assert 1 <= len(again) <= 4

    run(scenario())


def test_a_fault_in_one_piece_of_work_does_not_hit_the_others(opened: Any, kit: ModuleType, run: Any) -> None:
    async def scenario() -> None:
        async with opened() as broker:
            store = broker.adapter._store

            def broken(store: Any) -> None:
                store.execute("DELETE FROM ab_topic")
                raise KeyError("a bug")

            results = await asyncio.gather(
                store.call(broken, 3),
                broker.publish(Outbound(kit.make_event(1), "orders")),
                store.call(lambda store: store.topic("orders")),
                return_exceptions=True,
            )
            assert "KeyError" in str(results[0])
            assert results[1][0].broker_id == "1"
            assert results[2].name == "orders"

    run(scenario())


def test_bytes_that_end_a_claim_do_not_let_later_events_pass(
    opened: Any, monkeypatch: pytest.MonkeyPatch, run: Any
) -> None:
    monkeypatch.setattr("anybroker_sqlite.claims._MAX_BYTES", 250_000)

    async def scenario() -> None:
        async with opened() as broker:
            receiver = await broker.join()
            await put(broker, *(("k", str(n) * 100_000) for n in range(6)))
            first = [*await take(receiver), *await take(receiver)]
            assert await receiver.settle([Release(inbound, 0) for inbound in first]) == [None] * len(first)
            await put(broker, ("k", "9"))
            seen: list[str] = []
            while len(seen) < 7:
                seen += [value[0] for value in data(await take(receiver))]
            assert seen == ["0", "1", "2", "3", "4", "5", "9"]

    run(scenario())


def test_what_was_read_in_a_transaction_that_failed_is_forgotten(opened: Any, kit: ModuleType, run: Any) -> None:
    """A publish, its claim and a failure in one transaction: the next event has the same number, and is another."""

    async def scenario() -> None:
        async with opened(poll=0.01) as broker:
            store, receiver = broker.adapter._store, await broker.join()
            gate = threading.Event()

            def fail(store: Any) -> None:
                raise sqlite3.OperationalError("disk I/O error")

            alone = threading.Event()
            held = store.call(lambda store: (alone.set(), gate.wait(10)))
            assert await asyncio.to_thread(alone.wait, 10)  # in a transaction of its own: the others share the next
            publishing = asyncio.ensure_future(broker.publish(Outbound(kit.make_event("lost"), "orders")))
            receiving = asyncio.ensure_future(take(receiver))
            await asyncio.sleep(0)
            failing = store.call(fail, CLAIM)
            gate.set()
            await held
            assert isinstance((await publishing)[0], Unavailable)
            with pytest.raises(Unavailable, match="disk I/O error"):
                await failing
            (result,) = await broker.publish(Outbound(kit.make_event("stored"), "orders"))
            assert result.broker_id == "1"
            assert data(await receiving) == ["stored"]

    run(scenario())
