"""Handlers whose writes are in the store's database: one commit with the mark, or none."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import psycopg
import pytest

from anybroker import Bus, MemoryBroker, StateError
from anybroker.errors import ConfigError
from anybroker.idempotency import DONE, Busy, Claim, MemoryStore, StoreUnavailable, Transaction
from anybroker.middleware import dead_letter, idempotent, retry
from anybroker.testing import Recorder, settled
from anybroker_postgres import PostgresTransaction

from .shop import INSERT, LEASE, RETAIN, Shop

Run = Callable[[Coroutine[Any, Any, None]], None]


# ------------------------------------------------------------------------------------------------ with a Bus


def test_a_handler_that_fails_behind_its_effect_has_it_once(run: Run, shop: Shop) -> None:
    recorder = Recorder(shop.bus, "charged")

    async def charge(number: int, transaction: PostgresTransaction) -> None:
        shop.starts.append(number)
        await transaction.execute(INSERT, (number,))
        await shop.bus.publish("charged", number, type="charged.v1")
        if len(shop.starts) == 1:
            raise OSError("crash")

    async def main() -> None:
        shop.handle(charge)
        async with shop.bus:
            await shop.publish(7, 7)
            await settled(shop.bus)
            # The publish is outside of the transaction, under the same id.
            assert [event.data for event in recorder.events] == [7, 7]
            assert len({event.id for event in recorder.events}) == 1

    run(main())
    assert shop.starts == [7, 7]
    assert shop.charges() == [7]


def test_many_handlers_at_once_share_a_small_pool(run: Run, server: Any) -> None:
    """None fails because all connections are taken, however long they are."""
    shop = Shop(server, pool=2, timeout=1.0)

    async def charge(number: int, transaction: PostgresTransaction) -> None:
        shop.starts.append(number)
        await transaction.execute(INSERT, (number,))
        await asyncio.sleep(0.03)
        if number % 10 == 3 and shop.starts.count(number) == 1:
            raise OSError("now and then")

    async def main() -> None:
        shop.handle(charge)
        async with shop.bus:
            await shop.publish(*range(100), *range(100))
            await settled(shop.bus, deadline=30)
            assert shop.stats.postponed == 0 or shop.stats.retried == 10
            used = server.sql(
                "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%%charge%%' AND pid <> pg_backend_pid()"
            )
            assert used[0][0] <= 2

    run(main())
    assert shop.charges() == list(range(100))


@pytest.mark.parametrize("isolation", ["SERIALIZABLE", "REPEATABLE READ"])
def test_serialization_failures_are_attempts_that_do_not_count(run: Run, shop: Shop, isolation: str) -> None:
    async def charge(number: int, transaction: PostgresTransaction) -> None:
        shop.starts.append(number)
        connection = await transaction.connection()
        await connection.execute(f"SET TRANSACTION ISOLATION LEVEL {isolation}".encode())
        cursor = await connection.execute("SELECT cents FROM account WHERE id = 1")
        row = await cursor.fetchone()
        assert row is not None
        await asyncio.sleep(0.01)
        await connection.execute("UPDATE account SET cents = %s WHERE id = 1", (row[0] + 1,))

    async def main() -> None:
        shop.handle(charge, retry(attempts=1), dead_letter())
        async with shop.bus:
            await shop.publish(*range(12))
            await settled(shop.bus, deadline=40)
            assert shop.stats.dead_lettered == shop.stats.retried == 0
            assert shop.stats.postponed > 0

    run(main())
    assert shop.server.sql("SELECT cents FROM account WHERE id = 1") == [(12,)]


def test_deadlocks_are_attempts_that_do_not_count(run: Run, shop: Shop) -> None:
    both = asyncio.Barrier(2)

    async def charge(number: int, transaction: PostgresTransaction) -> None:
        shop.starts.append(number)
        first, second = (1, 2) if number == 1 else (2, 1)
        await transaction.execute("UPDATE account SET cents = cents + 1 WHERE id = %s", (first,))
        if len(shop.starts) <= 2:
            await both.wait()
        await transaction.execute("UPDATE account SET cents = cents + 1 WHERE id = %s", (second,))

    async def main() -> None:
        shop.handle(charge, retry(attempts=1), dead_letter())
        async with shop.bus:
            await shop.publish(1, 2)
            await settled(shop.bus, deadline=30)
            assert shop.stats.dead_lettered == 0
            assert shop.stats.postponed == 1

    run(main())
    assert shop.server.sql("SELECT cents FROM account") == [(2,), (2,)]
    assert len(shop.starts) == 3


def test_a_server_that_ends_under_a_handler_is_an_outage_and_no_attempt(run: Run, shop: Shop) -> None:
    async def charge(number: int, transaction: PostgresTransaction) -> None:
        shop.starts.append(number)
        connection = await transaction.connection()
        await connection.execute(INSERT, (number,))
        if len(shop.starts) == 1:
            await asyncio.to_thread(shop.server.sql, "SELECT pg_terminate_backend(%s)", (connection.info.backend_pid,))
        await connection.execute(INSERT, (-number,))

    async def main() -> None:
        shop.handle(charge, retry(attempts=1), dead_letter())
        async with shop.bus:
            await shop.publish(7)
            await settled(shop.bus)
            assert shop.stats.dead_lettered == 0
            assert shop.stats.postponed == 1

    run(main())
    assert shop.charges() == [-7, 7]
    assert shop.starts == [7, 7]


def test_a_statement_of_the_handler_that_fails_is_its_own_failure(run: Run, shop: Shop) -> None:
    async def charge(number: int, transaction: PostgresTransaction) -> None:
        shop.starts.append(number)
        await transaction.execute(INSERT, (number,))
        await transaction.execute("INSERT INTO account VALUES (1, 0)")

    async def main() -> None:
        shop.handle(charge, retry(attempts=2, first=0.001), dead_letter())
        async with shop.bus:
            await shop.publish(7)
            await settled(shop.bus)
            (letter,) = await shop.bus.dead_letters("orders", "billing").list()
            assert "UniqueViolation" in letter.error

    run(main())
    assert shop.starts == [7, 7]
    assert shop.charges() == []


def test_what_fails_at_the_commit_only_is_the_handlers_failure(run: Run, shop: Shop) -> None:
    """A deferred constraint."""

    async def charge(number: int, transaction: PostgresTransaction) -> None:
        shop.starts.append(number)
        await transaction.execute(INSERT, (number,))
        if len(shop.starts) < 3:
            await transaction.execute(INSERT, (number,))

    async def main() -> None:
        shop.handle(charge)
        async with shop.bus:
            await shop.publish(7)
            await settled(shop.bus)
            assert shop.stats.retried == 2

    run(main())
    assert shop.starts == [7, 7, 7]
    assert shop.charges() == [7]


def test_a_handler_without_writes_begins_nothing(run: Run, shop: Shop) -> None:
    async def charge(number: int, transaction: PostgresTransaction) -> None:
        shop.starts.append(number)

    async def main() -> None:
        shop.handle(charge)
        async with shop.bus:
            await shop.publish(7, 7)
            await settled(shop.bus)
            assert shop.store._pool is not None
            assert shop.store._pool._free == []

    run(main())
    assert shop.starts == [7]


def test_a_handler_that_is_cancelled_in_a_statement_frees_its_connection(run: Run, shop: Shop) -> None:
    async def charge(number: int, transaction: PostgresTransaction) -> None:
        shop.starts.append(number)
        await transaction.execute(INSERT, (number,))
        if len(shop.starts) == 1:
            async with asyncio.timeout(0.05):
                await transaction.execute("SELECT pg_sleep(30)")

    async def main() -> None:
        shop.handle(charge)
        async with shop.bus:
            await shop.publish(7)
            await settled(shop.bus)

    run(main())
    assert shop.starts == [7, 7]
    assert shop.charges() == [7]


async def leave(connection: Any) -> None:
    async with connection:
        pass


@pytest.mark.parametrize("call", ["commit", "rollback", "close", "set_autocommit", "with"])
def test_a_handler_cannot_end_the_transaction_by_the_connection(run: Run, shop: Shop, call: str) -> None:
    async def charge(number: int, transaction: PostgresTransaction) -> None:
        connection = await transaction.connection()
        await connection.execute(INSERT, (number,))
        ending = {"set_autocommit": lambda: connection.set_autocommit(False), "with": lambda: leave(connection)}
        with pytest.raises(StateError, match="the store commits together with its mark"):
            await ending.get(call, lambda: getattr(connection, call)())()
        shop.starts.append(number)
        await connection.execute(INSERT, (-number,))

    async def main() -> None:
        shop.handle(charge)
        async with shop.bus:
            await shop.publish(7)
            await settled(shop.bus)

    run(main())
    assert shop.charges() == [-7, 7]


@pytest.mark.parametrize("statements", [["COMMIT"], ["ROLLBACK"], ["COMMIT", "BEGIN"], ["COMMIT AND CHAIN"]])
def test_a_handler_that_ends_the_transaction_by_a_statement_is_found_out(
    run: Run, shop: Shop, statements: list[str]
) -> None:
    async def charge(number: int, transaction: PostgresTransaction) -> None:
        shop.starts.append(number)
        await transaction.execute(INSERT, (number,))
        for statement in statements:
            await transaction.execute(statement.encode())

    async def main() -> None:
        shop.handle(charge, retry(attempts=1), dead_letter())
        async with shop.bus:
            await shop.publish(7)
            await settled(shop.bus)
            (letter,) = await shop.bus.dead_letters("orders", "billing").list()
            assert "the handler has ended the transaction of its event" in letter.error

    run(main())
    assert shop.server.sql("SELECT done FROM anybroker_claim WHERE until = '-infinity'") == [(False,)]


def test_a_handler_that_swallows_an_error_of_the_database_is_found_out(run: Run, shop: Shop) -> None:
    async def charge(number: int, transaction: PostgresTransaction) -> None:
        shop.starts.append(number)
        await transaction.execute(INSERT, (number,))
        if len(shop.starts) == 1:
            with pytest.raises(psycopg.errors.UndefinedTable):
                await transaction.execute("SELECT * FROM nowhere")

    async def main() -> None:
        shop.handle(charge)
        async with shop.bus:
            await shop.publish(7)
            await settled(shop.bus)
            assert shop.stats.retried == 1

    run(main())
    assert shop.charges() == [7]


async def part(connection: Any, number: int) -> None:
    async with connection.transaction():
        await connection.execute(INSERT, (number,))
        await connection.execute("SELECT * FROM nowhere")


def test_savepoints_undo_a_part(run: Run, shop: Shop) -> None:
    async def charge(number: int, transaction: PostgresTransaction) -> None:
        connection = await transaction.connection()
        await connection.execute(INSERT, (number,))
        with pytest.raises(psycopg.errors.UndefinedTable):
            await part(connection, number + 1)
        await connection.execute(INSERT, (number + 2,))

    async def main() -> None:
        shop.handle(charge)
        async with shop.bus:
            await shop.publish(7)
            await settled(shop.bus)

    run(main())
    assert shop.charges() == [7, 9]


def test_the_base_class_may_be_asked_for_and_another_stores_is_refused(run: Run, shop: Shop) -> None:
    got: list[Transaction] = []

    async def charge(number: int, transaction: Transaction) -> None:
        got.append(transaction)

    class OtherTransaction(Transaction):
        pass

    async def other(number: int, transaction: OtherTransaction) -> None: ...

    other.__annotations__["transaction"] = OtherTransaction

    async def main() -> None:
        shop.handle(charge)
        async with shop.bus:
            await shop.publish(7)
            await settled(shop.bus)
        assert isinstance(got[0], PostgresTransaction)
        bus = Bus(MemoryBroker(), source="shop")
        bus.subscribe("orders", group="billing")(idempotent(shop.store)(other))
        with pytest.raises(ConfigError, match="the handler's PostgresStore has a PostgresTransaction"):
            await bus.start()

    run(main())


def test_a_parameter_may_be_the_connection_itself(run: Run, shop: Shop) -> None:
    async def charge(number: int, connection: psycopg.AsyncConnection[Any]) -> None:
        shop.starts.append(number)
        await connection.execute(INSERT, (number,))
        if len(shop.starts) == 1:
            raise OSError("crash")

    async def other(number: int, *, connection: psycopg.AsyncConnection) -> None:  # type: ignore[type-arg]
        await connection.execute(INSERT, (-number,))

    async def main() -> None:
        shop.handle(charge)
        shop.bus.subscribe("orders", group="other")(idempotent(shop.store)(other))
        async with shop.bus:
            await shop.publish(7, 7)
            await settled(shop.bus)

    run(main())
    assert shop.charges() == [-7, 7]
    assert shop.starts == [7, 7]


def test_the_connection_itself_needs_idempotent_and_this_store(run: Run, shop: Shop) -> None:
    async def charge(number: int, connection: psycopg.AsyncConnection[Any]) -> None: ...

    async def main() -> None:
        for layers, text in (
            ((), r"asks for a transaction, and has no @idempotent\(store\)"),
            (
                (idempotent(MemoryStore()),),
                "asks for the AsyncConnection of a PostgresTransaction, and the handler's MemoryStore has none",
            ),
        ):
            bus = Bus(MemoryBroker(), source="shop")
            function: Any = charge
            for layer in layers:
                function = layer(function)
            bus.subscribe("orders", group="billing")(function)
            with pytest.raises(ConfigError, match=text):
                await bus.start()

    run(main())


def test_a_plain_def_handler_writes_from_its_thread(run: Run, shop: Shop) -> None:
    def charge(number: int, transaction: PostgresTransaction) -> None:
        assert transaction.execute_from_thread(INSERT, (number,)) == []
        shop.starts.append(number)
        if len(shop.starts) == 1:
            raise OSError("crash")
        assert transaction.execute_from_thread("SELECT number FROM charge") == [(number,)]

    async def main() -> None:
        shop.handle(charge)
        async with shop.bus:
            await shop.publish(7, 7)
            await settled(shop.bus)
        await shop.store.open()
        claim = await shop.claim()
        with pytest.raises(StateError, match="called in an event loop's thread"):
            shop.store.transaction(claim).execute_from_thread("SELECT 1")
        await shop.store.close()

    run(main())
    assert shop.starts == [7, 7]
    assert shop.charges() == [7]


# ------------------------------------------------------------------------------------------------ without a Bus


def test_a_claim_that_was_taken_over_rolls_back(run: Run, shop: Shop) -> None:
    async def main() -> None:
        await shop.store.open()
        late = await shop.claim()
        await shop.store.transaction(late).execute(INSERT, (1,))
        shop.server.pass_(LEASE)
        second = await shop.claim(owner="b")
        await shop.store.transaction(second).execute(INSERT, (2,))
        assert await shop.store.done(late) is False
        assert shop.charges() == []
        assert await shop.store.done(second) is True
        assert await shop.store.done(second) is True
        assert await shop.store.done(late) is False
        with pytest.raises(StateError, match="the transaction is over"):
            await shop.store.transaction(late).execute(INSERT, (3,))
        await shop.store.close()

    run(main())
    assert shop.charges() == [2]


def test_a_commit_whose_outcome_was_lost_is_looked_up(run: Run, shop: Shop) -> None:
    """Committed: True, and never again. Not committed: False, and the event can be had at once."""

    async def main() -> None:
        await shop.store.open()
        for key, committed in (("1", True), ("2", False)):
            claim = await shop.claim(key)
            transaction = shop.store.transaction(claim)
            await transaction.execute(INSERT, (int(key),))
            connection: Any = transaction._connection
            commit = connection.commit

            async def lose(connection: Any = connection, commit: Any = commit, committed: bool = committed) -> None:
                if committed:
                    await commit()
                connection.cut()
                await connection.execute("SELECT 1")

            connection.commit = lose
            with pytest.raises(StoreUnavailable, match="committing a handler's transaction"):
                await shop.store.done(claim)
            assert await shop.store.done(claim) is committed
            again = await shop.store.claim(claim.key, "b", LEASE, RETAIN)
            assert (again is DONE) if committed else isinstance(again, Claim)
        await shop.store.close()

    run(main())
    assert shop.charges() == [1]


def test_a_commit_that_is_still_under_way_is_waited_for(run: Run, shop: Shop) -> None:
    """The old session has written the mark and not committed yet when the outcome is asked for."""

    async def main() -> None:
        await shop.store.open()
        claim = await shop.claim()
        transaction = shop.store.transaction(claim)
        await transaction.execute(INSERT, (1,))
        connection: Any = transaction._connection
        commit = connection.commit
        moved: list[Any] = []

        async def lose() -> None:  # the client's side is lost, and the server's goes on
            moved.append(connection)
            raise psycopg.OperationalError("the connection was lost")

        connection.commit = lose
        give_back = transaction._pool.give_back

        async def keep(connection: Any, *, usable: bool) -> None: ...

        transaction._pool.give_back = keep  # type: ignore[method-assign]
        with pytest.raises(StoreUnavailable):
            await shop.store.done(claim)
        asking = asyncio.create_task(shop.store.done(claim))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(asking), 0.2)
        await commit()
        assert await asking is True
        await give_back(connection, usable=False)
        await shop.store.close()

    run(main())
    assert shop.charges() == [1]


def test_a_handlers_session_that_freezes_ends_in_time(run: Run, server: Any) -> None:
    shop = Shop(server, timeout=0.7)
    if not server.broker.can_restart:
        pytest.skip("the server is given by URL: it cannot be stopped")

    async def main() -> None:
        await shop.store.open()
        claim = await shop.claim()
        await shop.store.transaction(claim).execute(INSERT, (1,))
        loop = asyncio.get_running_loop()
        server.broker.freeze()
        try:
            begun = loop.time()
            with pytest.raises(StoreUnavailable):
                await shop.store.done(claim)
            with pytest.raises(StoreUnavailable):
                await shop.store.done(claim)
            with pytest.raises(StoreUnavailable):
                await shop.store.release(claim)
            assert loop.time() - begun < 4.0
        finally:
            server.broker.thaw()
        async with asyncio.timeout(20):
            while True:
                try:
                    committed = await shop.store.done(claim)
                    break
                except StoreUnavailable:
                    await asyncio.sleep(0.02)
        assert await asyncio.to_thread(shop.charges) == ([1] if committed else [])
        await shop.store.close()

    run(main())


def test_a_claim_that_is_just_committed_is_not_reported_as_lost(run: Run, shop: Shop) -> None:
    """Nor does extending others wait for it."""

    async def main() -> None:
        await shop.store.open()
        claim, other = await shop.claim("1"), await shop.claim("2")
        transaction = shop.store.transaction(claim)
        await transaction.execute(INSERT, (1,))
        connection: Any = transaction._connection
        commit = connection.commit
        seen: list[Any] = []

        async def slow() -> None:
            seen.append(await asyncio.wait_for(shop.store.extend([claim, other]), 2.0))
            await commit()
            seen.append(await shop.store.extend([claim]))

        connection.commit = slow
        assert await shop.store.done(claim) is True
        assert seen == [[True, True], [True]]
        await shop.store.close()

    run(main())


def test_closing_the_store_ends_what_is_lent_when_it_comes_back(run: Run, shop: Shop) -> None:
    async def main() -> None:
        await shop.store.open()
        claim = await shop.claim()
        transaction = shop.store.transaction(claim)
        connection = await transaction.connection()
        await shop.store.close()
        assert not connection.closed
        await transaction.roll_back()
        assert connection.closed
        assert isinstance(claim, Claim)
        await shop.store.open()
        assert isinstance(await shop.store.claim(claim.key, "a", LEASE, RETAIN), Busy)
        await shop.store.close()

    run(main())
