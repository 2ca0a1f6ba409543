"""PostgreSQL for anybroker: an idempotency store whose transaction handlers may share, and an outbox. See the README
beside this package."""

from __future__ import annotations

from .all_tables import all_tables
from .database import PostgresDatabase, database_of_url
from .outbox import PostgresOutbox, outbox_of_url
from .store import PostgresStore, store_of_url
from .transaction import PostgresTransaction

__all__ = [
    "PostgresDatabase",
    "PostgresOutbox",
    "PostgresStore",
    "PostgresTransaction",
    "all_tables",
    "database_of_url",
    "outbox_of_url",
    "store_of_url",
]
