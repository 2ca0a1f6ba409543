"""Idempotency stores, in which :class:`anybroker.middleware.idempotent` remembers which events are handled.

:class:`MemoryStore` and :class:`SqliteStore` are included. Other stores implement :class:`Store`, and
:class:`TransactionalStore` if handlers may share their transaction, and :class:`ParkingStore` if they remember parked
keys (``dead_letter(then="park")``). A package registers its store in the entry-point
group ``anybroker.stores`` under the scheme of its URL, as a function that takes a
:class:`~anybroker.adapter.BrokerUrl`.
"""

from ._options import read_store_url
from ._parking import ParkedRow, ParkingStore
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
    TransactionConflict,
)
from ._stores import make_store
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
    "ParkedRow",
    "ParkingStore",
    "SqliteStore",
    "SqliteTransaction",
    "Store",
    "StoreUnavailable",
    "Transaction",
    "TransactionConflict",
    "TransactionalStore",
    "make_store",
    "read_store_url",
]
