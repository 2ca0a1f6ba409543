"""``anybroker db check`` and ``migrate`` on a real server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest

from anybroker.cli import main
from anybroker.errors import ConfigError, Unavailable
from anybroker.kit.tables import Migrated, TablesState
from anybroker_postgres import PostgresDatabase, PostgresOutbox, PostgresStore, all_tables, ddl, outbox_ddl
from anybroker_postgres.all_tables import OUTBOX_TABLES, STORE_TABLES
from anybroker_postgres.catalog import parts_of
from anybroker_postgres.options import DATABASE, Target

Run = Callable[[Coroutine[Any, Any, None]], None]
BOTH = ("store", "outbox")
COLUMN = "ADD COLUMN contenttype text NOT NULL DEFAULT 'application/cloudevents+json'"
OLD = outbox_ddl.VERSION - 1
STEPS = {OLD: (f"ALTER TABLE {{schema}}anybroker_outbox {COLUMN}", "UPDATE {schema}anybroker_outbox SET type = 'old'")}
WITH_STEPS = {"store": STORE_TABLES, "outbox": replace(OUTBOX_TABLES, steps=STEPS)}
"""As if the release before this one had made an outbox without a content type, as version 0."""


@pytest.fixture
def schema(server: Any) -> str:
    return str(server.schema)


def database(server: Any, url: str | None = None, tables: Any = WITH_STEPS) -> PostgresDatabase:
    return PostgresDatabase(Target.of(url or server.url, 5.0, DATABASE), server.schema, tables=tables)


def checked(database: PostgresDatabase, parts: Any = BOTH) -> list[TablesState]:
    return list(asyncio.run(database.check(parts)))


def migrated(database: PostgresDatabase, parts: Any = BOTH) -> list[Migrated]:
    return list(asyncio.run(database.migrate(parts)))


def catalog(server: Any) -> list[Any]:
    """Everything in the schema, with what identifies it."""
    found: list[Any] = server.sql(
        "SELECT c.oid, c.relname, c.relkind, c.relnatts, c.xmin::text FROM pg_class c "
        "WHERE relnamespace = to_regnamespace(%s) ORDER BY 1",
        (server.schema,),
    )
    return found


def make_old(server: Any) -> None:
    """The outbox of the made-up release, with a row."""
    migrated(database(server))
    server.sql("ALTER TABLE anybroker_outbox DROP COLUMN contenttype")
    server.sql("UPDATE anybroker_schema SET version = %s WHERE part = 'outbox'", (OLD,))
    server.sql(
        "INSERT INTO anybroker_outbox (id, aggregatetype, type, payload, shard) VALUES ('1', 'orders', 't', '{}', 0)"
    )


def as_role(server: Any, name: str) -> str:
    return f"postgresql://{name}:{name}@127.0.0.1:{urlsplit(server.url).port}/postgres"


def statements_in(remedy: str) -> list[str]:
    return [part.strip() for part in remedy.partition("\n")[2].split(";") if part.strip()]


def test_what_is_needed_is_what_the_statements_make(server: Any, schema: str) -> None:
    """The columns and indexes that are read from the statements are those in the catalog."""
    for statement in all_tables(schema):
        server.sql(statement)
    needed = parts_of(all_tables())
    for table, columns in needed.columns.items():
        there = server.sql(
            "SELECT attname FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0 ORDER BY attnum", (table,)
        )
        assert [row[0] for row in there] == list(columns)
    tables = server.sql("SELECT tablename FROM pg_tables WHERE schemaname = %s", (schema,))
    assert {row[0] for row in tables} == set(needed.columns)
    indexes = server.sql("SELECT indexname FROM pg_indexes WHERE schemaname = %s", (schema,))
    assert {row[0] for row in indexes if not row[0].endswith("_pkey")} == set(needed.indexes)
    assert [state.fits for state in checked(database(server))] == [True, True]


def test_an_empty_database_gets_all_and_the_next_time_nothing(server: Any, run: Run) -> None:
    before = checked(database(server))
    assert [(state.found, state.fits, state.remedy) for state in before] == [(None, False, "anybroker db migrate")] * 2
    assert "table anybroker_claim" in before[0].missing
    assert catalog(server) == [], "a check makes nothing"
    assert [each.said for each in migrated(database(server))] == ["made, version 1"] * 2
    there = catalog(server)
    assert [each.said for each in migrated(database(server))] == ["nothing to do, version 1"] * 2
    assert all(state.fits and state.remedy is None for state in checked(database(server)))
    assert catalog(server) == there

    async def use() -> None:
        outbox = PostgresOutbox(server.url, schema=server.schema, create=False)
        await outbox.open()
        await outbox.close()
        store = PostgresStore(server.url, schema=server.schema)
        await store.open()
        await store.close()

    run(use())
    assert catalog(server) == there


def test_one_part_alone(server: Any) -> None:
    assert [each.part for each in migrated(database(server), ["outbox"])] == ["outbox"]
    store, outbox = checked(database(server))
    assert (store.fits, outbox.fits) == (False, True)
    assert "table anybroker_schema" not in store.missing, "the outbox has it too"


def test_an_older_version_is_brought_to_the_current_one(server: Any) -> None:
    make_old(server)
    before = catalog(server)
    store, outbox = checked(database(server))
    assert store.fits
    assert (outbox.found, outbox.needed, outbox.missing) == (OLD, OLD + 1, ("column anybroker_outbox.contenttype",))
    assert outbox.verdict == "version 0, and 1 is needed; missing: column anybroker_outbox.contenttype"
    assert outbox.remedy == "anybroker db migrate"
    assert catalog(server) == before
    store_done, outbox_done = migrated(database(server))
    assert store_done.said == "nothing to do, version 1"
    assert outbox_done.said == "brought from version 0 to 1"
    assert server.sql("SELECT type, contenttype FROM anybroker_outbox") == [("old", "application/cloudevents+json")]
    assert all(state.fits for state in checked(database(server)))
    assert [each.said for each in migrated(database(server))] == ["nothing to do, version 1"] * 2


def test_a_relay_says_of_an_older_version_who_brings_it_up_to_date(server: Any, run: Run) -> None:
    make_old(server)

    async def main() -> None:
        with pytest.raises(
            ConfigError, match=r"version 0, and this version of anybroker needs 1.*anybroker db migrate"
        ):
            await PostgresOutbox(server.url, schema=server.schema).open()

    run(main())


def test_of_several_at_once_one_does_it(server: Any, run: Run) -> None:
    make_old(server)

    async def main() -> None:
        done = await asyncio.gather(*(database(server).migrate(BOTH) for _ in range(5)))
        said = sorted(outbox.said for _, outbox in done)
        assert said == ["brought from version 0 to 1", *["nothing to do, version 1"] * 4]

    run(main())


def test_a_step_that_fails_leaves_everything_as_it_was(server: Any) -> None:
    make_old(server)
    before = catalog(server)
    server.sql("DROP INDEX anybroker_claim_expires")
    broken = {OLD: (*STEPS[OLD], "ALTER TABLE {schema}nowhere ADD COLUMN a text")}
    tables = {**WITH_STEPS, "outbox": replace(OUTBOX_TABLES, steps=broken)}
    with pytest.raises(Unavailable, match="nowhere"):
        migrated(database(server, tables=tables))
    with pytest.raises(ConfigError, match="nothing leads from version 0 to 1"):
        migrated(database(server, tables={**WITH_STEPS, "outbox": OUTBOX_TABLES}))
    assert [each for each in catalog(server) if each in before] == catalog(server)
    assert checked(database(server))[0].missing == ("index anybroker_claim_expires",), "the store's part is undone too"


def test_a_newer_version_is_refused_with_the_remedy(server: Any) -> None:
    migrated(database(server))
    server.sql("UPDATE anybroker_schema SET version = 9 WHERE part = 'outbox'")
    server.sql("DROP INDEX anybroker_claim_expires")
    before = catalog(server)
    _, outbox = checked(database(server))
    assert (outbox.found, outbox.fits) == (9, False)
    assert "update anybroker here" in (outbox.remedy or "")
    with pytest.raises(ConfigError, match="version 9, and this release of anybroker knows 1") as caught:
        migrated(database(server))
    assert "Update anybroker here" in (caught.value.remedy or "")
    assert catalog(server) == before


def test_what_somebody_has_dropped_is_made_again_but_a_column(server: Any) -> None:
    migrated(database(server))
    server.sql("DROP INDEX anybroker_outbox_due")
    server.sql("DROP TABLE anybroker_outbox_parked")
    _, done = migrated(database(server))
    assert done.said == "made what was missing: table anybroker_outbox_parked, index anybroker_outbox_due"
    server.sql("ALTER TABLE anybroker_outbox DROP COLUMN headers")
    server.sql("DROP TABLE anybroker_outbox_parked")
    before = catalog(server)
    with pytest.raises(ConfigError, match=r"column anybroker_outbox\.headers cannot be made"):
        migrated(database(server))
    assert catalog(server) == before


def test_who_may_not_make_them_is_told_the_statements(server: Any, role: Callable[[], str]) -> None:
    """Which, run by another, are enough."""
    name = role()
    theirs = database(server, as_role(server, name))
    for part, fits in (("store", 0), ("outbox", 1)):
        state = checked(theirs, [part])[0]
        assert f"the role {name} may not make them" in (state.remedy or "")
        assert "anybroker db sql postgres" in (state.remedy or "")
        with pytest.raises(ConfigError, match="may not make or change them") as caught:
            migrated(theirs, [part])
        for statement in statements_in(caught.value.remedy or ""):
            server.sql(statement)
        assert [state.fits for state in checked(theirs)] == [True, bool(fits)]
    assert [each.said for each in migrated(theirs)] == ["nothing to do, version 1"] * 2


def test_who_may_not_change_them_is_told_the_statements(server: Any, role: Callable[[], str]) -> None:
    name = role()
    make_old(server)
    for statement in (*ddl.privileges(name, server.schema), *outbox_ddl.privileges(name, server.schema)):
        server.sql(statement)
    theirs = database(server, as_role(server, name))
    with pytest.raises(ConfigError, match="may not make or change them") as caught:
        migrated(theirs)
    assert checked(theirs)[1].found == OLD
    for statement in statements_in(caught.value.remedy or ""):
        server.sql(statement)
    assert all(state.fits for state in checked(theirs))


@pytest.mark.parametrize("missing", ["SELECT", "DELETE"])
def test_a_missing_privilege_is_named_with_what_grants_it(server: Any, role: Callable[[], str], missing: str) -> None:
    name = role()
    migrated(database(server))
    for statement in (*ddl.privileges(name, server.schema), *outbox_ddl.privileges(name, server.schema)):
        server.sql(statement)
    table = "anybroker_schema" if missing == "SELECT" else "anybroker_outbox_parked"
    server.sql(f"REVOKE {missing} ON {table} FROM {name}")
    outbox = checked(database(server, as_role(server, name)))[1]
    assert outbox.missing == (f"{missing} on {table}",)
    grants = (outbox.remedy or "").removeprefix("as their owner: ").split("; ")
    for statement in grants:
        server.sql(statement)
    assert all(state.fits for state in checked(database(server, as_role(server, name))))


def test_a_schema_that_may_not_be_used(server: Any, role: Callable[[], str]) -> None:
    name = role()
    migrated(database(server))
    store = checked(database(server, as_role(server, name)))[0]
    assert store.missing[0] == f"USAGE on schema {server.schema}"
    for state in checked(database(server, as_role(server, name))):
        for statement in (state.remedy or "").removeprefix("as their owner: ").split("; "):
            server.sql(statement)
    assert all(state.fits for state in checked(database(server, as_role(server, name))))


def test_a_table_that_is_in_use_is_not_waited_for_long(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    make_old(server)
    monkeypatch.setattr("anybroker_postgres.database._WAITS", "100ms")
    with psycopg.connect(server.url) as other:
        other.execute(f"LOCK TABLE {server.schema}.anybroker_outbox IN ACCESS SHARE MODE".encode())
        with pytest.raises(Unavailable, match="another transaction uses a table"):
            migrated(database(server))
    assert checked(database(server))[1].found == OLD


@pytest.fixture
def in_path(server: Any, role: Callable[[], str]) -> str:
    """The URL of a role whose search path is the test's schema, which it owns."""
    name = role()
    server.sql(f"CREATE SCHEMA {server.schema} AUTHORIZATION {name}")
    server.sql(f"ALTER ROLE {name} SET search_path = {server.schema}")
    return as_role(server, name)


def test_without_a_schema_the_search_path_decides(server: Any, in_path: str) -> None:
    theirs = PostgresDatabase(Target.of(in_path, 5.0, DATABASE), None)
    assert [state.remedy for state in checked(theirs)] == ["anybroker db migrate"] * 2
    migrated(theirs)
    assert all(state.fits for state in checked(theirs))
    assert all(state.fits for state in checked(database(server)))


def test_a_schema_with_a_name_that_needs_quotes(server: Any) -> None:
    odd = PostgresDatabase(Target.of(server.url, 5.0, DATABASE), f'{server.schema} "%s{{}}')
    try:
        migrated(odd)
        assert all(state.fits for state in checked(odd))
    finally:
        server.sql(f'DROP SCHEMA IF EXISTS "{server.schema} ""%%s{{}}" CASCADE', ())


def test_the_command(server: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """With the URL of a store or of an outbox."""
    url = f"{server.url}?schema={server.schema}"
    assert main(["db", "check", url]) == 1
    assert "store: to do: anybroker db migrate\n" in capsys.readouterr().out
    assert main(["db", "migrate", f"{url}&retain=60&pool=3"]) == 0
    assert capsys.readouterr().out == "store: made, version 1\noutbox: made, version 1\n"
    assert main(["db", "check", f"{url}&timeout=3", "--json"]) == 0
    assert main(["db", "check", f"{url}&nonsense=3"]) == 2


def test_a_server_that_is_not_there_is_1(unused_port: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["db", "check", f"postgresql://127.0.0.1:{unused_port}/shop"]) == 1
    assert "refused" in capsys.readouterr().err
