"""The tables of the store, of parked keys and of the outbox: who needs which, and all of them for the command."""

from __future__ import annotations

from collections.abc import Sequence

from anybroker.idempotency import StoreUnavailable
from anybroker.outbox import OutboxUnavailable

from . import ddl, outbox_ddl, parking_ddl
from .schema import Tables

__all__ = ["OUTBOX_TABLES", "PARKING_TABLES", "STORE_TABLES", "all_tables"]

STORE_TABLES = Tables(
    ddl.PART,
    ddl.VERSION,
    ("anybroker_claim",),
    ddl.statements,
    ddl.privileges,
    "idempotency",
    "the idempotency store",
    StoreUnavailable,
)
PARKING_TABLES = Tables(
    parking_ddl.PART,
    parking_ddl.VERSION,
    parking_ddl.TABLES,
    parking_ddl.statements,
    parking_ddl.privileges,
    "idempotency",
    "the idempotency store, for parked keys",
    StoreUnavailable,
)
OUTBOX_TABLES = Tables(
    outbox_ddl.PART,
    outbox_ddl.VERSION,
    outbox_ddl.TABLES,
    outbox_ddl.statements,
    outbox_ddl.privileges,
    "PostgresOutbox",
    "the outbox",
    OutboxUnavailable,
)


def all_tables(schema: str | None = None) -> Sequence[str]:
    """The statements, each without its semicolon. Running them again changes nothing."""
    first = [] if schema is None else [ddl.create_schema(schema)]
    parts = (ddl, parking_ddl, outbox_ddl)
    return list(dict.fromkeys([*first, *(each for part in parts for each in part.statements(schema))]))
