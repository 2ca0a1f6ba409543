"""How an event is laid out in a message, in the words of CloudEvents."""

from __future__ import annotations

from typing import Literal, TypeAlias

__all__ = ["Mode"]

Mode: TypeAlias = Literal["binary", "structured"]
"""CloudEvents content modes."""
