"""Idempotency stores, in which :class:`anybroker.middleware.idempotent` remembers which events are handled.

:class:`MemoryStore` and :class:`SqliteStore` are here. Another one fills :class:`Store`, and
:class:`TransactionalStore` too where handlers may share its transaction. A package names it in the entry-point group
``anybroker.stores`` by the scheme of its URL, as a function of a :class:`~anybroker.adapter.BrokerUrl`.
"""

from ._store import (
    DONE,
    Busy,
    Claim,
    ClaimLost,
    Done,
    Key,
    Store,
    StoreUnavailable,
    Transaction,
    TransactionalStore,
)
from .memory import MemoryStore
from .sqlite import SqliteStore, SqliteTransaction

__all__ = [
    "DONE",
    "Busy",
    "Claim",
    "ClaimLost",
    "Done",
    "Key",
    "MemoryStore",
    "SqliteStore",
    "SqliteTransaction",
    "Store",
    "StoreUnavailable",
    "Transaction",
    "TransactionalStore",
]
