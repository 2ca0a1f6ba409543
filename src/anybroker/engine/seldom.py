"""Logging what happens repeatedly without filling the log."""

from __future__ import annotations

from time import monotonic

__all__ = ["Seldom"]


class Seldom:
    """Called each time that something happens, says whether to log it now: the first time, then once a minute."""

    __slots__ = ("_count", "_due", "_every")

    def __init__(self, every: float = 60.0) -> None:
        self._every = every
        self._due = float("-inf")
        self._count = 0

    def __call__(self) -> int:
        """How often it has happened since it was last logged, this time included; 0: do not log it now."""
        self._count += 1
        now = monotonic()
        if now < self._due:
            return 0
        self._due = now + self._every
        count, self._count = self._count, 0
        return count
