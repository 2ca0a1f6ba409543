"""When a failed event starts again, by the number of starts that it had: the levels of ``retry``, one after the other.

The number alone decides which level an event is at, so that it is the same on every member and after a restart.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from ..delivery import Delivery
from ..engine.backoff import Backoff, Delays
from ..engine.failures import first_failure

__all__ = ["Level", "Schedule"]


@dataclass(frozen=True, slots=True)
class Level:
    """Some starts in a row with the same kind of wait."""

    waits: int | None
    """How many waits it has, each before one start; None: without a limit."""
    between: Backoff | Delays
    release: bool
    """Whether the event leaves meanwhile."""


class Schedule:
    """All levels of one policy."""

    __slots__ = ("_for", "_levels", "by_copy", "starts")

    def __init__(self, levels: Sequence[Level], for_: float | None) -> None:
        """``for_``: seconds from the first failed start, after which no wait may end."""
        self._levels: list[tuple[int | None, int, Level]] = []
        self._for = for_
        self.by_copy = for_ is not None
        """Whether a released event has to carry more than a count of its starts."""
        before, last = 0, None
        for level in levels:
            last = None if level.waits is None else before + level.waits
            self._levels.append((last, before, level))
            before = last or before
        self.starts: int | None = None if last is None else last + 1
        """The most starts; None without a limit."""

    def next(self, delivery: Delivery, asked: float | None) -> tuple[float, bool] | float | None:
        """After a start that failed: the wait in seconds, and whether the event leaves meanwhile. ``asked``: the wait
        that the handler or a server asked for. None: no start is left; a number: no time is left of so many seconds."""
        attempt = delivery.attempt
        found = next(((before, level) for last, before, level in self._levels if last is None or attempt <= last), None)
        if found is None:
            return None
        before, level = found
        wait = level.between.wait(attempt - before) if asked is None else asked
        if self._for is not None:
            now = time.time()
            since = first_failure(delivery)
            if now + wait - (now if since is None else since) > self._for:
                return self._for
        return wait, level.release
