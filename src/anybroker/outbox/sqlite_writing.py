"""Writing rows in the caller's transaction: through ``sqlite3``, a step of a handler's transaction, or SQLAlchemy."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any

from ..idempotency.sqlite import SqliteTransaction
from ..kit.callers_thread import callers_thread
from ..kit.foreign_objects import comes_from, dialect_of, is_asynchronous
from . import sqlite_tables as tables
from .entry import Entry

__all__ = ["taken_by", "write"]


def taken_by(within: object) -> bool:
    """Whether a row can be written into it."""
    return isinstance(within, sqlite3.Connection | SqliteTransaction) or (
        comes_from(within, "sqlalchemy", "execute") and dialect_of(within) == "sqlite"
    )


async def write(entries: Sequence[Entry], within: object) -> list[int]:
    """The positions of the rows, which are written in this order. Raises what the driver raises; ConfigError where the
    file has no such table."""
    if isinstance(within, sqlite3.Connection):
        if (thread := callers_thread.get()) is None:
            return _insert(within, entries)
        return await thread.call(lambda: _insert(within, entries))
    if isinstance(within, SqliteTransaction):
        return await within.run(lambda connection: _insert(connection, entries))
    try:
        return await _write_by_sqlalchemy(entries, within)
    except Exception as exc:
        original = getattr(exc, "orig", None)
        if isinstance(original, sqlite3.OperationalError) and tables.lacks_table(original):
            raise tables.no_table("publish(within=)") from exc
        raise


def _insert(connection: sqlite3.Connection, entries: Sequence[Entry]) -> list[int]:
    return [tables.insert(connection, entry) for entry in entries]


async def _write_by_sqlalchemy(entries: Sequence[Entry], within: Any) -> list[int]:
    if is_asynchronous(within):
        connection = within if hasattr(within, "exec_driver_sql") else await within.connection()
        if len(entries) == 1:
            return [int((await connection.exec_driver_sql(tables.INSERT, tuple(entries[0]))).lastrowid)]
        # Each statement goes to the thread of the driver and back. No other connection writes in between, so the
        # positions have no gaps.
        await connection.exec_driver_sql(tables.INSERT, [tuple(entry) for entry in entries])
        last = int((await connection.exec_driver_sql(tables.LAST)).scalar_one())
        return list(range(last - len(entries) + 1, last + 1))
    thread = callers_thread.get()
    return _write_here(entries, within) if thread is None else await thread.call(lambda: _write_here(entries, within))


def _write_here(entries: Sequence[Entry], within: Any) -> list[int]:
    connection = within if hasattr(within, "exec_driver_sql") else within.connection()
    return [int(connection.exec_driver_sql(tables.INSERT, tuple(entry)).lastrowid) for entry in entries]
