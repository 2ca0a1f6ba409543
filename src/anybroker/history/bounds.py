"""From when to when, or from where to where."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import TypeAlias

from ..adapter import ReadsHistory
from ..engine.calls import as_failure
from ..errors import ConfigError

__all__ = ["Bound", "check_bound", "extent", "written"]

Bound: TypeAlias = datetime | Mapping[str, int] | None
"""A moment with its time zone, or positions by lane; None: the first event kept, or the last one stored now."""


def check_bound(name: str, bound: Bound) -> None:
    """ConfigError for what is neither."""
    if bound is None:
        return
    if isinstance(bound, datetime):
        if bound.tzinfo is None:
            raise ConfigError(f"replay({name}=)", "the datetime has no time zone", "Use datetime(…, tzinfo=UTC).")
        return
    if not isinstance(bound, Mapping) or not bound:
        raise ConfigError(
            f"replay({name}=)",
            f"{bound!r} is neither a moment nor a position",
            "Use a datetime, or the position of each lane: {'orders/3': 1204}.",
        )
    for lane, position in bound.items():
        if not isinstance(lane, str) or isinstance(position, bool) or not isinstance(position, int) or position < 0:
            raise ConfigError(
                f"replay({name}=)", f"{lane!r}: {position!r} is not a position", "Use a number of 0 or more by lane."
            )


def written(bound: Bound) -> str:
    """As text, to compare it with what an interrupted replay was told."""
    if bound is None:
        return ""
    if isinstance(bound, datetime):
        return bound.isoformat()
    return ", ".join(f"{lane}@{position}" for lane, position in sorted(bound.items()))


async def extent(adapter: ReadsHistory, topic: str, from_: Bound, to: Bound) -> dict[str, tuple[int, int]]:
    """By lane, the first position to read, and the first one not to read: never later than what is stored now.

    Where one of the bounds names lanes, the others are left out. Raises ConfigError for a lane that is not there,
    MissingGroup for a topic that is not.
    """
    since = from_ if isinstance(from_, datetime) else None
    until = to if isinstance(to, datetime) else None
    whole = await as_failure("looking at a topic", adapter.history_extent(topic, since=since, until=until))
    chosen: set[str] = set(whole)
    for name, bound in (("from_", from_), ("to", to)):
        if isinstance(bound, Mapping):
            for lane in bound:
                if lane not in whole:
                    raise ConfigError(
                        f"replay({name}=)", f"{topic!r} has no lane {lane!r}", f"It has: {', '.join(sorted(whole))}."
                    )
            chosen &= bound.keys()
    found: dict[str, tuple[int, int]] = {}
    for lane in whole:
        if lane in chosen:
            begin, end = whole[lane]
            begin = max(begin, from_[lane]) if isinstance(from_, Mapping) else begin
            end = min(end, to[lane]) if isinstance(to, Mapping) else end
            found[lane] = begin, max(begin, end)
    return found
