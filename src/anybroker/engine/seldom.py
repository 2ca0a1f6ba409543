"""Saying what happens again and again without filling the log."""

from __future__ import annotations

from time import monotonic

__all__ = ["Seldom"]


class Seldom:
    """Asked at each time that something happened: whether to log it now. At once for the first, then once a minute."""

    __slots__ = ("_count", "_due", "_every")

    def __init__(self, every: float = 60.0) -> None:
        self._every = every
        self._due = float("-inf")
        self._count = 0

    def __call__(self) -> int:
        """How often it has happened since it was logged last, this time included; 0: not to be logged now."""
        self._count += 1
        now = monotonic()
        if now < self._due:
            return 0
        self._due = now + self._every
        count, self._count = self._count, 0
        return count
