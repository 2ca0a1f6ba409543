"""Rows of one key come in the order in which they were committed, whenever their positions were drawn."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import psycopg
import pytest

from anybroker.adapter import Outbound
from anybroker.cloudevents.event import Event
from anybroker.outbox.entry import SHARDS
from anybroker_postgres import PostgresOutbox
from anybroker_postgres.outbox_place import Place, Snapshot

from .conftest import Server

Run = Callable[[Coroutine[Any, Any, None]], None]
EVERYTHING = range(SHARDS)


@asynccontextmanager
async def opened(server: Server) -> AsyncIterator[PostgresOutbox]:
    table = PostgresOutbox(server.url, schema=server.schema)
    await table.open()
    try:
        yield table
    finally:
        await table.close()


async def begin(server: Server) -> psycopg.AsyncConnection[Any]:
    connection = await psycopg.AsyncConnection.connect(server.url, autocommit=True)
    await connection.execute("BEGIN")
    return connection


async def write(outbox: PostgresOutbox, connection: psycopg.AsyncConnection[Any], id_: str, key: str) -> None:
    event = Event.create({"id": id_}, source="test", type="test", id=id_, key=key)
    await outbox.put(Outbound(topic="orders", event=event), connection)


async def written(outbox: PostgresOutbox, server: Server, id_: str, key: str) -> None:
    async with await begin(server) as connection:
        await write(outbox, connection, id_, key)
        await connection.execute("COMMIT")


async def read(outbox: PostgresOutbox, limit: int = 100) -> list[str]:
    rows = await outbox.rows(EVERYTHING, limit)
    return [row.payload.split('"id":"', 1)[1].split('"', 1)[0] for row in rows if isinstance(row.payload, str)]


def test_a_row_that_was_committed_late_comes_before_the_next_of_its_key(server: Server, run: Run) -> None:
    async def main() -> None:
        async with opened(server) as outbox, await begin(server) as early:
            await write(outbox, early, "first", "k")
            await written(outbox, server, "other", "x")
            assert await read(outbox) == ["other"]
            await early.execute("COMMIT")
            await written(outbox, server, "second", "k")
            assert await read(outbox) == ["first", "second"]

    run(main())


def test_so_it_does_where_it_has_the_highest_number_of_all(server: Server, run: Run) -> None:
    """Snapshots do not list those behind the last one that has ended."""

    async def main() -> None:
        async with opened(server) as outbox, await begin(server) as other, await begin(server) as early:
            for connection in (other, early):
                await connection.execute("SELECT pg_current_xact_id()")
            await write(outbox, early, "first", "k")
            await write(outbox, other, "other", "x")
            await other.execute("COMMIT")
            assert await read(outbox) == ["other"]
            await early.execute("COMMIT")
            await written(outbox, server, "second", "k")
            assert await read(outbox) == ["first", "second"]

    run(main())


def test_so_it_does_while_another_transaction_stays_open(server: Server, run: Run) -> None:
    async def main() -> None:
        async with opened(server) as outbox, await begin(server) as open_, await begin(server) as early:
            await write(outbox, open_, "last of all", "y")
            await write(outbox, early, "first", "k")
            await written(outbox, server, "other", "x")
            assert await read(outbox) == ["other"]
            assert await read(outbox) == []
            await early.execute("COMMIT")
            await written(outbox, server, "second", "k")
            assert await read(outbox) == ["first", "second"]
            await open_.execute("COMMIT")
            await written(outbox, server, "third", "k")
            assert await read(outbox) == ["last of all", "third"]

    run(main())


def test_late_rows_that_are_more_than_asked_for_come_before_new_ones(server: Server, run: Run) -> None:
    async def main() -> None:
        async with opened(server) as outbox, await begin(server) as early:
            for number in range(5):
                await write(outbox, early, f"late {number}", "k")
            await written(outbox, server, "other", "x")
            assert await read(outbox) == ["other"]
            await early.execute("COMMIT")
            await written(outbox, server, "new", "k")
            found: list[str] = []
            for _ in range(4):
                found += await read(outbox, 2)
            assert found == [*(f"late {number}" for number in range(5)), "new"]

    run(main())


def test_a_transaction_has_its_number_before_its_first_position(server: Server, run: Run) -> None:
    """A relay takes what a later number writes for later."""

    async def main() -> None:
        async with opened(server) as outbox:
            plan = server.sql(
                f"EXPLAIN (VERBOSE) {outbox._statements.insert}", ("i", "t", None, "y", "{}", None, None, 1)
            )
        lines = [line.strip() for (line,) in plan]
        scan = next(at for at, line in enumerate(lines) if "CTE Scan on begun" in line)
        assert "nextval" in lines[scan + 1]
        assert "Output: pg_current_xact_id()" in lines

    run(main())


def test_a_look_begins_where_the_transactions_that_have_ended_began() -> None:
    place = Place()
    place.reached(10, Snapshot(frozenset({5}), 7), 8)
    place.reached(20, Snapshot(frozenset({5}), 9), 10)
    place.reached(30, Snapshot(frozenset({5, 9}), 11), 12)
    assert place.late_from(Snapshot(frozenset({5, 7, 9, 11}), 13)) is None
    assert place.late_from(Snapshot(frozenset({5, 7, 11}), 13)) == 10
    assert place.late_from(Snapshot(frozenset({5, 7, 9}), 13)) == 20
    late = Snapshot(frozenset({7, 9, 11}), 13)
    assert place.late_from(late) == 0
    place.looked(late)
    assert place.late_from(late) is None


def test_marks_are_bounded_while_a_transaction_stays_open() -> None:
    place = Place()
    for number in range(10, 10_010):
        place.reached(number, Snapshot(frozenset({3}), number), number + 1)
    assert len(place._marks) <= 1000
    late = place.late_from(Snapshot(frozenset({3, *range(10, 10_009)}), 20_000))
    assert late is not None
    assert 9_990 < late < 10_009
    assert place.late_from(Snapshot(frozenset(), 20_000)) == 0


@pytest.mark.parametrize(
    ("text", "expected"), [("3:3:", ((), 3)), ("3:9:3,5", ((3, 5), 9))], ids=["none runs", "some run"]
)
def test_a_snapshot_is_read(text: str, expected: tuple[tuple[int, ...], int]) -> None:
    assert Snapshot.of(text) == Snapshot(frozenset(expected[0]), expected[1])


def test_a_look_that_began_before_it_was_told_to_begin_again_returns_nothing(server: Server, run: Run) -> None:
    """The relay has dropped rows meanwhile: those that it reads again come before what this look has found."""

    async def main() -> None:
        async with opened(server) as outbox:
            await written(outbox, server, "first", "k")
            assert await read(outbox) == ["first"]
            await written(outbox, server, "second", "k")
            fetch = outbox._fetch

            async def told(link: str, statement: str, *parameters: object) -> list[tuple[Any, ...]]:
                rows = await fetch(link, statement, *parameters)
                outbox.again()
                return rows

            outbox._fetch = told  # type: ignore[method-assign] # as when a lease ran out meanwhile
            assert await read(outbox) == []
            outbox._fetch = fetch  # type: ignore[method-assign] # the right one
            assert await read(outbox) == ["first", "second"]

    run(main())
