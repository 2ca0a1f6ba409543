"""The transaction of the running handler, for its annotated parameter."""

from __future__ import annotations

from contextvars import ContextVar

__all__ = ["current_transaction"]

current_transaction: ContextVar[object] = ContextVar("anybroker_current_transaction", default=None)
"""Set while a handler with such a parameter runs: the Transaction, or what it gives for the parameter's annotation."""
