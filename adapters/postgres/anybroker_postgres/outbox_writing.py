"""Writing rows in the caller's transaction, whatever the caller's driver is."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import psycopg
from psycopg import errors
from psycopg.rows import tuple_row

from anybroker.errors import ConfigError
from anybroker.kit.callers_thread import callers_thread
from anybroker.kit.foreign_objects import comes_from, dialect_of, is_asynchronous
from anybroker.outbox import Entry

from .transaction import PostgresTransaction

__all__ = ["in_parts", "taken_by", "write"]

_MOST_ROWS = 1_000
_MOST_CHARACTERS = 8_000_000
"""Of payloads in one statement: both ends hold all of it in memory, some times over."""


def taken_by(within: object) -> bool:
    """Whether a row can be written into it."""
    return (
        isinstance(within, PostgresTransaction | psycopg.AsyncConnection | psycopg.Connection)
        or (comes_from(within, "sqlalchemy", "execute") and dialect_of(within) in (None, "postgresql"))
        or comes_from(within, "django", "cursor")
    )


def in_parts(entries: Sequence[Entry]) -> Iterator[Sequence[Entry]]:
    """Those for one statement each."""
    begin = size = 0
    for number, entry in enumerate(entries):
        size += len(entry.payload)
        if number > begin and (number - begin == _MOST_ROWS or size > _MOST_CHARACTERS):
            yield entries[begin:number]
            begin, size = number, len(entry.payload)
    yield entries[begin:]


async def write(statement: str, parameters: Sequence[object], within: Any) -> Any:
    """The first column of the one row that the statement returns: positions. Raises what the driver raises; ConfigError
    where there is no table."""
    try:
        return await _write(statement, parameters, within)
    except Exception as exc:
        if _sqlstate(exc) == errors.UndefinedTable.sqlstate:
            raise ConfigError(
                "publish(within=)",
                "the database of this transaction has no table anybroker_outbox where its search_path looks",
                "'anybroker db sql postgres' prints the statements that make it; a relay makes it when it starts. Give "
                "PostgresOutbox(schema=) if it is in another schema.",
            ) from exc
        raise


async def _write(statement: str, parameters: Sequence[object], within: Any) -> Any:
    if isinstance(within, PostgresTransaction):
        within = await within.connection()
    if isinstance(within, psycopg.AsyncConnection):
        async with psycopg.AsyncCursor(within, row_factory=tuple_row) as cursor:
            await cursor.execute(statement.encode(), parameters)
            return _first(await cursor.fetchone())
    if comes_from(within, "sqlalchemy", "execute"):
        from sqlalchemy import text

        named = text(_NAMED.sub(_Numbered(), statement)), {f"p{n}": value for n, value in enumerate(parameters)}
        if is_asynchronous(within):
            return _first((await within.execute(*named)).first())
        return await _in_its_thread(lambda: _first(within.execute(*named).first()))
    if isinstance(within, psycopg.Connection):
        return await _in_its_thread(lambda: _write_here(statement, parameters, within))
    if (thread := callers_thread.get()) is None:
        raise ConfigError(
            "publish(within=)",
            "Django's connections belong to the thread that opened them, and this is the event loop's",
            "Call bus.from_thread.publish(…, within=connection) in the view, or within sync_to_async.",
        )
    return await thread.call(lambda: _write_with_django(statement, parameters, within))


async def _in_its_thread(write: Callable[[], Any]) -> Any:
    """In the thread that waits for it in ``bus.from_thread``, else in one of its own, while the caller waits."""
    thread = callers_thread.get()
    return await (asyncio.to_thread(write) if thread is None else thread.call(write))


def _write_here(statement: str, parameters: Sequence[object], within: psycopg.Connection[Any]) -> Any:
    with psycopg.Cursor(within, row_factory=tuple_row) as cursor:
        return _first(cursor.execute(statement.encode(), parameters).fetchone())


def _write_with_django(statement: str, parameters: Sequence[object], within: Any) -> Any:
    with within.cursor() as cursor:
        cursor.execute(statement, parameters)
        return _first(cursor.fetchone())


def _first(row: Any) -> Any:
    return row[0]


_NAMED = re.compile(r"%s|%%")


class _Numbered:
    """``%s`` becomes ``:p0``, ``:p1``, …, as SQLAlchemy wants it."""

    def __init__(self) -> None:
        self._next = 0

    def __call__(self, found: re.Match[str]) -> str:
        if found[0] == "%%":
            return "%"
        name = f":p{self._next}"
        self._next += 1
        return name


def _sqlstate(exc: BaseException) -> str | None:
    """Of the driver's error, or of the one that SQLAlchemy or Django has wrapped."""
    original = getattr(exc, "orig", None) or exc.__cause__ or exc
    code = getattr(original, "sqlstate", None) or getattr(exc, "sqlstate", None)
    return code if isinstance(code, str) else None
