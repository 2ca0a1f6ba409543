"""Each service has a database of its own, as services do."""

from __future__ import annotations

import sqlite3

from .settings import demo

__all__ = ["database"]


def database(name: str, *tables: str) -> sqlite3.Connection:
    """Open the database of a service, and make its tables. Each statement is a transaction unless one was begun."""
    db = sqlite3.connect(demo().folder / f"{name}.db", isolation_level=None)
    db.execute("PRAGMA journal_mode=WAL")
    db.execute("PRAGMA synchronous=OFF")  # the demo kills processes, not the machine
    for table in tables:
        db.execute(f"CREATE TABLE IF NOT EXISTS {table}")
    return db
