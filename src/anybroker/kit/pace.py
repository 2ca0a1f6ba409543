"""No more than so many a second."""

from __future__ import annotations

from time import monotonic

from ..errors import ConfigError

__all__ = ["Pace"]


class Pace:
    """When the next one may start, so that they are evenly apart; those that are late do not catch up."""

    def __init__(self, rate: float | None) -> None:
        """``rate``: how many a second; None: any number. Raises ConfigError."""
        if rate is not None and not 0 < rate < float("inf"):
            raise ConfigError(
                "rate", f"{rate!r} is not a number a second over 0", "Such as 50, or 0.5; or leave it out."
            )
        self._apart = 0.0 if rate is None else 1 / rate
        self._next = 0.0

    def wait(self) -> float:
        """Seconds until the next one may start; 0.0: now."""
        return max(0.0, self._next - monotonic()) if self._apart else 0.0

    def started(self, count: int = 1) -> None:
        """So many have started."""
        if self._apart:
            self._next = max(self._next, monotonic()) + count * self._apart
