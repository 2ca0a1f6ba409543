"""The outbox: events that are written into the application's own transaction, and relayed after its commit.

``await bus.publish("orders", OrderPlaced(…), within=connection)`` writes a row; an :class:`OutboxRelay` publishes it. A
table is an :class:`OutboxTable`: :class:`SqliteOutbox` is included, others come with the adapters of databases.
"""

from .choosing import Outbox
from .entry import SHARDS, Entry
from .relay import OutboxRelay
from .shares import Share, share_of
from .sqlite import SqliteOutbox
from .table import OutboxTable, OutboxUnavailable, Parked, Row, Taken, Waiting

__all__ = [
    "SHARDS",
    "Entry",
    "Outbox",
    "OutboxRelay",
    "OutboxTable",
    "OutboxUnavailable",
    "Parked",
    "Row",
    "Share",
    "SqliteOutbox",
    "Taken",
    "Waiting",
    "share_of",
]
