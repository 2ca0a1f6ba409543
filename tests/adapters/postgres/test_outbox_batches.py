"""``publish_many(within=)`` in PostgreSQL: few statements, and what one row that fails does to the others."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import psycopg
import pytest

from anybroker import Bus, Event
from anybroker.adapter import Outbound
from anybroker.outbox import Entry
from anybroker_postgres import PostgresOutbox, outbox_ddl
from anybroker_postgres.outbox_writing import in_parts

Run = Callable[[Coroutine[Any, Any, None]], None]


def batch(count: int, **attributes: Any) -> list[Event[Any]]:
    return [Event.create({"n": n}, type="t", source="shop", id=str(n), key="k", **attributes) for n in range(count)]


@asynccontextmanager
async def writing(server: Any) -> AsyncIterator[tuple[Bus, psycopg.AsyncConnection[Any]]]:
    """A Bus that only writes, and a connection of the application's, in a schema with the tables."""
    server.sql(f"CREATE SCHEMA {server.schema}")
    for statement in outbox_ddl.statements(server.schema):
        server.sql(statement)
    outbox = PostgresOutbox(server.url, schema=server.schema)
    bus = Bus(source="shop", outbox=outbox, consume=False, relay=False)
    async with bus, await psycopg.AsyncConnection.connect(server.url) as connection:
        yield bus, connection


def ids(server: Any) -> list[str]:
    return [row[0] for row in server.sql("SELECT id FROM anybroker_outbox ORDER BY position")]


def test_two_thousand_rows_are_two_statements(server: Any, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    statements: list[Any] = []
    execute = psycopg.AsyncCursor.execute

    async def counted(self: Any, query: Any, *arguments: Any, **options: Any) -> Any:
        statements.append(query)
        return await execute(self, query, *arguments, **options)

    async def main() -> None:
        async with writing(server) as (bus, connection):
            monkeypatch.setattr(psycopg.AsyncCursor, "execute", counted)
            await bus.publish_many("orders", batch(2_000), within=connection)
            assert len(statements) == 2
            await connection.commit()
        assert ids(server) == [str(n) for n in range(2_000)]

    run(main())


def test_a_batch_writes_the_rows_that_single_events_do(server: Any, run: Run) -> None:
    """Every column of them, whatever is in it."""

    async def main() -> None:
        event = Event.create({"text": 'ü"\\\0\U0001f600'}, type="t", source="shop", id="'%s:p0")
        outbounds = [
            Outbound(event, "orders", headers={"tenant": 'ü"\\ \U0001f600'}, not_before=1_767_225_600.123456),
            Outbound(event.replace(key="k'\""), "orders.two", headers=None, not_before=None),
        ]
        async with writing(server) as (_, connection):
            outbox = PostgresOutbox(server.url, schema=server.schema)
            single = [await outbox.put(each, connection) for each in outbounds]
            batch = await outbox.put_many(outbounds, connection)
            await connection.commit()
            assert [each.topic for each in batch] == [each.topic for each in single] == ["orders", "orders.two"]
        rows = server.sql(
            "SELECT id, aggregatetype, aggregateid, type, payload, headers, not_before, shard, contenttype "
            "FROM anybroker_outbox ORDER BY position"
        )
        assert rows[:2] == rows[2:]
        assert rows[0][6].timestamp() == 1_767_225_600.123456

    run(main())


def test_one_row_that_fails_ends_the_transaction(server: Any, run: Run) -> None:
    """The client's error is raised, and nothing of the transaction can be committed."""

    async def main() -> None:
        async with writing(server) as (bus, connection):
            server.sql("ALTER TABLE anybroker_outbox ADD CHECK (id <> '7')")
            await bus.publish("orders", 1, type="t", id="before", within=connection)
            with pytest.raises(psycopg.errors.CheckViolation):
                await bus.publish_many("orders", batch(10), within=connection)
            with pytest.raises(psycopg.errors.InFailedSqlTransaction):
                await bus.publish_many("orders", batch(2), within=connection)
            await connection.commit()  # which PostgreSQL makes a rollback
        assert ids(server) == []

    run(main())


def test_a_savepoint_keeps_the_rest(server: Any, run: Run) -> None:
    async def main() -> None:
        async with writing(server) as (bus, connection):
            server.sql("ALTER TABLE anybroker_outbox ADD CHECK (id <> '7')")
            await bus.publish("orders", 1, type="t", id="before", within=connection)
            with pytest.raises(psycopg.errors.CheckViolation):
                async with connection.transaction():
                    await bus.publish_many("orders", batch(10), within=connection)
            await bus.publish_many("orders", batch(3), within=connection)
            await connection.commit()
        assert ids(server) == ["before", "0", "1", "2"]

    run(main())


def test_parts_of_a_batch() -> None:
    """By rows and by size; one that is larger than a part may be is a part of its own."""

    def entry(characters: int) -> Entry:
        return Entry("id", "topic", None, "t", "x" * characters, None, None, 0)

    def sizes(*characters: int) -> list[int]:
        entries = [entry(each) for each in characters]
        parts = list(in_parts(entries))
        assert [each for part in parts for each in part] == entries
        return [len(part) for part in parts]

    assert sizes(1) == [1]
    assert sizes(*[1] * 1_000) == [1_000]
    assert sizes(*[1] * 2_001) == [1_000, 1_000, 1]
    assert sizes(4_000_000, 4_000_000, 1) == [2, 1]
    assert sizes(9_000_000, 9_000_000, 1, 1) == [1, 1, 2]
    assert sizes(1, 9_000_000, 1) == [1, 1, 1]
