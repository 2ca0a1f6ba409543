"""A server that is away, slow, frozen, restarted, read-only, full: calls end in time and say why, and it comes back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import psycopg
import pytest

from anybroker.idempotency import Busy, Claim, Key, StoreUnavailable
from anybroker_postgres import PostgresStore

Run = Callable[[Coroutine[Any, Any, None]], None]
KEY: Key = ("billing", "charge", "shop", "1")
LEASE, RETAIN = 20.0, 3_600.0


@asynccontextmanager
async def opened(store: PostgresStore) -> AsyncIterator[PostgresStore]:
    await store.open()
    try:
        yield store
    finally:
        await store.close()


async def claimed(store: PostgresStore, key: Key = KEY, owner: str = "a", lease: float = LEASE) -> Claim:
    claim = await store.claim(key, owner, lease, RETAIN)
    assert isinstance(claim, Claim)
    return claim


async def in_time(call: Coroutine[Any, Any, Any], seconds: float) -> str:
    """What StoreUnavailable the call ends with, within these seconds."""
    begun = time.monotonic()
    with pytest.raises(StoreUnavailable) as caught:
        await asyncio.wait_for(call, 30)
    took = time.monotonic() - begun
    assert took < seconds, f"it took {took:.1f} s"
    return str(caught.value)


async def until_claimed(store: PostgresStore, key: Key = KEY, owner: str = "a") -> Claim:
    """Ask until the store is back and the claim is ours; 20 seconds at most."""
    async with asyncio.timeout(20):
        while True:
            try:
                claim = await store.claim(key, owner, LEASE, RETAIN)
            except StoreUnavailable:
                claim = None
            if isinstance(claim, Claim):
                return claim
            await asyncio.sleep(0.02)


@contextmanager
def restartable(server: Any) -> Iterator[Any]:
    """The server, for tests that end it; it runs again afterwards."""
    if not server.broker.can_restart:
        pytest.skip("the server is given by URL: it cannot be stopped")
    yield server.broker


def test_a_frozen_server_is_cut_off_in_time_and_used_again(server: Any, run: Run) -> None:
    async def main() -> None:
        with restartable(server) as broker:
            async with opened(server.store(timeout=0.7)) as store:
                held = await claimed(store)
                broker.freeze()
                try:
                    claiming, marking, extending = await asyncio.gather(
                        in_time(store.claim(("g", "h", "s", "1"), "a", LEASE, RETAIN), 1.5),
                        in_time(store.done(held), 1.5),
                        in_time(store.extend([held]), 1.5),
                    )
                    assert "did not answer within 0.7 s" in claiming
                    assert claiming == marking == extending
                    again = await in_time(store.claim(("g", "h", "s", "2"), "a", LEASE, RETAIN), 1.5)
                    assert "no connection within 0.7 s" in again
                finally:
                    broker.thaw()
                await until_claimed(store, ("g", "h", "s", "3"))
                async with asyncio.timeout(20):
                    while True:
                        try:
                            assert await store.done(held) is True
                            break
                        except StoreUnavailable:
                            await asyncio.sleep(0.02)

    run(main())


def test_a_frozen_server_keeps_close_no_longer_than_the_timeout(server: Any, run: Run) -> None:
    async def main() -> None:
        with restartable(server) as broker:
            store = server.store(timeout=0.7)
            await store.open()
            held = await claimed(store)
            broker.freeze()
            try:
                marking = asyncio.create_task(store.done(held))
                await asyncio.sleep(0)
                begun = time.monotonic()
                await store.close()
                assert time.monotonic() - begun < 1.5
                with pytest.raises(StoreUnavailable):
                    await marking
            finally:
                broker.thaw()

    run(main())


@pytest.mark.parametrize("how", ["killed", "restarted"])
def test_a_server_that_ended_is_said_to_be_away_and_found_again(server: Any, run: Run, how: str) -> None:
    async def main() -> None:
        with restartable(server) as broker:
            async with opened(server.store(timeout=2.0)) as store:
                held = await claimed(store)
                if how == "killed":
                    await asyncio.to_thread(broker.kill)
                    refused = await in_time(store.claim(("g", "h", "s", "1"), "a", LEASE, RETAIN), 2.5)
                    assert "refused" in refused.lower()
                    assert "refused" in (await in_time(store.done(held), 2.5)).lower()
                    await asyncio.to_thread(broker.start)
                else:
                    await asyncio.to_thread(broker.restart)
                    # Connections that ended meanwhile are not the callers' problem.
                    await claimed(store, ("g", "h", "s", "1"))
                assert await store.done(held) is True
                later = await claimed(store, ("g", "h", "s", "2"))
                assert later.fence > held.fence

    run(main())


def test_a_claim_whose_answer_was_lost_can_be_had_at_once(server: Any, run: Run) -> None:
    """The server made it, and the connection ended before it said so: the next one releases it."""

    async def main() -> None:
        async with opened(server.store()) as store:
            held = await claimed(store, ("g", "h", "s", "mine"))
            await claimed(store)
            run_batch = store._claims._run

            async def lose(connection: Any, jobs: Any) -> None:
                class Stop(Exception):
                    pass

                def stop(*_: Any) -> None:
                    raise Stop

                store._claims._run = run_batch
                claiming = run_batch.__self__
                claiming._grant = stop
                try:
                    await run_batch(connection, jobs)
                except Stop:
                    connection.cut()
                    await connection.execute("SELECT 1")
                finally:
                    del claiming._grant

            store._claims._run = lose
            claim = await store.claim(("g", "h", "s", "lost"), "a", LEASE, RETAIN)
            assert isinstance(claim, Claim)
            assert server.sql("SELECT count(*) FROM anybroker_claim WHERE owner = 'a'") == [(3,)]
            assert await store.extend([held, claim]) == [True, True]

    run(main())


def test_what_is_ours_is_not_released_when_a_later_claim_of_the_same_key_is_lost(server: Any, run: Run) -> None:
    async def main() -> None:
        async with opened(server.store()) as store:
            held = await claimed(store)
            run_batch = store._claims._run

            async def cut(connection: Any, jobs: Any) -> None:
                store._claims._run = run_batch
                connection.cut()
                await run_batch(connection, jobs)

            store._claims._run = cut
            assert isinstance(await store.claim(KEY, "a", LEASE, RETAIN), Busy)
            assert await store.done(held) is True

    run(main())


def test_a_statement_that_waits_too_long_is_given_up(server: Any, run: Run) -> None:
    async def main() -> None:
        async with opened(server.store(timeout=0.5)) as store:
            held = await claimed(store)
            with psycopg.connect(server.url) as holder:
                holder.execute(f"LOCK TABLE {server.schema}.anybroker_claim".encode())
                text = await in_time(store.claim(("g", "h", "s", "1"), "a", LEASE, RETAIN), 1.2)
                assert "0.5 s" in text or "longer than the store's timeout" in text
                await in_time(store.done(held), 1.2)
            await until_claimed(store, ("g", "h", "s", "1"))
            assert await store.done(held) is True

    run(main())


def test_a_row_that_somebody_holds_keeps_no_other_claim_waiting(server: Any, run: Run) -> None:
    """Such as a handler's transaction between its mark and its commit, on a machine that sleeps."""

    async def main() -> None:
        async with opened(server.store(timeout=2.0)) as store:
            await claimed(store)
            ended = await claimed(store, ("g", "h", "s", "ended"), lease=0.001)
            with psycopg.connect(server.url) as holder:
                holder.execute(f"UPDATE {server.schema}.anybroker_claim SET done = true".encode())
                copy, over, other = await asyncio.wait_for(
                    asyncio.gather(
                        store.claim(KEY, "b", LEASE, RETAIN),
                        store.claim(ended.key, "b", LEASE, RETAIN),
                        store.claim(("g", "h", "s", "1"), "b", LEASE, RETAIN),
                    ),
                    1.0,
                )
                assert isinstance(copy, Busy)
                assert isinstance(over, Busy)
                assert over.left == 0.0
                assert isinstance(other, Claim)
                holder.rollback()
            assert isinstance(await store.claim(ended.key, "b", LEASE, RETAIN), Claim)

    run(main())


def test_a_server_that_became_read_only_is_said_to_be(server: Any, run: Run, until: Any) -> None:
    async def main() -> None:
        async with opened(server.store(timeout=2.0)) as store:
            held = await claimed(store)
            server.sql("ALTER SYSTEM SET default_transaction_read_only = on")
            try:
                server.sql("SELECT pg_reload_conf()")
                await until(lambda: server.sql("SHOW default_transaction_read_only") == [("on",)])
                text = await in_time(store.claim(("g", "h", "s", "1"), "a", LEASE, RETAIN), 3.0)
                assert "it is read-only" in text
                assert "read-only" in await in_time(store.done(held), 3.0)
            finally:
                with psycopg.connect(server.url, autocommit=True) as connection:
                    connection.execute("SET default_transaction_read_only = off")
                    connection.execute("ALTER SYSTEM RESET default_transaction_read_only")
                    connection.execute("SELECT pg_reload_conf()")
            await until_claimed(store, ("g", "h", "s", "1"))
            assert await store.done(held) is True

    run(main())


def failing(server: Any, code: str, times: int) -> None:
    """Writes to the table fail with this error so often."""
    server.sql(f"CREATE SEQUENCE {server.schema}.failures")
    server.sql(
        f"CREATE FUNCTION {server.schema}.fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        f"IF nextval('{server.schema}.failures') <= {times} THEN RAISE EXCEPTION 'it failed' USING ERRCODE = '{code}'; "
        "END IF; RETURN NULL; END $$"
    )
    server.sql(f"CREATE TRIGGER fail AFTER INSERT OR UPDATE ON anybroker_claim EXECUTE FUNCTION {server.schema}.fail()")


@pytest.mark.parametrize(("code", "says"), [("53100", "its disk is full"), ("53200", "no memory"), ("XX000", "failed")])
def test_a_server_that_cannot_write_is_unavailable(server: Any, run: Run, code: str, says: str) -> None:
    async def main() -> None:
        async with opened(server.store()) as store:
            held = await claimed(store)
            failing(server, code, 2)
            assert says in await in_time(store.claim(("g", "h", "s", "1"), "a", LEASE, RETAIN), 1.0)
            assert says in await in_time(store.done(held), 1.0)
            await claimed(store, ("g", "h", "s", "1"))
            assert await store.done(held) is True

    run(main())


@pytest.mark.parametrize("code", ["40001", "40P01"])
def test_conflicts_are_tried_again(server: Any, run: Run, code: str) -> None:
    async def main() -> None:
        async with opened(server.store()) as store:
            held = await claimed(store)
            failing(server, code, 2)
            await claimed(store, ("g", "h", "s", "1"))
            server.sql("SELECT setval('failures', 1)")
            assert await store.done(held) is True
            server.sql("SELECT setval('failures', 1, false)")
            server.sql(
                f"CREATE OR REPLACE FUNCTION {server.schema}.fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
                f"RAISE EXCEPTION 'it failed' USING ERRCODE = '{code}'; END $$"
            )
            assert "it failed" in await in_time(store.claim(("g", "h", "s", "2"), "a", LEASE, RETAIN), 2.0)

    run(main())


def test_tables_that_are_gone_are_an_outage_and_no_failure_of_the_event(server: Any, run: Run) -> None:
    async def main() -> None:
        async with opened(server.store()) as store:
            await claimed(store)
            server.sql("ALTER TABLE anybroker_claim RENAME TO other")
            assert "the tables are gone" in await in_time(store.claim(("g", "h", "s", "1"), "a", LEASE, RETAIN), 1.0)
            server.sql("ALTER TABLE other RENAME TO anybroker_claim")
            await claimed(store, ("g", "h", "s", "1"))

    run(main())


def test_no_connection_left_is_said(server: Any, run: Run, role: Callable[[], str]) -> None:
    name = role()
    server.sql(f"CREATE SCHEMA {server.schema} AUTHORIZATION {name}")
    server.sql(f"ALTER ROLE {name} CONNECTION LIMIT 1")

    async def main() -> None:
        store = PostgresStore(server.url, schema=server.schema)
        store._target.parameters.update(user=name, password=name)
        async with opened(store):
            assert "too many connections for role" in await in_time(store.claim(KEY, "a", LEASE, RETAIN), 1.0)
            server.sql(f"ALTER ROLE {name} CONNECTION LIMIT 5")
            await claimed(store)

    run(main())
