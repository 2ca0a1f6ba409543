"""Since when the oldest event that a group has not finished waits. All of it runs in the store's thread and writes
nothing."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing

from .schema import SEGMENT_EVENTS, SHIFT
from .store import Store

__all__ = ["oldest"]

_LOOKED_AT = 32
"""The most segments that are read to find out whether their events were published with a delay, and when it ends.
Events behind them count from when they were stored."""


def oldest(store: Store, group: int, cursor: int) -> float | None:
    """Since when it waits, in seconds since the epoch: since it was stored, or since the delay that it was published
    with ended, which may be in the future. None: nothing waits.

    Events are stored in the order of their numbers, so usually the first one of each kind answers. Only behind delayed
    ones, not due yet or lately, may be another that waits for longer.
    """
    best: float | None = None
    for waiting in (_passed(store, group), _ahead(store, group, cursor)):
        with closing(waiting):  # a statement that is not read to its end would stay open
            for stored, since in waiting:
                if best is not None and stored >= best:
                    break  # what follows was stored later still
                best = since if best is None else min(best, since)
    return best


def _passed(store: Store, group: int) -> Generator[tuple[float, float], None, None]:
    """Of each event that the cursor has passed and that is not settled, in order: when it was stored, and since when it
    waits."""
    first = last = looked_at = 0
    stored = 0.0
    for (seq,) in store.execute(_UNSETTLED, {"group": group}):
        if not first <= seq <= last:
            first, count, stored = store.execute(_SEGMENT_OF, {"seq": seq}).fetchone()
            last = first + count - 1
            looked_at += 1
        yield stored, stored if looked_at > _LOOKED_AT else max(stored, _due(store, first, seq - first))


def _ahead(store: Store, group: int, cursor: int) -> Generator[tuple[float, float], None, None]:
    """The same of the events beyond the cursor."""
    bounds = {"low": cursor + 1 - SEGMENT_EVENTS, "high": ((cursor >> SHIFT) + 1 << SHIFT) - 1}
    rows = store.execute(_BEYOND, {"group": group, "cursor": cursor, "most": _LOOKED_AT + 1, **bounds}).fetchall()
    for looked_at, (first, count, stored) in enumerate(rows, 1):
        for at in range(max(0, cursor + 1 - first), count):
            yield stored, stored if looked_at > _LOOKED_AT else max(stored, _due(store, first, at))


def _due(store: Store, first: int, at: int) -> float:
    """When the delay ends that this event of a segment was published with; 0 where it has none."""
    segment = store.segment(first)
    more = segment.rows[at][7] if segment is not None and segment.delayed else None
    return float(more.get("due", 0.0)) if more else 0.0


_UNSETTLED = """
SELECT seq FROM ab_parked WHERE grp = :group UNION ALL SELECT seq FROM ab_claim WHERE grp = :group
UNION ALL SELECT seq FROM ab_delayed WHERE grp = :group ORDER BY seq
"""
_SEGMENT_OF = """
SELECT first, count, at FROM ab_segment
WHERE first BETWEEN (:seq >> 40 << 40) AND :seq ORDER BY first DESC LIMIT 1
"""
_BEYOND = """
SELECT first, count, at FROM ab_segment WHERE first BETWEEN :low AND :high AND first + count - 1 > :cursor
    AND (only_group IS NULL OR only_group = :group) ORDER BY first LIMIT :most
"""
