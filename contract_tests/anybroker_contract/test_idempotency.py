"""idempotent: copies have one effect; fencing; the store down means closed; ids that a second run gives again."""

from __future__ import annotations

import asyncio
import sqlite3
from typing import Any

import pytest

from anybroker import Bus, Delivery
from anybroker.idempotency import Busy, Claim, Done, Key, MemoryStore, SqliteStore, SqliteTransaction
from anybroker.middleware import idempotent, retry
from anybroker.testing import drop, duplicate

from ._kit import TYPE, FailsUntilFixed, Kit, counted
from .marks import needs_harness, requires


class DownStore(MemoryStore):
    """A store that can be switched off."""

    down = False

    async def claim(self, key: Key, owner: str, lease: float, retain: float, /) -> Claim | Busy | Done:
        """As MemoryStore, when it is up."""
        if self.down:
            raise ConnectionError("the store is down")
        return await super().claim(key, owner, lease, retain)


class RemembersClaims(MemoryStore):
    """A store that keeps the claims it gave."""

    def __init__(self) -> None:
        super().__init__()
        self.claims: list[Claim] = []

    async def claim(self, key: Key, owner: str, lease: float, retain: float, /) -> Claim | Busy | Done:
        """As MemoryStore."""
        claim = await super().claim(key, owner, lease, retain)
        if isinstance(claim, Claim):
            self.claims.append(claim)
        return claim


async def test_three_copies_have_one_effect(kit: Kit) -> None:
    """Copies of an event, one after the other, start the handler once; the others are counted as suppressed."""
    topic = kit.topic()
    bus = kit.bus(target=kit.faulty(duplicate(every=1)))
    log = kit.subscribe(bus, topic, middleware=[idempotent(MemoryStore())])
    async with bus:
        for _ in range(3):
            await bus.publish(topic, counted(0, key="k"))
        await bus.publish(topic, counted(1, key="k"))
        await log.wait_done(["w-0", "w-1"])
        await kit.drained(bus, topic)
        suppressed = bus.subscriptions[0].stats.suppressed
    assert log.started == ["w-0", "w-1"]
    assert kit.capabilities.deduplication or suppressed >= 4


async def test_copies_at_the_same_moment_have_one_effect(kit: Kit) -> None:
    """Copies that two members get while the first one is being handled: one effect, and every copy is settled."""
    topic = kit.topic()
    store = MemoryStore()
    log = kit.log()

    async def linger(_: Delivery) -> None:
        await asyncio.sleep(0.3)

    buses = [kit.bus(target=kit.faulty(duplicate(every=1)), topics={topic: {"ordered": False}}) for _ in range(2)]
    for number, bus in enumerate(buses):
        middleware = [idempotent(store)]
        kit.subscribe(bus, topic, log=log, behave=linger, member=f"m{number}", ordered=False, middleware=middleware)
        await bus.start()
    await asyncio.gather(*(bus.publish(topic, counted(number)) for bus in buses for number in range(5)))
    await log.wait_done(f"w-{number}" for number in range(5))
    await kit.drained(buses[0], topic)
    await log.quiet()
    assert sorted(log.started) == [f"w-{number}" for number in range(5)]


async def test_a_redelivery_after_a_lost_settlement_has_no_second_effect(kit: Kit) -> None:
    """An event whose handler returned but whose settlement was lost comes again, and starts nothing."""
    topic = kit.topic()
    store = MemoryStore()
    log = kit.log()
    first = kit.bus(target=kit.faulty(drop("settle")))
    kit.subscribe(first, topic, log=log, middleware=[idempotent(store)])
    async with first:
        published = await kit.publish(first, topic, 5, keys=5)
        await log.wait_done(id_ for _, id_ in published)
    second = kit.bus()
    kit.subscribe(second, topic, log=log, middleware=[idempotent(store)])
    async with second:
        await second.publish(topic, counted(9))
        await log.wait_done(["w-9"])
        await kit.drained(second, topic)
        await log.quiet()
        assert second.subscriptions[0].stats.suppressed == 5
    assert len(log.handlings) == 6


async def test_a_failed_start_is_no_effect(kit: Kit) -> None:
    """A handler that raised is started again, whatever the store remembers; after it returned, never again."""
    topic = kit.topic()
    bus = kit.bus()

    async def fail_once(delivery: Delivery) -> None:
        if delivery.attempt == 1:
            raise ValueError("once")

    log = kit.subscribe(
        bus, topic, behave=fail_once, middleware=[retry(attempts=3, first=0.01), idempotent(MemoryStore())]
    )
    async with bus:
        await bus.publish(topic, counted(0, key="k"))
        await log.wait_done(["w-0"])
        await bus.publish(topic, counted(0, key="k").replace(subject="copy"))
        await bus.publish(topic, counted(1, key="k"))
        await log.until(lambda: "w-1" in log.started, "the next")
    assert log.attempts("w-0") == [1, 2]


async def test_the_store_down_means_that_nothing_is_handled(kit: Kit) -> None:
    """While the store is down no handler starts, nothing is settled, and the subscription says so; afterwards
    everything is handled, at first attempts."""
    topic = kit.topic()
    store = DownStore()
    bus = kit.bus()
    log = kit.subscribe(bus, topic, middleware=[retry(attempts=2, first=0.01), idempotent(store)])
    async with bus:
        store.down = True
        published = await kit.publish(bus, topic, 5, keys=5)
        await kit.unwell(bus)
        assert "store" in bus.problems[f"{topic}/g"]
        await log.quiet(0.2)
        assert log.handlings == []
        store.down = False
        await log.wait_done(id_ for _, id_ in published)
        assert bus.problems == {}
    assert {handling.attempt for handling in log.handlings} == {1}


async def test_a_late_owner_marks_nothing(kit: Kit) -> None:
    """A handler whose claim was taken over while it slept acknowledges nothing; the new owner's effect counts."""
    topic = kit.topic()
    bus = kit.bus()
    store = RemembersClaims()
    asleep = asyncio.Event()
    results: list[str] = []

    async def sleep_first(delivery: Delivery) -> None:
        if not asleep.is_set():
            asleep.set()
            # Another owner takes the key over as it would after this one's lease.
            (late,) = store.claims
            await store.release(late)
            claim = await store.claim(late.key, "other", 30.0, 60.0)
            results.append(type(claim).__name__)
            assert await store.done(claim)  # type: ignore[arg-type]

    log = kit.subscribe(bus, topic, behave=sleep_first, middleware=[idempotent(store)])
    async with bus:
        await bus.publish(topic, counted(0, key="k"))
        await log.wait_done(["w-0"])
        await kit.drained(bus, topic)
        await log.quiet()
        assert bus.subscriptions[0].stats.suppressed == 1
    assert results == ["Claim"]
    assert log.started == ["w-0"]


async def test_what_a_crashed_handler_had_published_is_recognised_downstream(kit: Kit) -> None:
    """A handler that crashes after one of its two publishes and runs again publishes the same ids: the next service,
    with ``@idempotent``, handles each once."""
    first, second = kit.topic("a"), kit.topic("b")
    bus = kit.bus()
    died = False

    async def publish_two(delivery: Delivery) -> None:
        nonlocal died
        await bus.publish(second, {"n": 1}, type=TYPE, key="k")
        if not died:
            died = True
            raise RuntimeError("between the two")
        await bus.publish(second, {"n": 2}, type=TYPE, key="k")

    kit.subscribe(bus, first, behave=publish_two, middleware=[retry(attempts=3, first=0.01)])
    log = kit.subscribe(bus, second, middleware=[idempotent(MemoryStore())])
    async with bus:
        await bus.publish(first, counted(0, key="k"))
        await log.until(lambda: len(log.done) == 2, "both")
        await kit.drained(bus, second)
        await log.quiet()
    assert [handling.event.data["n"] for handling in log.handlings] == [1, 2]


async def test_a_dead_letter_that_is_replayed_is_handled(kit: Kit) -> None:
    """Idempotency does not drop a replay: a dead-lettered event was never done."""
    topic = kit.topic()
    bus = kit.bus()
    handler = FailsUntilFixed()
    middleware = [retry(attempts=1), idempotent(MemoryStore())]
    log = kit.subscribe(bus, topic, behave=handler, middleware=middleware)
    async with bus:
        await bus.publish(topic, counted(0, key="k"))
        queue = bus.dead_letters(topic, "g")
        queue.patience = kit.brief
        loop = asyncio.get_running_loop()
        end = loop.time() + kit.patience
        while not await queue.list():
            assert loop.time() < end, "no dead letter"
        handler.fixed = True
        await queue.replay()
        await log.wait_done(["w-0"])
    assert log.attempts("w-0") == [1, 1]


@needs_harness("url")
@requires("processes", "durable")
async def test_one_effect_where_the_effect_shares_the_transaction(kit: Kit) -> None:
    """Copies, failures after the effect, and restarts: an effect in the store's own transaction happens exactly once
    for each event."""
    topic = kit.topic()
    path = kit.folder / "effects.db"
    with sqlite3.connect(path) as setup:
        setup.execute("CREATE TABLE effect (id TEXT NOT NULL)")
    setup.close()
    runs = 0

    def make() -> Bus:
        bus = kit.bus(target=kit.faulty(duplicate(every=2)))

        async def book(delivery: Delivery, transaction: SqliteTransaction) -> None:
            nonlocal runs
            runs += 1
            await transaction.execute("INSERT INTO effect VALUES (?)", (delivery.event.id,))
            if runs % 4 == 0:
                raise RuntimeError("after the effect")

        middleware = [retry(attempts=9, first=0.01), idempotent(SqliteStore(path))]
        bus.subscribe(topic, group="g", middleware=middleware, name="book")(book)
        return bus

    for round_ in range(2):
        async with make() as bus:
            await kit.publish(bus, topic, 10, keys=4, first=10 * round_)
            loop = asyncio.get_running_loop()
            end = loop.time() + kit.patience
            while bus.subscriptions[0].buffered or _count(path) < 10 * (round_ + 1):
                assert loop.time() < end, f"{_count(path)} effects"
                await asyncio.sleep(0.02)
    assert _count(path) == 20


def _count(path: object) -> int:
    connection = sqlite3.connect(str(path))
    try:
        rows = connection.execute("SELECT count(*), count(DISTINCT id) FROM effect").fetchone()
    finally:
        connection.close()
    assert rows[0] == rows[1], "an effect is there twice"
    return int(rows[0])


@pytest.mark.parametrize("copies", [2, 5])
async def test_publishing_again_under_the_same_id_is_harmless(kit: Kit, copies: int) -> None:
    """An event that is published again under its id (as after an unknown outcome) has one effect on an idempotent
    handler."""
    topic = kit.topic()
    bus = kit.bus()
    log = kit.subscribe(bus, topic, middleware=[idempotent(MemoryStore())])
    event = counted(0, key="k")
    async with bus:
        for _ in range(copies):
            await bus.publish(topic, event)
        await bus.publish(topic, counted(1, key="k"))
        await log.wait_done(["w-0", "w-1"])
    assert log.started == ["w-0", "w-1"]


@pytest.mark.parametrize(
    ("first_run", "second_run"),
    [
        pytest.param(["r1", "r2"], ["r0", "r1", "r2"], id="one more in front"),
        pytest.param(["a", "b"], ["b", "c", "a"], id="another order"),
        pytest.param(["x", "x"], ["x", "y", "x", "x"], id="equal ones"),
    ],
)
async def test_a_second_run_that_publishes_in_another_order_loses_nothing(
    kit: Kit, first_run: list[str], second_run: list[str]
) -> None:
    """A handler published some rows and failed, and publishes in another order when it runs again: an idempotent
    consumer handles each row of the second run once."""
    first, second = kit.topic("a"), kit.topic("b")
    bus = kit.bus()

    async def publish_rows(delivery: Delivery) -> None:
        for row in first_run if delivery.attempt == 1 else second_run:
            await bus.publish(second, {"row": row}, type=TYPE, key="k")
        if delivery.attempt == 1:
            raise ValueError("after its publishes")

    source = kit.subscribe(bus, first, behave=publish_rows, middleware=[retry(attempts=3, first=0.01)])
    log = kit.subscribe(bus, second, middleware=[idempotent(MemoryStore())])
    async with bus:
        await bus.publish(first, counted(0))
        await source.wait_done(["w-0"])
        await bus.publish(second, counted(1, key="k"))
        await log.wait_done(["w-1"])  # behind them all
    rows = [handling.event.data["row"] for handling in log.handlings if handling.id != "w-1"]
    assert sorted(rows) == sorted(second_run)


async def test_equal_data_with_another_subject_is_another_event(kit: Kit) -> None:
    """Events of one handler that differ only in their subject, an extension or a header: a second run that publishes
    them in another order loses none."""
    first, second = kit.topic("a"), kit.topic("b")
    bus = kit.bus()
    ways: list[dict[str, Any]] = [
        {"subject": "s1"},
        {"subject": "s2"},
        {"extensions": {"part": 1}},
        {"extensions": {"part": 2}},
        {"headers": {"tenant": "a"}},
        {"headers": {"tenant": "b"}},
    ]

    async def publish_ways(delivery: Delivery) -> None:
        for way in ways[1::2] if delivery.attempt == 1 else ways:
            await bus.publish(second, {"n": 1}, type=TYPE, key="k", **way)
        if delivery.attempt == 1:
            raise ValueError("after its publishes")

    source = kit.subscribe(bus, first, behave=publish_ways, middleware=[retry(attempts=3, first=0.01)])
    log = kit.subscribe(bus, second, middleware=[idempotent(MemoryStore())])
    async with bus:
        await bus.publish(first, counted(0))
        await source.wait_done(["w-0"])
        await bus.publish(second, counted(1, key="k"))
        await log.wait_done(["w-1"])
    said = [
        (handling.event.subject, handling.event.get("part"), handling.headers.get("tenant"))
        for handling in log.handlings
        if handling.id != "w-1"
    ]
    assert len(said) == len(ways)
    assert len({str(each) for each in said}) == len(ways)
