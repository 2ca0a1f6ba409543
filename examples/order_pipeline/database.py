"""Each service has its own database, and so has the bank."""

from __future__ import annotations

import sqlite3

from anybroker.idempotency import SqliteStore

from .settings import demo

__all__ = ["books", "database"]


def books(service: str, *tables: str) -> SqliteStore:
    """A service's database, which also remembers the events that the service has handled."""

    def prepare(db: sqlite3.Connection) -> None:
        for table in tables:
            db.execute(f"CREATE TABLE IF NOT EXISTS {table}")

    return SqliteStore(demo().folder / f"{service}.db", prepare=prepare)


def database(name: str, *tables: str) -> sqlite3.Connection:
    """A plain database; each statement is a transaction."""
    db = sqlite3.connect(demo().folder / f"{name}.db", isolation_level=None)
    db.execute("PRAGMA journal_mode=WAL")
    db.execute("PRAGMA synchronous=OFF")  # the demo kills processes, not the machine
    for table in tables:
        db.execute(f"CREATE TABLE IF NOT EXISTS {table}")
    return db
