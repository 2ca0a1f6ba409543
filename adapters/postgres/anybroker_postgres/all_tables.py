"""The tables of the store and of the outbox together: for ``anybroker db sql postgres``."""

from __future__ import annotations

from collections.abc import Sequence

from . import ddl, outbox_ddl

__all__ = ["all_tables"]


def all_tables(schema: str | None = None) -> Sequence[str]:
    """The statements, each without its semicolon. Running them again changes nothing."""
    first = [] if schema is None else [ddl.create_schema(schema)]
    return list(dict.fromkeys([*first, *ddl.statements(schema), *outbox_ddl.statements(schema)]))
