"""The store in an SQLite file: every test has its own file."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, closing
from pathlib import Path
from typing import ClassVar

from anybroker.idempotency import SqliteStore, SqliteTransaction, Store

from ..clock import shifted
from ..harness import StoreHarness

__all__ = ["SqliteStores"]

BUSY = 1.0
"""Seconds that a store waits for the lock of the file."""


class SqliteStores(StoreHarness):
    """A file in the test's folder. What a lock that somebody keeps does to it is like a server that does not answer."""

    name: ClassVar[str] = "sqlite"
    transactional: ClassVar[bool] = True
    parking: ClassVar[bool] = True
    timeout: ClassVar[float] = 2 * BUSY  # a connection that opens the file again waits for the lock too
    portion: ClassVar[int | None] = 1_000  # 500 of each table
    detail = f"files in temporary folders, SQLite {sqlite3.sqlite_version}"

    def __init__(self) -> None:
        self._locked: sqlite3.Connection | None = None

    def place(self, folder: Path) -> str:
        """The path of a new file."""
        return str(folder / "store.db")

    def store(self, place: str, *, retain: float | None = None) -> Store:
        """A new object."""
        if retain is None:
            return SqliteStore(place, busy_timeout=BUSY)
        return SqliteStore(place, busy_timeout=BUSY, retain=retain)

    def names(self, place: str) -> str:
        """The file."""
        return place

    def by_url(self, place: str) -> str:
        """By its absolute path."""
        return f"sqlite:///{place}"

    async def effect(self, transaction: SqliteTransaction, text: str) -> None:
        """One row."""
        await transaction.execute("INSERT INTO effect VALUES (?)", (text,))

    def effects(self, place: str) -> Sequence[str]:
        """All rows."""
        with closing(sqlite3.connect(place)) as file:
            return [str(row[0]) for row in file.execute("SELECT text FROM effect ORDER BY rowid")]

    def prepare_effects(self, place: str) -> None:
        """The table."""
        with closing(sqlite3.connect(place)) as file:
            file.execute("CREATE TABLE effect(text TEXT NOT NULL)")

    def clock(self) -> AbstractContextManager[Callable[[float], None]]:
        """This process's: a file has none."""
        return shifted("anybroker.idempotency")

    def freeze(self, place: str) -> None:
        """Keep the lock that every write needs."""
        self._locked = sqlite3.connect(place, isolation_level=None, check_same_thread=False, timeout=10.0)
        self._locked.execute("BEGIN IMMEDIATE")

    def thaw(self, place: str) -> None:
        """Let go of it."""
        if self._locked is not None:
            self._locked.close()
            self._locked = None
