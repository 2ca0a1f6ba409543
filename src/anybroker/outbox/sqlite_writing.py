"""Writing a row in the caller's transaction: through ``sqlite3``, a step of a handler's transaction, or SQLAlchemy."""

from __future__ import annotations

import sqlite3
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


async def write(entry: Entry, within: object) -> int:
    """The position of the row. Raises what the driver raises; ConfigError where the file has no such table."""
    if isinstance(within, sqlite3.Connection):
        if (thread := callers_thread.get()) is None:
            return tables.insert(within, entry)
        return await thread.call(lambda: tables.insert(within, entry))
    if isinstance(within, SqliteTransaction):
        return await within.run(lambda connection: tables.insert(connection, entry))
    try:
        return await _write_by_sqlalchemy(entry, within)
    except Exception as exc:
        original = getattr(exc, "orig", None)
        if isinstance(original, sqlite3.OperationalError) and tables.lacks_table(original):
            raise tables.no_table("publish(within=)") from exc
        raise


async def _write_by_sqlalchemy(entry: Entry, within: Any) -> int:
    if is_asynchronous(within):
        connection = within if hasattr(within, "exec_driver_sql") else await within.connection()
        return int((await connection.exec_driver_sql(tables.INSERT, tuple(entry))).lastrowid)
    thread = callers_thread.get()
    return _write_here(entry, within) if thread is None else await thread.call(lambda: _write_here(entry, within))


def _write_here(entry: Entry, within: Any) -> int:
    connection = within if hasattr(within, "exec_driver_sql") else within.connection()
    return int(connection.exec_driver_sql(tables.INSERT, tuple(entry)).lastrowid)
