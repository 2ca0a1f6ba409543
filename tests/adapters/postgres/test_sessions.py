"""Handlers that ask for a connection or a session of their client library: it is in the store's transaction."""

from __future__ import annotations

import asyncio
import gc
import inspect
import threading
from collections.abc import Callable, Coroutine, Iterator
from itertools import count
from typing import Any

import psycopg
import pytest
import sqlalchemy
from sqlalchemy import insert, text, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from anybroker import StateError
from anybroker.middleware import dead_letter, idempotent, retry
from anybroker.testing import settled

from .shop import INSERT, Shop

Run = Callable[[Coroutine[Any, Any, None]], None]
Body = Callable[[int, Any], Coroutine[Any, Any, None]]


class Base(DeclarativeBase):
    pass


class Charge(Base):
    __tablename__ = "charge"
    number: Mapped[int] = mapped_column(primary_key=True)


class Account(Base):
    __tablename__ = "account"
    id: Mapped[int] = mapped_column(primary_key=True)
    cents: Mapped[int]


class ShopSession(AsyncSession):
    """An application's own."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, expire_on_commit=False, **options)


SESSIONS = [AsyncSession, Session]
CONNECTIONS = [psycopg.AsyncConnection, psycopg.Connection, AsyncConnection, sqlalchemy.Connection]
EVERY = [*SESSIONS, *CONNECTIONS, ShopSession, psycopg.Connection[Any]]


def of_each(*kinds: Any) -> Any:
    return pytest.mark.parametrize(
        "kind", kinds, ids=lambda kind: f"{kind.__module__.partition('.')[0]}-{kind.__name__}"
    )


def is_asynchronous(kind: Any) -> bool:
    return issubclass(getattr(kind, "__origin__", kind), psycopg.AsyncConnection | AsyncSession | AsyncConnection)


def handler(kind: Any, body: Body) -> Any:
    """A handler that asks for this. A plain ``def`` one runs the body, which must not wait, in its thread."""

    async def charge(number: int, given: Any) -> None:
        await body(number, given)

    def charge_in_thread(number: int, given: Any) -> None:
        with pytest.raises(StopIteration):
            body(number, given).send(None)

    function = charge if is_asynchronous(kind) else charge_in_thread
    function.__annotations__["given"] = kind
    return function


async def done(result: Any) -> Any:
    """What a call returns, asynchronous or not."""
    return await result if inspect.isawaitable(result) else result


async def write(given: Any, number: int) -> None:
    if isinstance(given, AsyncSession | Session):
        given.add(Charge(number=number))
    elif isinstance(given, psycopg.AsyncConnection | psycopg.Connection):
        await done(given.execute(INSERT, (number,)))
    else:
        await done(given.execute(insert(Charge).values(number=number)))


def statement(given: Any, sql: str) -> Any:
    return sql if isinstance(given, psycopg.AsyncConnection | psycopg.Connection) else text(sql)


async def execute(given: Any, sql: str) -> None:
    await done(given.execute(statement(given, sql)))


async def publish(shop: Shop, kind: Any, number: int) -> None:
    """As such a handler does."""
    calls: Any = shop.bus if is_asynchronous(kind) else shop.bus.from_thread
    await done(calls.publish("charged", number, type="charged.v1"))


def serve(run: Run, shop: Shop, kind: Any, body: Body, *numbers: int, layers: Any = (), check: Any = None) -> None:
    """Handle these events."""

    async def main() -> None:
        shop.handle(handler(kind, body), *layers)
        async with shop.bus:
            await shop.publish(*numbers)
            await settled(shop.bus, deadline=40)
            if check is not None:
                await done(check())

    run(main())


# ------------------------------------------------------------------------------------------------- one transaction


@of_each(*EVERY)
def test_effect_mark_and_event_are_one_commit(run: Run, server: Any, kind: Any) -> None:
    shop = Shop(server, outbox=True)
    seen: list[Any] = []

    async def charge(number: int, given: Any) -> None:
        shop.starts.append(number)
        await publish(shop, kind, number)
        await write(given, number)
        if hasattr(given, "flush"):
            await done(given.flush())
        seen.append((shop.charges(), shop.outgoing(), shop.server.sql("SELECT done FROM anybroker_claim")))
        if len(shop.starts) == 1:
            raise OSError("crash")

    serve(run, shop, kind, charge, 7, 7)
    assert seen == [([], [], [(False,)])] * 2
    assert shop.starts == [7, 7]
    assert shop.charges() == [7]
    assert len(shop.outgoing()) == 1
    assert server.sql("SELECT done FROM anybroker_claim") == [(True,)]


@of_each(*EVERY)
def test_nothing_stays_of_a_handler_that_fails_for_good(run: Run, server: Any, kind: Any) -> None:
    shop = Shop(server, outbox=True)

    async def charge(number: int, given: Any) -> None:
        await write(given, number)
        if hasattr(given, "flush"):
            await done(given.flush())
        await publish(shop, kind, number)
        raise OSError("crash")

    layers = (retry(attempts=2, first=0.001), dead_letter())
    serve(run, shop, kind, charge, 7, layers=layers, check=lambda: shop.starts.append(shop.stats.dead_lettered))
    assert shop.starts == [1]
    assert shop.charges() == shop.outgoing() == []


@of_each(*EVERY)
def test_it_is_the_session_in_which_the_mark_is_made(run: Run, server: Any, kind: Any) -> None:
    """With a pool of one connection there is no other, and the setting of the transaction shows there."""
    shop = Shop(server, pool=1)
    found: list[Any] = []

    async def charge(number: int, given: Any) -> None:
        await write(given, number)
        rows = await done(given.execute(statement(given, "SELECT current_setting('anybroker.claim')")))
        found.append((await done(rows.fetchone()))[0])

    serve(run, shop, kind, charge, 1, 2, 3)
    fences = [str(fence) for (fence,) in server.sql("SELECT fence FROM anybroker_claim")]
    assert sorted(found) == sorted(fences)
    assert shop.charges() == [1, 2, 3]


def test_handlers_of_all_kinds_share_the_pool(run: Run, server: Any) -> None:
    """Also statements that the store's own connection prepares, by the same names."""
    shop = Shop(server, pool=2)
    base = count(0, 1000)

    async def main() -> None:
        for number, kind in enumerate(EVERY):
            first = next(base)

            async def charge(number: int, given: Any, first: int = first) -> None:
                await write(given, first + number)
                await execute(given, "SELECT 1")

            layers = (retry(attempts=1), dead_letter())
            function = handler(kind, charge)
            for layer in (idempotent(shop.store), *layers):
                function = layer(function)
            shop.bus.subscribe("orders", group=f"group{number}", ordered=False)(function)
        async with shop.bus:
            await shop.publish(*range(20))
            await settled(shop.bus, deadline=40)
            assert [each.stats.dead_lettered for each in shop.bus.subscriptions] == [0] * len(EVERY)

    run(main())
    assert shop.charges() == sorted(at * 1000 + number for at in range(len(EVERY)) for number in range(20))


# --------------------------------------------------------------------------------------------------- failures


@pytest.fixture
def both() -> Iterator[threading.Barrier]:
    barrier = threading.Barrier(2, timeout=20)
    yield barrier
    barrier.abort()


@pytest.mark.parametrize("late", [False, True], ids=["in the handler", "in the last flush"])
@of_each(*SESSIONS)
def test_a_deadlock_is_no_attempt(run: Run, shop: Shop, kind: Any, late: bool, both: threading.Barrier) -> None:
    async def charge(number: int, given: Any) -> None:
        shop.starts.append(number)
        first, second = (1, 2) if number == 1 else (2, 1)
        meet = len(shop.starts) <= 2
        await done(given.execute(update(Account).where(Account.id == first).values(cents=Account.cents + 1)))
        account = await done(given.get(Account, second))
        if meet:
            await (asyncio.to_thread(both.wait) if is_asynchronous(kind) else done(both.wait()))
        if late:  # what it holds back is written when it has returned
            account.cents = Account.cents + 1
        else:
            await done(given.execute(update(Account).where(Account.id == second).values(cents=Account.cents + 1)))

    def check() -> None:
        assert (shop.stats.dead_lettered, shop.stats.retried, shop.stats.postponed) == (0, 0, 1)

    serve(run, shop, kind, charge, 1, 2, layers=(retry(attempts=1), dead_letter()), check=check)
    assert shop.server.sql("SELECT cents FROM account") == [(2,), (2,)]
    assert len(shop.starts) == 3


@of_each(psycopg.Connection)
def test_a_deadlock_in_threads_is_no_attempt(run: Run, shop: Shop, kind: Any, both: threading.Barrier) -> None:
    async def charge(number: int, given: Any) -> None:
        shop.starts.append(number)
        meet = len(shop.starts) <= 2
        first, second = (1, 2) if number == 1 else (2, 1)
        given.execute("UPDATE account SET cents = cents + 1 WHERE id = %s", (first,))
        if meet:
            both.wait()
        given.execute("UPDATE account SET cents = cents + 1 WHERE id = %s", (second,))

    def check() -> None:
        assert (shop.stats.dead_lettered, shop.stats.retried, shop.stats.postponed) == (0, 0, 1)

    serve(run, shop, kind, charge, 1, 2, layers=(retry(attempts=1), dead_letter()), check=check)
    assert shop.server.sql("SELECT cents FROM account") == [(2,), (2,)]


@of_each(*CONNECTIONS)
def test_the_isolation_level_may_be_set_first(run: Run, shop: Shop, kind: Any) -> None:
    """Also in the first handler: what an engine asks the server is outside of it. Conflicts are no attempts."""
    levels: list[str] = []

    async def charge(number: int, given: Any) -> None:
        await execute(given, "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE")
        rows = await done(given.execute(statement(given, "SELECT cents FROM account WHERE id = 1")))
        (cents,) = await done(rows.fetchone())
        rows = await done(given.execute(statement(given, "SHOW transaction_isolation")))
        levels.append((await done(rows.fetchone()))[0])
        await execute(given, f"UPDATE account SET cents = {cents + 1} WHERE id = 1")

    def check() -> None:
        assert shop.stats.dead_lettered == shop.stats.retried == 0

    serve(run, shop, kind, charge, *range(8), layers=(retry(attempts=1), dead_letter()), check=check)
    assert shop.server.sql("SELECT cents FROM account WHERE id = 1") == [(8,)]
    assert set(levels) == {"serializable"}


@of_each(*EVERY)
def test_a_server_that_ends_is_an_outage(run: Run, shop: Shop, kind: Any) -> None:
    async def charge(number: int, given: Any) -> None:
        shop.starts.append(number)
        rows = await done(given.execute(statement(given, "SELECT pg_backend_pid()")))
        (pid,) = await done(rows.fetchone())
        if len(shop.starts) == 1:
            shop.server.sql("SELECT pg_terminate_backend(%s, 10000)", (pid,))
        await write(given, number)

    def check() -> None:
        assert (shop.stats.dead_lettered, shop.stats.retried, shop.stats.postponed) == (0, 0, 1)

    serve(run, shop, kind, charge, 7, layers=(retry(attempts=1), dead_letter()), check=check)
    assert shop.charges() == [7]
    assert shop.starts == [7, 7]


@of_each(*SESSIONS)
def test_a_flush_that_fails_after_the_handler_is_its_failure(run: Run, shop: Shop, kind: Any) -> None:
    shop.server.sql("ALTER TABLE charge ADD CHECK (number > 0)")

    async def charge(number: int, given: Any) -> None:
        shop.starts.append(number)
        await write(given, number if len(shop.starts) == 3 else -number)

    serve(run, shop, kind, charge, 7, check=lambda: shop.starts.append(shop.stats.retried))
    assert shop.starts == [7, 7, 7, 2]
    assert shop.charges() == [7]


@of_each(*SESSIONS)
def test_a_failure_that_the_handler_swallows_is_found_out(run: Run, shop: Shop, kind: Any) -> None:
    shop.server.sql("ALTER TABLE charge ADD CHECK (number > 0)")

    async def charge(number: int, given: Any) -> None:
        shop.starts.append(number)
        await write(given, number if len(shop.starts) == 2 else -number)
        try:
            await done(given.flush())
        except IntegrityError:
            shop.starts.append(-number)

    serve(run, shop, kind, charge, 7, check=lambda: shop.starts.append(shop.stats.retried))
    assert shop.charges() == []
    assert shop.starts[:2] == [7, -7]


def test_a_statement_that_is_cancelled_fails_the_handler(run: Run, shop: Shop) -> None:
    """Also where the handler swallows it: its connection is given up, and the next start has another one."""

    async def charge(number: int, given: Any) -> None:
        shop.starts.append(number)
        await write(given, number)
        await given.flush()
        if len(shop.starts) < 3:
            try:
                async with asyncio.timeout(0.05):
                    await given.execute(text("SELECT pg_sleep(30)"))
            except TimeoutError:
                if len(shop.starts) == 1:
                    raise

    serve(run, shop, AsyncSession, charge, 7, check=lambda: shop.starts.append(shop.stats.retried))
    assert shop.starts == [7, 7, 7, 2]
    assert shop.charges() == [7]


# ------------------------------------------------------------------------------------------ ending it in the handler


@of_each(*SESSIONS, ShopSession)
def test_a_session_may_commit_and_roll_back(run: Run, shop: Shop, kind: Any) -> None:
    """Which ends a savepoint: what it committed goes too if the handler fails, and what it rolled back is gone."""

    async def charge(number: int, given: Any) -> None:
        shop.starts.append(number)
        await write(given, number)
        await done(given.commit())
        assert shop.charges() == []
        await write(given, number + 1)
        await done(given.flush())
        await done(given.rollback())
        await write(given, number + 2)
        if len(shop.starts) == 1:
            await done(given.commit())
            raise OSError("crash")

    serve(run, shop, kind, charge, 7)
    assert shop.starts == [7, 7]
    assert shop.charges() == [7, 9]


def test_blocks_of_a_session_are_savepoints(run: Run, shop: Shop) -> None:
    async def charge(number: int, given: AsyncSession) -> None:
        async with given.begin():
            await write(given, number)
        async with given.begin():
            await write(given, number + 1)
            with pytest.raises(OSError, match="a part"):
                await part(given, number + 2)
        await given.close()
        await write(given, number + 3)

    async def part(given: AsyncSession, number: int) -> None:
        async with given.begin_nested():
            await write(given, number)
            raise OSError("a part")

    serve(run, shop, AsyncSession, charge, 7)
    assert shop.charges() == [7, 8, 10]


def test_an_event_goes_with_the_part_that_is_rolled_back(run: Run, server: Any) -> None:
    shop = Shop(server, outbox=True)

    async def charge(number: int, given: AsyncSession) -> None:
        await write(given, number)
        await shop.bus.publish("charged", number, type="charged.v1", id="undone")
        await given.rollback()
        await shop.bus.publish("charged", number, type="charged.v1", id="kept")

    serve(run, shop, AsyncSession, charge, 7)
    assert shop.charges() == []
    assert shop.outgoing() == ["kept"]


def leave(connection: Any) -> None:
    with connection:
        pass


def part(connection: Any, number: int) -> None:
    with connection.transaction():
        connection.execute(INSERT, (number,))
        connection.execute("SELECT * FROM nowhere")


ENDS: dict[str, Callable[[Any], object]] = {
    "commit": lambda given: given.commit(),
    "rollback": lambda given: given.rollback(),
    "close": lambda given: given.close(),
    "set_autocommit": lambda given: given.set_autocommit(False),
    "autocommit": lambda given: setattr(given, "autocommit", False),
    "with": leave,
}


@pytest.mark.parametrize("call", ENDS)
def test_a_connection_in_a_thread_cannot_end_the_transaction(run: Run, shop: Shop, call: str) -> None:
    async def charge(number: int, given: Any) -> None:
        await write(given, number)
        with pytest.raises(StateError, match=r"the store commits together with its mark .* use 'with connection"):
            ENDS[call](given)
        with pytest.raises(psycopg.errors.UndefinedTable):
            part(given, number + 1)
        await write(given, -number)

    serve(run, shop, psycopg.Connection, charge, 7)
    assert shop.charges() == [-7, 7]


@pytest.mark.parametrize("call", ["commit", "rollback", "close"])
@of_each(AsyncConnection, sqlalchemy.Connection, AsyncSession, Session)
def test_nor_can_one_of_sqlalchemy(run: Run, shop: Shop, kind: Any, call: str) -> None:
    async def charge(number: int, given: Any) -> None:
        shop.starts.append(number)
        await write(given, number)
        if len(shop.starts) == 1:
            if kind in SESSIONS:
                given = await done(given.connection())
            with pytest.raises(StateError, match="the store commits together with its mark"):
                await done(getattr(given, call)())
            raise OSError("as it must")

    serve(run, shop, kind, charge, 7)
    assert shop.starts == [7, 7]
    assert shop.charges() == [7]


# ------------------------------------------------------------------------------------------------- after the handler


@of_each(*(kind for kind in EVERY if kind is not psycopg.AsyncConnection))
def test_what_is_kept_can_do_nothing_afterwards(run: Run, shop: Shop, kind: Any) -> None:
    """The session is another handler's by then."""
    kept: list[Any] = []

    async def charge(number: int, given: Any) -> None:
        if kind is Session or kind in (AsyncSession, ShopSession):
            kept.append(await done(given.connection()))
        else:
            kept.append(given)
        await write(given, number)

    async def check() -> None:
        failed = "closed|the transaction is over"
        for given in kept:
            with pytest.raises(
                (StateError, psycopg.OperationalError, sqlalchemy.exc.ResourceClosedError), match=failed
            ):
                await execute(given, "INSERT INTO charge VALUES (99)")
            if isinstance(given, psycopg.Connection):
                assert given.closed
                given.commit()
                given.rollback()
                given.close()

    serve(run, shop, kind, charge, 7, 8, check=check)
    kept.clear()
    gc.collect()
    assert shop.charges() == [7, 8]


def test_a_cursor_that_is_kept_can_do_nothing_afterwards(run: Run, shop: Shop) -> None:
    kept: list[Any] = []

    async def charge(number: int, given: Any) -> None:
        kept.append(given.cursor())
        await write(given, number)

    async def check() -> None:
        with pytest.raises(StateError, match="the transaction is over"):
            kept[0].execute("INSERT INTO charge VALUES (99)")

    serve(run, shop, psycopg.Connection, charge, 7, check=check)
    assert shop.charges() == [7]


@of_each(psycopg.Connection, sqlalchemy.Connection, Session)
def test_a_thread_that_is_left_in_a_statement_fails_the_handler(run: Run, shop: Shop, kind: Any) -> None:
    threads: list[threading.Thread] = []
    raised: list[BaseException] = []

    async def charge(number: int, given: Any) -> None:
        shop.starts.append(number)
        if len(shop.starts) == 2:
            await write(given, number)
        else:

            def sleep() -> None:
                try:
                    given.execute(statement(given, "SELECT pg_sleep(30)"))
                except Exception as exc:  # noqa: BLE001 - each kind has its own
                    raised.append(exc)

            threads.append(threading.Thread(target=sleep))
            threads[0].start()
            asleep = "SELECT 1 FROM pg_stat_activity WHERE query LIKE '%%pg_sleep%%' AND wait_event = 'PgSleep'"
            while not shop.server.sql(asleep):
                pass

    serve(run, shop, kind, charge, 7, check=lambda: shop.starts.append(shop.stats.retried))
    threads[0].join(20)
    assert len(raised) == 1
    assert shop.starts == [7, 7, 1]
    assert shop.charges() == [7]


def test_notices_are_those_of_the_handler(run: Run, server: Any) -> None:
    """And the store's own connection has its own again."""
    told: list[Any] = []

    async def charge(number: int, given: Any) -> None:
        given.add_notice_handler(lambda notice: told.append((number, notice.message_primary)))
        given.execute(f"DO $$ BEGIN RAISE NOTICE 'notice {number}'; END $$")

    serve(run, Shop(server, pool=1), psycopg.Connection, charge, 7, 8)
    assert sorted(told) == [(7, "notice 7"), (8, "notice 8")]
