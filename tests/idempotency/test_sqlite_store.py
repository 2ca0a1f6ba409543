"""The SQLite store: its file, its thread, its transactions."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from anybroker.errors import ConfigError, StateError
from anybroker.idempotency import (
    DONE,
    Busy,
    Claim,
    ClaimLost,
    Key,
    SqliteStore,
    SqliteTransaction,
    StoreUnavailable,
)

Run = Callable[[Coroutine[Any, Any, None]], None]
KEY: Key = ("g", "h", "s", "1")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


async def claimed(store: SqliteStore, key: Key = KEY, owner: str = "a") -> Claim:
    claim = await store.claim(key, owner, 20.0, 60.0)
    assert isinstance(claim, Claim)
    return claim


async def until_free(store: SqliteStore) -> Claim:
    """Claim the key as soon as nobody else has it."""
    loop = asyncio.get_running_loop()
    end = loop.time() + 5.0
    while True:
        there = await store.claim(KEY, "b", 20.0, 60.0)
        if isinstance(there, Claim):
            return there
        assert isinstance(there, Busy)
        assert loop.time() < end, "it is still held"
        await asyncio.sleep(min(there.left, 0.01))


def tables(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path)


@contextmanager
def looking_into(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection of the test's own: what it changes is committed, and it is closed."""
    with closing(tables(path)) as db, db:
        yield db


# -------------------------------------------------------------------------------------------------------- the file


def test_marks_survive_the_process_and_are_synced(path: Path, run: Run) -> None:
    async def main() -> None:
        store = SqliteStore(path)
        await store.open()
        await store.done(await claimed(store))
        await store.close()
        again = SqliteStore(path)
        await again.open()
        assert await again.claim(KEY, "b", 20.0, 60.0) is DONE
        await again.close()

    run(main())
    with looking_into(path) as db:
        assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_the_connection_syncs_each_commit(path: Path, run: Run) -> None:
    seen: list[Any] = []

    async def main() -> None:
        store = SqliteStore(path, prepare=lambda db: seen.append(db.execute("PRAGMA synchronous").fetchone()[0]))
        await store.open()
        await store.close()

    run(main())
    assert seen == [2]


@pytest.mark.parametrize(
    ("content", "text"),
    [(b"no database at all, only text that goes on for a while" * 40, "file is not a database")],
)
def test_a_file_of_something_else_is_refused(path: Path, run: Run, content: bytes, text: str) -> None:
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=text):
        run(SqliteStore(path).open())


def test_a_missing_folder_is_refused(tmp_path: Path, run: Run) -> None:
    with pytest.raises(ConfigError, match=r"idempotency: the folder .*nowhere does not exist"):
        run(SqliteStore(tmp_path / "nowhere" / "store.db").open())


def test_another_version_of_the_tables_is_refused(path: Path, run: Run) -> None:
    with looking_into(path) as db:
        db.execute("CREATE TABLE anybroker_idempotency(version INTEGER)")
        db.execute("INSERT INTO anybroker_idempotency VALUES (7)")
    with pytest.raises(ConfigError, match="has version 7 of the tables, and this release reads 1"):
        run(SqliteStore(path).open())


def test_it_lives_beside_the_tables_of_the_application(path: Path, run: Run) -> None:
    with looking_into(path) as db:
        db.execute("CREATE TABLE account(cents INTEGER)")

    async def main() -> None:
        store = SqliteStore(path)
        await store.open()
        await store.done(await claimed(store))
        await store.close()

    run(main())
    with looking_into(path) as db:
        names = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    assert names >= {"account", "anybroker_claim", "anybroker_step"}


def test_no_thread_is_left(path: Path, run: Run) -> None:
    before = threading.active_count()

    async def main() -> None:
        store = SqliteStore(path)
        await store.open()
        assert any(str(path) in thread.name for thread in threading.enumerate())
        await store.close()
        assert not any(str(path) in thread.name for thread in threading.enumerate())
        with pytest.raises(StoreUnavailable, match="is not open"):
            await claimed(store)

    run(main())
    assert threading.active_count() <= before + 1  # asyncio's own helper for the last join


@pytest.mark.parametrize("retain", [0.0, -5.0, float("inf")])
def test_a_senseless_time_is_refused(path: Path, retain: float) -> None:
    with pytest.raises(ConfigError, match=r"SqliteStore\(retain=\)"):
        SqliteStore(path, retain=retain)


def test_a_senseless_busy_timeout_is_refused(path: Path) -> None:
    with pytest.raises(ConfigError, match=r"SqliteStore\(busy_timeout=\)"):
        SqliteStore(path, busy_timeout=-1)


# ------------------------------------------------------------------------------------------------------ the thread


def test_what_waits_together_is_committed_together(path: Path, run: Run) -> None:
    commits: list[str] = []

    async def main() -> None:
        store = SqliteStore(
            path,
            prepare=lambda db: db.set_trace_callback(lambda text: commits.append(text) if "COMMIT" in text else None),
        )
        await store.open()
        blocker = tables(path)
        blocker.execute("BEGIN IMMEDIATE")  # the first batch waits, the others queue up behind it
        waiting = [asyncio.create_task(claimed(store, ("g", "h", "s", str(n)))) for n in range(300)]
        await asyncio.sleep(0)
        blocker.execute("COMMIT")
        blocker.close()
        commits.clear()
        await asyncio.gather(*waiting)
        assert len(commits) <= 3
        await store.close()

    run(main())


def test_a_locked_file_is_a_store_that_is_down_until_it_is_free(path: Path, run: Run) -> None:
    async def main() -> None:
        store = SqliteStore(path, busy_timeout=0.05)
        await store.open()
        other = tables(path)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailable, match=r"store\.db: database is locked"):
            await claimed(store)
        other.execute("COMMIT")
        other.close()
        await store.done(await claimed(store))
        await store.close()

    run(main())


def test_a_claim_whose_waiter_was_cancelled_is_released(path: Path, run: Run) -> None:
    async def main() -> None:
        store = SqliteStore(path)
        await store.open()
        other = tables(path)
        other.execute("BEGIN IMMEDIATE")
        waiting = asyncio.create_task(claimed(store))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait([waiting])
        other.execute("COMMIT")
        other.close()
        await until_free(store)
        await store.close()

    run(main())


def test_a_claim_of_before_the_machines_last_start_has_run_out(path: Path, clock: Any, run: Run) -> None:
    async def main() -> None:
        store = SqliteStore(path)
        await store.open()
        await claimed(store)
        clock.now = 3.0  # the monotonic clock began again
        assert (await claimed(store, owner="b")).fence > 1
        assert isinstance(await store.claim(KEY, "a", 20.0, 60.0), Busy)
        await store.close()

    run(main())


def test_purging_is_done_in_small_batches(path: Path, clock: Any, run: Run) -> None:
    async def main() -> None:
        store = SqliteStore(path)
        await store.open()
        claims = await asyncio.gather(*(claimed(store, ("g", "h", "s", str(n))) for n in range(1_100)))
        await asyncio.gather(*(store.done(claim) for claim in claims))
        clock.pass_(61.0)
        assert [await store.purge() for _ in range(4)] == [500, 500, 100, 0]
        await store.close()

    run(main())


# ------------------------------------------------------------------------------------------------ its transactions


@pytest.fixture
def shop(path: Path) -> SqliteStore:
    return SqliteStore(path, prepare=lambda db: db.execute("CREATE TABLE IF NOT EXISTS charge(cents INTEGER)"))


def charges(path: Path) -> list[int]:
    with looking_into(path) as db:
        return [cents for (cents,) in db.execute("SELECT cents FROM charge ORDER BY rowid")]


def charge(cents: int) -> Callable[[sqlite3.Connection], int]:
    def book(db: sqlite3.Connection) -> int:
        db.execute("INSERT INTO charge VALUES (?)", (cents,))
        return int(db.execute("SELECT count(*) FROM charge").fetchone()[0])

    return book


def test_a_step_runs_once_and_gives_the_same_again(shop: SqliteStore, path: Path, run: Run) -> None:
    async def main() -> None:
        await shop.open()
        first = await claimed(shop)
        transaction = shop.transaction(first)
        assert await transaction.run(charge(1)) == 1
        assert await transaction.execute("SELECT sum(cents) FROM charge") == [[1]]
        await shop.release(first)  # the handler failed
        other = await claimed(shop, ("g", "h", "s", "2"))
        assert await shop.transaction(other).run(charge(2)) == 2
        second = await claimed(shop, owner="b")
        again = shop.transaction(second)
        assert await again.run(charge(1)) == 1
        assert await again.execute("SELECT sum(cents) FROM charge") == [[1]]  # what it saw then
        assert await again.run(charge(3)) == 3
        assert await shop.done(second)
        await shop.close()

    run(main())
    assert charges(path) == [1, 2, 3]
    with looking_into(path) as db:
        assert db.execute("SELECT count(*) FROM anybroker_step").fetchone() == (1,)  # of the one that is not done


def test_an_owner_that_was_taken_over_writes_nothing(shop: SqliteStore, path: Path, clock: Any, run: Run) -> None:
    async def main() -> None:
        await shop.open()
        late = shop.transaction(await claimed(shop))
        clock.pass_(21.0)
        await claimed(shop, owner="b")
        with pytest.raises(ClaimLost, match="another owner has the event: nothing was written"):
            await late.run(charge(1))
        await shop.close()

    run(main())
    assert charges(path) == []


def test_after_the_handler_has_returned_nothing_is_written(shop: SqliteStore, path: Path, run: Run) -> None:
    async def main() -> None:
        await shop.open()
        claim = await claimed(shop)
        transaction = shop.transaction(claim)
        await shop.done(claim)
        with pytest.raises(ClaimLost):
            await transaction.run(charge(1))
        await shop.close()

    run(main())
    assert charges(path) == []


def test_what_a_function_raises_undoes_its_own_writes_only(shop: SqliteStore, path: Path, run: Run) -> None:
    async def main() -> None:
        await shop.open()
        claims = [await claimed(shop, ("g", "h", "s", str(n))) for n in range(5)]

        def half(db: sqlite3.Connection) -> None:
            charge(99)(db)
            raise LookupError("no such account")

        def wrong(db: sqlite3.Connection) -> None:
            charge(98)(db)
            db.execute("INSERT INTO nothing VALUES (1)")

        results = await asyncio.gather(
            shop.transaction(claims[0]).run(charge(0)),
            shop.transaction(claims[1]).run(half),
            shop.transaction(claims[2]).run(wrong),
            shop.transaction(claims[3]).run(lambda db: {charge(97)(db): object()}),
            shop.transaction(claims[4]).run(charge(4)),
            return_exceptions=True,
        )
        assert results[0] == 1
        assert isinstance(results[1], LookupError)
        assert isinstance(results[2], sqlite3.OperationalError)
        assert isinstance(results[3], TypeError)
        assert "returned a dict, which is not JSON" in str(results[3])
        assert results[4] == 2
        await shop.close()

    run(main())
    assert charges(path) == [0, 4]


@pytest.mark.parametrize(
    "end",
    [
        lambda db: db.commit(),
        lambda db: db.rollback(),
        lambda db: db.execute("COMMIT"),
        lambda db: db.execute("ROLLBACK TO anybroker"),
        lambda db: db.executescript("SELECT 1"),
        lambda db: db.__exit__(None, None, None),
    ],
    ids=["commit", "rollback", "COMMIT", "ROLLBACK TO", "executescript", "with"],
)
def test_a_function_that_ends_the_transaction_is_refused(
    shop: SqliteStore, path: Path, run: Run, end: Callable[[sqlite3.Connection], Any]
) -> None:
    def bad(db: sqlite3.Connection) -> None:
        charge(1)(db)
        end(db)

    async def main() -> None:
        await shop.open()
        for number in range(2):  # the second time the statements are prepared already
            claim = await claimed(shop, ("g", "h", "s", str(number)))
            with pytest.raises(
                ConfigError, match=r"the function ends the store's transaction .*Only execute statements"
            ):
                await shop.transaction(claim).run(bad)
        await shop.close()

    run(main())
    assert charges(path) == []


def test_a_conflict_that_rolls_everything_back_costs_the_others_nothing(
    shop: SqliteStore, path: Path, run: Run
) -> None:
    def clash(db: sqlite3.Connection) -> None:
        db.execute("INSERT OR ROLLBACK INTO anybroker_idempotency(rowid, version) VALUES (1, 1)")

    async def main() -> None:
        await shop.open()
        claims = [await claimed(shop, ("g", "h", "s", str(n))) for n in range(4)]
        results = await asyncio.gather(
            shop.transaction(claims[0]).run(charge(0)),
            shop.transaction(claims[1]).run(clash),
            shop.done(claims[3]),
            shop.transaction(claims[2]).run(charge(2)),
            return_exceptions=True,
        )
        assert isinstance(results[1], sqlite3.IntegrityError)
        assert [results[0], *results[2:]] == [1, True, 2]
        assert await shop.claim(claims[3].key, "b", 20.0, 60.0) is DONE
        await shop.close()

    run(main())
    assert charges(path) == [0, 2]


def test_a_full_disk_is_a_store_that_is_down(shop: SqliteStore, path: Path, run: Run) -> None:
    def much(db: sqlite3.Connection) -> None:
        db.execute("INSERT INTO charge SELECT zeroblob(1000000) FROM json_each('[1, 2, 3]')")

    async def main() -> None:
        await shop.open()
        claim = await claimed(shop)
        await shop.transaction(claim).run(lambda db: db.execute("PRAGMA max_page_count = 30").fetchone()[0])
        with pytest.raises(StoreUnavailable, match="database or disk is full"):
            await shop.transaction(claim).run(much)
        await shop.transaction(claim).run(charge(1))  # on a new connection, without the limit
        await shop.close()

    run(main())
    assert charges(path) == [1]


def test_a_function_may_have_savepoints_of_its_own(shop: SqliteStore, path: Path, run: Run) -> None:
    def book(db: sqlite3.Connection) -> None:
        charge(1)(db)
        db.execute("SAVEPOINT mine")
        charge(2)(db)
        db.execute("ROLLBACK TO mine")
        db.execute("RELEASE mine")

    async def main() -> None:
        await shop.open()
        await shop.transaction(await claimed(shop)).run(book)
        await shop.close()

    run(main())
    assert charges(path) == [1]


def test_from_a_thread(shop: SqliteStore, path: Path, run: Run) -> None:
    async def main() -> None:
        await shop.open()
        transaction: SqliteTransaction = shop.transaction(await claimed(shop))
        assert await asyncio.to_thread(transaction.run_from_thread, charge(7)) == 1
        with pytest.raises(StateError, match=r"Use 'await transaction\.run"):
            transaction.run_from_thread(charge(8))
        await shop.close()

    run(main())
    assert charges(path) == [7]


@pytest.mark.parametrize("damage", ["deleted", "replaced", "emptied"])
def test_a_file_that_is_gone_while_it_is_open_is_a_store_that_is_down(path: Path, run: Run, damage: str) -> None:
    async def main() -> None:
        store = SqliteStore(path, busy_timeout=0.05)
        await store.open()
        await store.done(await claimed(store))
        match damage:
            case "deleted":
                for name in (path, Path(f"{path}-wal"), Path(f"{path}-shm")):
                    name.unlink()
            case "replaced":
                other = path.with_name("other.db")
                other.write_bytes(b"")
                other.replace(path)
            case _:
                os.truncate(path, 0)
        with pytest.raises(StoreUnavailable, match=r"store\.db"):
            await store.claim(KEY, "b", 20.0, 60.0)
        for _ in range(3):  # by a connection that is opened again: a new file would know of nothing
            try:
                assert await store.claim(KEY, "b", 20.0, 60.0) is DONE  # its log had all that the file has lost
            except StoreUnavailable:
                continue
            assert damage == "emptied"
        await store.close()

    run(main())
