"""How long to wait before the next try: the only place where the library backs off."""

from __future__ import annotations

from collections.abc import Sequence
from random import random

__all__ = ["Backoff", "Delays"]


class Backoff:
    """Full jitter: the n-th wait is a random time between 0 and ``first * factor ** n`` seconds, capped.

    Full jitter spreads members that failed together; see "Exponential Backoff And Jitter" in the AWS Architecture Blog.
    """

    __slots__ = ("_cap", "_factor", "_first", "_floor", "tries")

    def __init__(self, first: float = 0.05, cap: float = 5.0, factor: float = 2.0, floor: float = 0.0) -> None:
        self._first = first
        self._cap = cap
        self._factor = float(factor)
        self._floor = floor
        self.tries = 0

    def next(self) -> float:
        """The next wait in seconds."""
        self.tries += 1
        return self.wait(self.tries)

    def wait(self, tries: int) -> float:
        """The wait after this many tries, in seconds."""
        try:
            highest = min(self._cap, self._first * self._factor ** (tries - 1))
        except OverflowError:
            highest = self._cap if self._first else 0.0
        return max(self._floor, random() * highest)

    def reset(self) -> None:
        """The last try succeeded."""
        self.tries = 0


class Delays:
    """The n-th wait is the n-th of these, in seconds, and then always the last one. Without jitter."""

    __slots__ = ("_seconds",)

    def __init__(self, seconds: Sequence[float]) -> None:
        """At least one."""
        self._seconds = tuple(map(float, seconds))

    def __len__(self) -> int:
        return len(self._seconds)

    def wait(self, tries: int) -> float:
        """The wait after this many tries, in seconds."""
        return self._seconds[min(tries, len(self._seconds)) - 1]
