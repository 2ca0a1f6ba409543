"""Handlers whose effect shares the store's transaction: one effect, whatever happens in between."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Coroutine
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from anybroker import Bus, ConfigError, MemoryBroker
from anybroker.idempotency import Claim, MemoryStore, SqliteStore, SqliteTransaction, Transaction
from anybroker.middleware import dead_letter, idempotent, retry
from anybroker.testing import Recorder, settled

Run = Callable[[Coroutine[Any, Any, None]], None]
WORKER = Path(__file__).with_name("worker.py")
quick = retry(attempts=4, first=0.001, cap=0.005)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "shop.db"


@pytest.fixture
def store(path: Path) -> SqliteStore:
    def prepare(db: sqlite3.Connection) -> None:
        db.execute("CREATE TABLE IF NOT EXISTS charge(number INTEGER)")

    return SqliteStore(path, prepare=prepare, busy_timeout=0.05)


def charges(path: Path) -> list[int]:
    with closing(sqlite3.connect(path)) as db:
        return [number for (number,) in db.execute("SELECT number FROM charge ORDER BY rowid")]


def book(number: int) -> Callable[[sqlite3.Connection], int]:
    def function(db: sqlite3.Connection) -> int:
        db.execute("INSERT INTO charge VALUES (?)", (number,))
        return int(db.execute("SELECT count(*) FROM charge").fetchone()[0])

    return function


async def publish(bus: Bus, *numbers: int) -> None:
    for number in numbers:
        await bus.publish("orders", number, type="order.v1", id=f"o-{number}")


def test_a_handler_that_fails_behind_its_effect_has_it_once(run: Run, store: SqliteStore, path: Path) -> None:
    """And publishes what it decided the first time, under the same id."""
    runs: list[int] = []
    bus = Bus(MemoryBroker(), source="shop")
    recorder = Recorder(bus, "charged")

    @bus.subscribe("orders", group="billing")
    @quick
    @idempotent(store)
    async def charge(number: int, transaction: SqliteTransaction) -> None:
        total = await transaction.run(book(number))
        runs.append(number)
        await bus.publish("charged", {"total": total}, type="charged.v1")
        if len(runs) == 1:
            await asyncio.to_thread(charges, path)
            raise OSError("crash")
        await transaction.execute("INSERT INTO charge VALUES (?)", (-number,))

    async def main() -> None:
        async with bus:
            await publish(bus, 7, 7)
            await recorder.wait(2)
            await settled(bus)
            assert bus.subscriptions[1].stats.suppressed == 1

    run(main())
    assert runs == [7, 7]
    assert charges(path) == [7, -7]
    assert [event.data for event in recorder.events] == [{"total": 1}] * 2
    assert len({event.id for event in recorder.events}) == 1


def test_a_replayed_dead_letter_goes_on_behind_its_last_step(run: Run, store: SqliteStore, path: Path) -> None:
    broken = True
    bus = Bus(MemoryBroker(), source="shop")

    @bus.subscribe("orders", group="billing")
    @dead_letter()
    @retry(attempts=1)
    @idempotent(store)
    async def charge(number: int, transaction: SqliteTransaction) -> None:
        await transaction.run(book(number))
        if broken:
            raise OSError("the printer is on fire")
        await transaction.run(book(-number))

    async def main() -> None:
        nonlocal broken
        async with bus:
            await publish(bus, 7)
            await settled(bus)
            assert await asyncio.to_thread(charges, path) == [7]
            broken = False
            await bus.dead_letters("orders", "billing").replay(limit=1)
            await settled(bus)

    run(main())
    assert charges(path) == [7, -7]


def test_what_the_function_raises_is_the_handlers_failure(run: Run, store: SqliteStore, path: Path) -> None:
    starts: list[int] = []
    bus = Bus(MemoryBroker(), source="shop")

    @bus.subscribe("orders", group="billing")
    @quick
    @idempotent(store)
    async def charge(number: int, transaction: SqliteTransaction) -> None:
        starts.append(number)
        await transaction.run(refuse)

    def refuse(db: sqlite3.Connection) -> None:
        book(1)(db)
        raise LookupError("no such customer")

    async def main() -> None:
        async with bus:
            await publish(bus, 7)
            await settled(bus)
            (letter,) = await bus.dead_letters("orders", "billing").list(1)
            assert letter.reason == "LookupError: no such customer"
            assert letter.attempts == 4

    run(main())
    assert len(starts) == 4
    assert charges(path) == []


def test_the_file_locked_in_mid_handler_costs_no_attempt(run: Run, store: SqliteStore, path: Path, until: Any) -> None:
    starts: list[int] = []
    blocker: list[sqlite3.Connection] = []
    bus = Bus(MemoryBroker(), source="shop")

    @bus.subscribe("orders", group="billing")
    @dead_letter()
    @retry(attempts=1)
    @idempotent(store, lease=0.3)
    async def charge(number: int, transaction: SqliteTransaction) -> None:
        starts.append(number)
        if len(starts) == 1:
            blocker.append(sqlite3.connect(path, isolation_level=None))
            blocker[0].execute("BEGIN IMMEDIATE")
        await transaction.run(book(number))

    async def main() -> None:
        async with bus:
            await publish(bus, 7)
            await until(lambda: bus.problems)
            assert "database is locked" in bus.problems["orders/billing"]
            blocker[0].execute("COMMIT")
            blocker[0].close()
            await settled(bus)
            assert bus.problems == {}
            stats = bus.subscriptions[0].stats
            assert stats.dead_lettered == stats.retried == 0

    run(main())
    assert charges(path) == [7]


def test_an_owner_that_was_taken_over_in_mid_handler(run: Run, store: SqliteStore, path: Path) -> None:
    """It writes nothing, counts no attempt, and leaves the event to the other one, who dies here."""
    starts: list[int] = []
    bus = Bus(MemoryBroker(), source="shop")

    @bus.subscribe("orders", group="billing", name="charge")
    @dead_letter()
    @retry(attempts=1)
    @idempotent(store)
    async def charge(number: int, transaction: SqliteTransaction) -> None:
        starts.append(number)
        if len(starts) == 1:
            (keeper,) = bus._core.stores._keepers.values()
            await store.release(keeper.held.popitem()[0])
            other = await store.claim(("billing", "charge", "shop", "o-7"), "other", 0.1, 60.0)
            assert isinstance(other, Claim)
        await transaction.run(book(number))

    async def main() -> None:
        async with bus:
            await publish(bus, 7)
            await settled(bus)
            stats = bus.subscriptions[0].stats
            assert stats.dead_lettered == stats.retried == 0
            assert stats.postponed >= 1

    run(main())
    assert starts == [7, 7]
    assert charges(path) == [7]


def test_many_handlers_at_once_each_have_their_own(run: Run, store: SqliteStore, path: Path) -> None:
    bus = Bus(MemoryBroker(), source="shop")

    @bus.subscribe("orders", group="billing")
    @quick
    @idempotent(store)
    async def charge(number: int, transaction: SqliteTransaction) -> None:
        await asyncio.sleep(0)
        await transaction.run(book(number))
        if number % 3 == 0 and transaction._claim.fence % 2:
            raise OSError("now and then")

    async def main() -> None:
        async with bus:
            await publish(bus, *range(100), *range(100))
            await settled(bus, deadline=20)

    run(main())
    assert sorted(charges(path)) == list(range(100))


def test_a_plain_def_handler_uses_it_from_its_thread(run: Run, store: SqliteStore, path: Path) -> None:
    bus = Bus(MemoryBroker(), source="shop")

    @bus.subscribe("orders", group="billing")
    @idempotent(store)
    def charge(number: int, transaction: SqliteTransaction) -> None:
        transaction.run_from_thread(book(number))

    async def main() -> None:
        async with bus:
            await publish(bus, 1, 1, 2)
            await settled(bus)

    run(main())
    assert sorted(charges(path)) == [1, 2]


# --------------------------------------------------------------------------------------------------- crashes


@pytest.mark.parametrize("moment", ["before", "between", "after"])
def test_a_process_that_dies_around_its_effect(run: Run, store: SqliteStore, tmp_path: Path, moment: str) -> None:
    """Before the effect, between effect and publish, after the publish: one charge, and one id downstream."""
    broker, shop = tmp_path / "broker.db", tmp_path / "shop.db"

    async def main() -> None:
        bus = Bus(f"sqlite:///{broker}", source="front", topics={"orders": {"groups": ["billing"]}})
        recorder = Recorder(bus, "charged")
        async with bus:
            await publish(bus, 7)
            first = await asyncio.to_thread(work, broker, shop, moment)
            assert first.returncode == 9, first.stderr
            second = await asyncio.to_thread(work, broker, shop, "never")
            assert second.returncode == 0, second.stderr
            await recorder.wait(1)
            assert {event.data["total"] for event in recorder.events} == {1}
            assert len({event.id for event in recorder.events}) == 1

    run(main())
    with closing(sqlite3.connect(shop)) as db:
        assert db.execute("SELECT count(*) FROM charge").fetchone() == (1,)
        assert db.execute("SELECT sum(done), count(*) FROM anybroker_claim").fetchone() == (1, 1)


def work(broker: Path, shop: Path, die: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(WORKER), str(broker), str(shop), die]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


# ------------------------------------------------------------------------------------------------ wrong handlers


async def start(bus: Bus) -> None:
    async with bus:
        pass


def test_asking_without_idempotent_is_refused_at_the_start(run: Run) -> None:
    bus = Bus(MemoryBroker(), source="shop")

    @bus.subscribe("orders", group="billing", name="charge")
    async def charge(number: int, transaction: SqliteTransaction) -> None: ...

    with pytest.raises(ConfigError, match=r"handler charge: asks for a transaction, and has no @idempotent\(store\)"):
        run(start(bus))


def test_asking_for_another_stores_transaction_is_refused_at_the_start(run: Run, store: SqliteStore) -> None:
    class OtherTransaction(Transaction):
        pass

    for given, wanted, text in (
        (MemoryStore(), SqliteTransaction, "asks for a SqliteTransaction, and the handler's MemoryStore has none"),
        (store, OtherTransaction, "OtherTransaction, and the handler's SqliteStore has a SqliteTransaction"),
    ):
        bus = Bus(MemoryBroker(), source="shop")

        async def charge(number: int, transaction: Any) -> None: ...

        charge.__annotations__["transaction"] = wanted
        bus.subscribe("orders", group="billing", name="charge")(idempotent(given)(charge))
        with pytest.raises(ConfigError, match=rf"handler charge, parameter 'transaction': .*{text}"):
            run(start(bus))


def test_any_transaction_may_be_asked_for(run: Run, store: SqliteStore) -> None:
    got: list[Transaction] = []
    bus = Bus(MemoryBroker(), source="shop", idempotency=store)

    @bus.subscribe("orders", group="billing")
    @idempotent()
    async def charge(number: int, *, transaction: Transaction) -> None:
        got.append(transaction)

    async def main() -> None:
        async with bus:
            await publish(bus, 1)
            await settled(bus)

    run(main())
    assert isinstance(got[0], SqliteTransaction)


def test_a_batch_has_no_transaction() -> None:
    bus = Bus(MemoryBroker(), source="shop")
    with pytest.raises(ConfigError, match="asks for a transaction in a batch handler"):

        @bus.subscribe("orders", group="billing", batch=10)
        async def charge(numbers: list[int], transaction: SqliteTransaction) -> None: ...
