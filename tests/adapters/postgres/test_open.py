"""Opening the store: its tables, its privileges, and settings that are wrong."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Coroutine
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest

from anybroker import Bus, ConfigError, MemoryBroker, StateError
from anybroker.config import parse_url
from anybroker.idempotency import Claim, Key, StoreUnavailable
from anybroker.idempotency._stores import make_store
from anybroker.middleware import idempotent
from anybroker.testing import settled
from anybroker_postgres import PostgresStore, ddl, store_of_url

Run = Callable[[Coroutine[Any, Any, None]], None]
KEY: Key = ("billing", "charge", "shop", "1")


async def use(store: PostgresStore) -> None:
    await store.open()
    try:
        assert isinstance(await store.claim(KEY, "a", 20.0, 60.0), Claim)
        await store.purge()
    finally:
        await store.close()


def as_role(server: Any, name: str, **changes: str) -> str:
    """The server's URL for another user."""
    port = urlsplit(server.url).port
    database = changes.get("database", "postgres")
    return f"postgresql://{name}:{changes.get('password', name)}@127.0.0.1:{port}/{database}"


def test_many_processes_at_once_create_the_tables_once(server: Any, run: Run) -> None:
    async def main() -> None:
        await asyncio.gather(*(use_none(server.store()) for _ in range(8)))
        assert server.sql("SELECT part, version FROM anybroker_schema") == [(ddl.PART, ddl.VERSION)]

    async def use_none(store: PostgresStore) -> None:
        await store.open()
        await store.close()

    run(main())


def test_a_role_that_may_only_read_and_write_the_tables_is_enough(
    server: Any, run: Run, role: Callable[[], str]
) -> None:
    name = role()

    async def main() -> None:
        owner = server.store()
        await owner.open()
        await owner.close()
        for statement in ddl.privileges(name, server.schema):
            server.sql(statement)
        store = PostgresStore(as_role(server, name), schema=server.schema)
        await use(store)
        # An update gives the next number of an identity without a right to the sequence.
        await store.open()
        server.sql("UPDATE anybroker_claim SET until = '-infinity'")
        assert isinstance(await store.claim(KEY, "a", 20.0, 60.0), Claim)
        await store.close()

    run(main())


@pytest.mark.parametrize("missing", ["SELECT", "INSERT", "UPDATE", "DELETE"])
def test_a_missing_privilege_is_named_with_what_grants_it(
    server: Any, run: Run, role: Callable[[], str], missing: str
) -> None:
    name = role()

    async def main() -> None:
        owner = server.store()
        await owner.open()
        await owner.close()
        for statement in ddl.privileges(name, server.schema):
            server.sql(statement)
        server.sql(f"REVOKE {missing} ON anybroker_claim FROM {name}")
        with pytest.raises(ConfigError) as caught:
            await PostgresStore(as_role(server, name), schema=server.schema).open()
        assert f"has no {missing} on" in str(caught.value)
        for statement in statements_in(caught.value.remedy):
            server.sql(statement)
        await use(PostgresStore(as_role(server, name), schema=server.schema))

    run(main())


@pytest.mark.parametrize("schema_exists", [False, True])
def test_who_may_not_create_the_tables_is_told_the_statements(
    server: Any, run: Run, role: Callable[[], str], schema_exists: bool
) -> None:
    """Which, run by another, are enough."""
    name = role()
    if schema_exists:
        server.sql(f"CREATE SCHEMA {server.schema}")
        server.sql(f"GRANT USAGE ON SCHEMA {server.schema} TO {name}")

    async def main() -> None:
        with pytest.raises(ConfigError) as caught:
            await PostgresStore(as_role(server, name), schema=server.schema).open()
        assert name not in caught.value.problem
        for statement in statements_in(caught.value.remedy):
            server.sql(statement)
        await use(PostgresStore(as_role(server, name), schema=server.schema))

    run(main())


def statements_in(remedy: str) -> list[str]:
    return [part.strip() for part in remedy.partition("\n")[2].split(";") if part.strip()]


def test_tables_of_another_version_are_refused(server: Any, run: Run) -> None:
    async def main() -> None:
        await use(server.store())
        server.sql("UPDATE anybroker_schema SET version = 99")
        with pytest.raises(ConfigError, match="its tables have version 99, and this version of anybroker needs 1"):
            await server.store().open()

    run(main())


def test_without_a_schema_the_search_path_decides(server: Any, run: Run, role: Callable[[], str]) -> None:
    name = role()
    server.sql(f"CREATE SCHEMA {server.schema} AUTHORIZATION {name}")
    server.sql(f"ALTER ROLE {name} SET search_path = {server.schema}")

    async def main() -> None:
        await use(PostgresStore(as_role(server, name)))
        assert server.sql("SELECT count(*) FROM anybroker_claim") == [(1,)]

    run(main())


def test_a_schema_with_a_name_that_needs_quotes(server: Any, run: Run) -> None:
    name = f'{server.schema} "%s'

    async def main() -> None:
        await use(server.store(schema=name))
        assert server.sql("SELECT count(*) FROM pg_namespace WHERE nspname = %s", (name,)) == [(1,)]
        server.sql(f"DROP SCHEMA {ddl.qualified(name)[:-1].replace('%', '%%')} CASCADE", ())

    run(main())


def test_a_database_of_another_encoding(server: Any, run: Run) -> None:
    """What it has no characters for is written as escapes; the hash still tells the keys apart."""
    database = f"latin_{server.schema}"
    server.sql(f"CREATE DATABASE {database} ENCODING LATIN1 TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'")

    async def main() -> None:
        store = PostgresStore(as_role(server, "postgres", database=database))
        await store.open()
        try:
            one, two = await asyncio.gather(
                *(store.claim(("g", "h", "s", text), "Ω", 20.0, 60.0) for text in ("日本\0", "日木\0"))
            )
            assert isinstance(one, Claim)
            assert isinstance(two, Claim)
            assert await store.done(one) is True
        finally:
            await store.close()
        with psycopg.connect(as_role(server, "postgres", database=database)) as connection:
            shown = connection.execute("SELECT id FROM anybroker_claim WHERE done").fetchall()
            assert shown == [("\\u65e5\\u672c\\0",)]

    try:
        run(main())
    finally:
        server.sql(f"DROP DATABASE {database}")


# ------------------------------------------------------------------------------------------ wrong settings


def test_a_database_that_does_not_exist(server: Any, run: Run) -> None:
    async def main() -> None:
        with pytest.raises(ConfigError, match=r'database "nowhere" does not exist\. Create the database'):
            await PostgresStore(as_role(server, "postgres", database="nowhere")).open()

    run(main())


def test_a_role_that_does_not_exist(server: Any, run: Run) -> None:
    async def main() -> None:
        with pytest.raises(ConfigError, match=r'role "nobody_here" does not exist\. Create the role'):
            await PostgresStore(as_role(server, "nobody_here")).open()

    run(main())


def test_a_wrong_password_is_refused_and_not_shown(server: Any, run: Run, role: Callable[[], str], until: Any) -> None:
    name = role()
    (path,) = server.sql("SHOW hba_file")[0]
    ((before,),) = server.sql("SELECT pg_read_file(%s)", (path,))
    try:
        write_file(server, path, f"host all {name} 127.0.0.1/32 scram-sha-256\n{before}")

        async def main() -> None:
            await until(lambda: not lets_in(server, name))
            for password in ("t0psecret", ""):
                with pytest.raises(ConfigError, match=r"Correct the user|Give a password") as caught:
                    await PostgresStore(as_role(server, name, password=password)).open()
                assert "t0psecret" not in "".join(map(str, chain(caught.value)))

        run(main())
    finally:
        write_file(server, path, before)


def lets_in(server: Any, name: str) -> bool:
    try:
        psycopg.connect(as_role(server, name, password="wrong")).close()
    except psycopg.OperationalError:
        return False
    return True


def write_file(server: Any, path: str, text: str) -> None:
    """On the server, which may be in a container."""
    lines = [line for line in text.split("\n") if line]  # an empty one would be written in quotes
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute("CREATE TEMPORARY TABLE line (number serial, line text)")
        with connection.cursor() as cursor:
            cursor.executemany("INSERT INTO line (line) VALUES (%s)", [(line,) for line in lines])
        rows = "SELECT line FROM line ORDER BY number"
        plain = "FORMAT csv, QUOTE E'\\x01', DELIMITER E'\\x02'"
        connection.execute(f"COPY ({rows}) TO '{path}' WITH ({plain})".encode())
        connection.execute("SELECT pg_reload_conf()")


def chain(exc: BaseException | None) -> list[BaseException]:
    found = []
    while exc is not None:
        found.append(exc)
        exc = exc.__cause__ or exc.__context__
    return found


def test_a_server_that_is_not_there(run: Run, unused_port: int) -> None:
    async def main() -> None:
        with pytest.raises(StoreUnavailable, match=rf"postgresql://127.0.0.1:{unused_port}/shop: .*refused"):
            await PostgresStore(f"postgresql://me:secret@127.0.0.1:{unused_port}/shop").open()

    run(main())


def test_of_several_hosts_the_one_that_can_be_written_is_used(server: Any, run: Run, unused_port: int) -> None:
    async def main() -> None:
        port = urlsplit(server.url).port
        url = f"postgresql://postgres:postgres@127.0.0.1:{unused_port},127.0.0.1:{port}/postgres?schema={server.schema}"
        store = make_store(url)
        assert isinstance(store, PostgresStore)
        assert store._target.parameters["target_session_attrs"] == "read-write"
        await use(store)

    run(main())


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("postgresql://u:secret@h/d?retian=1", "'retian': there is no such option. Did you mean 'retain'?"),
        ("postgresql://u:secret@h/d?sslmod=require", "'sslmod': there is no such option. Did you mean 'sslmode'?"),
        ("postgresql://u:secret@h/d?retain=long", "idempotency option 'retain': 'long' is not a number"),
        ("postgresql://u:secret@h/d?retain=0", "PostgresStore(retain=): 0.0 is not a number of seconds over 0"),
        ("postgresql://u:secret@h/d?retain=nan", "PostgresStore(retain=): nan is not a number of seconds over 0"),
        ("postgresql://u:secret@h/d?timeout=601", "PostgresStore(timeout=): 601.0 is not a number of seconds"),
        ("postgresql://u:secret@h/d?pool=many", "idempotency option 'pool': 'many' is not a number of connections"),
        ("postgresql://u:secret@h/d?pool=0", "PostgresStore(pool=): 0 is not a number of connections"),
        ("postgresql://u:secret@h/d?schema=", "PostgresStore(schema=): '' is not the name of a schema"),
    ],
)
def test_wrong_urls(url: str, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make_store(url)
    assert text in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "conninfo",
    [
        "postgresql://u:se@cret@h:1/d",
        "postgresql://u:se/cret@h/d",
        "host=h password='secret",
        "secret",
        "http://secret",
    ],
)
def test_a_conninfo_that_cannot_be_read_is_not_shown(conninfo: str) -> None:
    with pytest.raises(ConfigError, match=r"PostgresStore\(conninfo\): libpq cannot read it") as caught:
        PostgresStore(conninfo)
    assert not any("cret" in str(exc) and exc is not caught.value for exc in chain(caught.value))
    assert "cret" not in str(caught.value)


def test_neither_password_nor_user_is_in_the_text_of_a_store() -> None:
    for store in (
        PostgresStore("postgresql://me:secret@db1:5433,db2/shop"),
        PostgresStore("host=db1,db2 port=5433,5432 dbname=shop user=me password=secret"),
        store_of_url(parse_url("postgres://me:secret@db1:5433,db2/shop?password=secret")),
    ):
        assert re.fullmatch(r"<PostgresStore postgresql://db1:5433,db2(:5432)?/shop>", repr(store))


def test_options_of_a_url(server: Any) -> None:
    store = make_store("postgresql://h/d?retain=60&timeout=2.5&pool=3&schema=s&sslmode=require&application_name=shop")
    assert isinstance(store, PostgresStore)
    assert (store.retain, store._timeout, store._pool_size, store._schema) == (60.0, 2.5, 3, "s")
    parameters = store._target.parameters
    assert (parameters["sslmode"], parameters["application_name"]) == ("require", "shop")
    assert parameters["connect_timeout"] == 3


def test_a_store_that_is_open_is_refused_in_another_loop(server: Any, run: Run) -> None:
    store = server.store()

    async def main() -> None:
        await store.open()
        try:
            with pytest.raises(StateError, match="give each its own PostgresStore"):
                await asyncio.to_thread(asyncio.run, store.open())
        finally:
            await store.close()

    run(main())


def test_a_bus_with_the_url_handles_each_event_once(server: Any, run: Run) -> None:
    seen: list[int] = []
    bus = Bus(MemoryBroker(), source="shop", idempotency=f"{server.url}?schema={server.schema}&retain=3600")

    @bus.subscribe("orders", group="billing")
    @idempotent()
    async def charge(number: int) -> None:
        seen.append(number)

    async def main() -> None:
        async with bus:
            for number in (*range(50), *range(50)):
                await bus.publish("orders", number, type="order.v1", id=f"o-{number}")
            await settled(bus)
            assert bus.subscriptions[0].stats.suppressed == 50
        assert server.sql("SELECT count(*) FROM anybroker_claim WHERE done AND consumer_group = 'billing'") == [(50,)]

    run(main())
    assert sorted(seen) == list(range(50))
