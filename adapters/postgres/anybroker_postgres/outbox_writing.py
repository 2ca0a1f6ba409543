"""Writing a row in the caller's transaction, whatever the caller's driver is."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Any

import psycopg
from psycopg import errors
from psycopg.rows import tuple_row

from anybroker.errors import ConfigError
from anybroker.kit.callers_thread import callers_thread
from anybroker.kit.foreign_objects import comes_from, dialect_of, is_asynchronous
from anybroker.outbox import Entry

from .transaction import PostgresTransaction

__all__ = ["taken_by", "write"]


def taken_by(within: object) -> bool:
    """Whether a row can be written into it."""
    return (
        isinstance(within, PostgresTransaction | psycopg.AsyncConnection | psycopg.Connection)
        or (comes_from(within, "sqlalchemy", "execute") and dialect_of(within) in (None, "postgresql"))
        or comes_from(within, "django", "cursor")
    )


async def write(statement: str, entry: Entry, within: Any) -> int:
    """The position of the row. Raises what the driver raises; ConfigError where there is no table."""
    try:
        position: int = await _write(statement, entry, within)
    except Exception as exc:
        if _sqlstate(exc) == errors.UndefinedTable.sqlstate:
            raise ConfigError(
                "publish(within=)",
                "the database of this transaction has no table anybroker_outbox where its search_path looks",
                "'anybroker db sql postgres' prints the statements that make it; a relay makes it when it starts. Give "
                "PostgresOutbox(schema=) if it is in another schema.",
            ) from exc
        raise
    return position


async def _write(statement: str, entry: Entry, within: Any) -> int:
    if isinstance(within, PostgresTransaction):
        within = await within.connection()
    if isinstance(within, psycopg.AsyncConnection):
        async with psycopg.AsyncCursor(within, row_factory=tuple_row) as cursor:
            await cursor.execute(statement.encode(), entry)
            return _position(await cursor.fetchone())
    if comes_from(within, "sqlalchemy", "execute"):
        from sqlalchemy import text

        named = text(_NAMED.sub(_Numbered(), statement)), {f"p{n}": value for n, value in enumerate(entry)}
        if is_asynchronous(within):
            return _position((await within.execute(*named)).first())
        return await _in_its_thread(lambda: _position(within.execute(*named).first()))
    if isinstance(within, psycopg.Connection):
        return await _in_its_thread(lambda: _write_here(statement, entry, within))
    if (thread := callers_thread.get()) is None:
        raise ConfigError(
            "publish(within=)",
            "Django's connections belong to the thread that opened them, and this is the event loop's",
            "Call bus.from_thread.publish(…, within=connection) in the view, or within sync_to_async.",
        )
    return await thread.call(lambda: _write_with_django(statement, entry, within))


async def _in_its_thread(write: Callable[[], int]) -> int:
    """In the thread that waits for it in ``bus.from_thread``, else in one of its own, while the caller waits."""
    thread = callers_thread.get()
    return await (asyncio.to_thread(write) if thread is None else thread.call(write))


def _write_here(statement: str, entry: Entry, within: psycopg.Connection[Any]) -> int:
    with psycopg.Cursor(within, row_factory=tuple_row) as cursor:
        return _position(cursor.execute(statement.encode(), entry).fetchone())


def _write_with_django(statement: str, entry: Entry, within: Any) -> int:
    with within.cursor() as cursor:
        cursor.execute(statement, entry)
        return _position(cursor.fetchone())


def _position(row: Any) -> int:
    return int(row[0])


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
