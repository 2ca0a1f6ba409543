"""Where a running handler finds the transaction that its parameter asks for."""

from __future__ import annotations

from contextvars import ContextVar

from ._store import Transaction

__all__ = ["current_transaction"]

current_transaction: ContextVar[Transaction | None] = ContextVar("anybroker_current_transaction", default=None)
"""Set while a handler with such a parameter runs."""
