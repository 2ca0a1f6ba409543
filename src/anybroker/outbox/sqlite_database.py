"""``anybroker db`` for an SQLite file: what is there of the tables, and bringing them to this release's version."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from ..adapter import BrokerUrl
from ..errors import ConfigError, Unavailable
from ..idempotency import _sqlite_tables as store
from ..kit.file_access import make_private
from ..kit.tables import Database, Migrated, Steps, TablesState, check_not_newer, statements_between
from . import sqlite_tables as outbox

__all__ = ["SqliteDatabase", "SqlitePart", "all_tables", "database_of_url"]

_T = TypeVar("_T")

_BUSY = 10.0
"""Seconds to wait for somebody else who writes the file."""


@dataclass(frozen=True)
class SqlitePart:
    """What is needed of one part."""

    version: int
    script: str
    """What makes it in an empty file."""
    table: str
    """Of the versions."""
    read: str
    """The statement that reads the version."""
    write: str
    """The statement that writes it."""
    steps: Steps = field(default_factory=dict)


PARTS: Mapping[str, SqlitePart] = {
    "store": SqlitePart(
        store.VERSION,
        ";".join(store.TABLES),
        "anybroker_idempotency",
        "SELECT version FROM anybroker_idempotency",
        "INSERT OR REPLACE INTO anybroker_idempotency (rowid, version) VALUES (1, ?)",
    ),
    "outbox": SqlitePart(
        outbox.VERSION,
        outbox.DDL,
        "anybroker_schema",
        "SELECT version FROM anybroker_schema WHERE part = 'outbox'",
        "INSERT INTO anybroker_schema (part, version) VALUES ('outbox', ?) "
        "ON CONFLICT (part) DO UPDATE SET version = excluded.version",
    ),
}


class SqliteDatabase:
    """The tables in one file.

    :param parts: by name, what is needed of each; by default that of this release.
    """

    def __init__(self, path: Path, parts: Mapping[str, SqlitePart] = PARTS) -> None:
        self._path = path
        self._parts = parts

    @property
    def target(self) -> str:
        """The file."""
        return str(self._path)

    async def check(self, parts: Sequence[str], /) -> Sequence[TablesState]:
        """Database.check."""

        def checking(connection: sqlite3.Connection) -> Sequence[TablesState]:
            return [self._state(connection, part) for part in parts]

        return await asyncio.to_thread(self._connected, checking, "ro")

    async def migrate(self, parts: Sequence[str], /) -> Sequence[Migrated]:
        """Database.migrate. The lock is that of the file; a file that does not exist is made."""

        def migrating(connection: sqlite3.Connection) -> Sequence[Migrated]:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("BEGIN IMMEDIATE")
            done = [self._migrated(connection, part) for part in parts]
            connection.execute("COMMIT")
            return done

        return await asyncio.to_thread(self._connected, migrating, "rwc")

    def _connected(self, work: Callable[[sqlite3.Connection], _T], mode: str) -> _T:
        if not self._path.parent.is_dir():
            raise ConfigError("URL", f"there is no folder {self._path.parent}")
        if mode == "ro" and not self._path.exists():
            raise ConfigError("URL", f"there is no file {self._path}", "anybroker db migrate makes it.")
        if mode != "ro":
            make_private(self._path)
        try:
            uri = f"{self._path.absolute().as_uri()}?mode={mode}"
            with closing(sqlite3.connect(uri, uri=True, timeout=_BUSY, isolation_level=None)) as connection:
                return work(connection)  # what is not committed is rolled back by closing
        except sqlite3.OperationalError as exc:
            raise Unavailable(f"{self._path}: {exc}; nothing was changed") from exc
        except sqlite3.DatabaseError as exc:
            raise ConfigError("URL", f"{self._path}: {exc}", "Name an SQLite file.") from exc

    def _state(self, connection: sqlite3.Connection, part: str) -> TablesState:
        needed = self._parts[part]
        there, found = _objects(connection), None
        if needed.table in there:
            row = connection.execute(needed.read).fetchone()
            found = None if row is None else int(row[0])
        state = TablesState(part, found, needed.version, tuple(_missing(needed, connection)))
        if state.fits:
            return state
        newer = found is not None and found > needed.version
        return state._replace(
            remedy="update anybroker here: an older release cannot use them" if newer else "anybroker db migrate"
        )

    def _migrated(self, connection: sqlite3.Connection, part: str) -> Migrated:
        before, needed = self._state(connection, part), self._parts[part]
        check_not_newer(self._path, before)
        if before.fits:
            return Migrated(part, before.found, needed.version)
        if before.found is not None:
            for statement in statements_between(before.found, needed.version, needed.steps):
                connection.execute(statement.format(schema=""))
        there = _objects(connection)
        for name, statement in _objects_of(needed).items():
            if name not in there:
                connection.execute(statement)
        if before.found != needed.version:
            connection.execute(needed.write, (needed.version,))
        if lacks := list(_missing(needed, connection)):
            raise ConfigError(
                f"tables of the {part}",
                f"{self._path}: {', '.join(lacks)} cannot be made: a table of that name is there, and not as this "
                "library makes it. Nothing was changed",
                "Rename it, or use another file.",
            )
        return Migrated(part, before.found, needed.version, before.missing)


def _objects(connection: sqlite3.Connection) -> dict[str, str]:
    """Tables and indexes that somebody has made, tables first, with their statements."""
    return dict(
        connection.execute(
            "SELECT name, sql FROM sqlite_master WHERE type IN ('table', 'index') AND sql IS NOT NULL "
            "AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY type DESC, rowid"
        ).fetchall()
    )


def _columns(connection: sqlite3.Connection) -> list[tuple[str, str]]:
    """Tables with their columns."""
    found: list[tuple[str, str]] = connection.execute(
        "SELECT t.name, c.name FROM sqlite_master t JOIN pragma_table_info(t.name) c WHERE t.type = 'table' "
        "AND t.name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY t.rowid, c.cid"
    ).fetchall()
    return found


def _objects_of(part: SqlitePart) -> dict[str, str]:
    with closing(sqlite3.connect(":memory:")) as empty:
        empty.executescript(part.script)
        return _objects(empty)


def _missing(part: SqlitePart, connection: sqlite3.Connection) -> list[str]:
    """What is not there of what the script makes."""
    with closing(sqlite3.connect(":memory:")) as empty:
        empty.executescript(part.script)
        needed, columns = _objects(empty), _columns(empty)
    there, has = _objects(connection), set(_columns(connection))
    tables = {table for table, _ in columns}
    lacking = [f"table {name}" if name in tables else f"index {name}" for name in needed if name not in there]
    return lacking + [
        f"column {table}.{name}" for table, name in columns if table in there and (table, name) not in has
    ]


def all_tables(schema: str | None = None) -> Sequence[str]:
    """The statements that make the outbox's, each without its semicolon; the store makes its own."""
    if schema is not None:
        raise ConfigError("--schema", "SQLite has none")
    return outbox.DDL.rstrip(";\n").split(";\n")


def database_of_url(url: BrokerUrl) -> Database:
    """The file of ``sqlite:///file.db``: for the entry point."""
    if url.hosts or len(url.path) < 2:
        raise ConfigError("URL", f"{url} names no file", "Write sqlite:///shop.db for a file in the working folder.")
    if url.options:
        raise ConfigError(f"URL option {next(iter(url.options))!r}", "there is no such option")
    return SqliteDatabase(Path(url.path[1:]))
