"""What other libraries' exceptions say, as part of a sentence of ours."""

from __future__ import annotations

__all__ = ["said"]


def said(exc: BaseException) -> str:
    """What an exception says: one line that is never empty, without a full stop."""
    return " ".join(str(exc).split()).rstrip(". ") or type(exc).__name__
