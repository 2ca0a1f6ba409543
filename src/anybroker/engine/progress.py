"""Whether the oldest unfinished event of a lane ever gets finished."""

from __future__ import annotations

from collections.abc import Mapping
from time import monotonic

from ..adapter import Inbound, Lane

__all__ = ["Progress"]


class Progress:
    """Of one subscription. Looked at every few seconds, so that nothing has to be noted for each event."""

    def __init__(self) -> None:
        self._first: dict[Lane, tuple[Inbound, float]] = {}

    def look(self, oldest: Mapping[Lane, Inbound]) -> None:
        """``oldest``: of each lane the first unfinished event now."""
        now = monotonic()
        first: dict[Lane, tuple[Inbound, float]] = {}
        for lane, inbound in oldest.items():
            known = self._first.get(lane)
            first[lane] = known if known is not None and known[0] is inbound else (inbound, now)
        self._first = first  # at once: other threads ask for the age

    @property
    def age(self) -> float | None:
        """Seconds since the first look at the one that has been the oldest for longest; None: there was none."""
        seen = min((since for _, since in self._first.values()), default=None)
        return None if seen is None else monotonic() - seen
