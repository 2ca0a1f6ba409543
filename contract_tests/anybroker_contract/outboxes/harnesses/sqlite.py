"""The outbox in an SQLite file: every test has its own file."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import ClassVar

from anybroker.idempotency import SqliteStore
from anybroker.outbox import SqliteOutbox
from anybroker.outbox.sqlite_tables import DDL

from ..harness import Outbox, OutboxHarness, Writer
from ._filling import shards_of

__all__ = ["SqliteOutboxes"]

BUSY = 1.0
"""Seconds that an outbox waits for the lock of the file."""


class SqliteWriter:
    """A connection of the event loop's thread."""

    def __init__(self, place: str) -> None:
        self.within = sqlite3.connect(place, timeout=10.0)

    async def effect(self, text: str) -> None:
        """One row."""
        self.within.execute("INSERT INTO effect VALUES (?)", (text,))

    async def fail(self) -> None:
        """Nothing: a failed statement leaves the transaction as it was."""

    async def commit(self) -> None:
        """Writer.commit."""
        self.within.commit()

    async def rollback(self) -> None:
        """Writer.rollback."""
        self.within.rollback()

    async def close(self) -> None:
        """Writer.close."""
        self.within.close()


class SqliteOutboxes(OutboxHarness):
    """A file in the test's folder. What a lock that somebody keeps does to it is like a server that does not answer."""

    name: ClassVar[str] = "sqlite"
    timeout: ClassVar[float] = 2 * BUSY  # a connection that opens the file again waits for the lock too
    detail = f"files in temporary folders, SQLite {sqlite3.sqlite_version}"

    def __init__(self) -> None:
        self._locked: sqlite3.Connection | None = None

    def place(self, folder: Path) -> str:
        """The path of a new file."""
        return str(folder / "outbox.db")

    def prepare(self, place: str) -> None:
        """Its DDL, and the table of effects."""
        with closing(sqlite3.connect(place)) as file:
            file.execute("PRAGMA journal_mode = WAL")
            file.executescript(DDL)
            file.execute("CREATE TABLE effect(text TEXT NOT NULL)")
            file.commit()

    def outbox(self, place: str, *, create: bool = True) -> Outbox:
        """A new object."""
        return SqliteOutbox(place, create=create, busy_timeout=BUSY)

    def names(self, place: str) -> str:
        """The file."""
        return place

    def kinds(self) -> Sequence[str]:
        """One."""
        return ("sqlite3",)

    def threads(self) -> Sequence[str]:
        """A connection may only be used in the thread that made it."""
        return ("sqlite3",)

    async def writer(self, place: str, kind: str) -> Writer:
        """A new connection."""
        return SqliteWriter(place)

    async def reader(self, place: str, *, writes: bool) -> Writer:
        """One that has read: nobody could write beside one that has written."""
        writer = SqliteWriter(place)
        writer.within.execute("BEGIN")
        writer.within.execute("SELECT count(*) FROM anybroker_outbox").fetchone()
        return writer

    def insert(self, place: str, topic: str, key: str | None, payload: str, headers: str | None) -> None:
        """By SQL."""
        with closing(sqlite3.connect(place)) as file:
            file.execute(
                "INSERT INTO anybroker_outbox (id, aggregatetype, aggregateid, type, payload, headers, shard) "
                "VALUES ('foreign', ?, ?, 'foreign', ?, ?, 0)",
                (topic, key, payload, headers),
            )
            file.commit()

    def fill(self, place: str, count: int, keys: int) -> None:
        """By one statement."""
        with closing(sqlite3.connect(place)) as file:
            file.execute("CREATE TEMP TABLE slot (number INTEGER PRIMARY KEY, shard INTEGER)")
            file.executemany("INSERT INTO slot VALUES (?, ?)", enumerate(shards_of(keys)))
            file.execute(
                "WITH RECURSIVE row(number) AS (SELECT 0 UNION ALL SELECT number + 1 FROM row WHERE number < ? - 1) "
                "INSERT INTO anybroker_outbox (id, aggregatetype, aggregateid, type, payload, headers, shard) "
                "SELECT id || '-' || row.number, 'backlog', 'k' || slot.number, type, payload, headers, slot.shard "
                "FROM row JOIN slot ON slot.number = row.number % ?, anybroker_outbox first "
                "WHERE first.aggregatetype = 'backlog'",
                (count, keys),
            )
            file.commit()

    def effects(self, place: str) -> Sequence[str]:
        """All rows."""
        with closing(sqlite3.connect(place)) as file:
            return [str(row[0]) for row in file.execute("SELECT text FROM effect ORDER BY rowid")]

    def store(self, place: str) -> SqliteStore:
        """In the same file."""
        return SqliteStore(place)

    def freeze(self, place: str) -> None:
        """Keep the lock that every write needs."""
        self._locked = sqlite3.connect(place, isolation_level=None, check_same_thread=False, timeout=10.0)
        self._locked.execute("BEGIN IMMEDIATE")

    def thaw(self, place: str) -> None:
        """Let go of it."""
        if self._locked is not None:
            self._locked.close()
            self._locked = None
