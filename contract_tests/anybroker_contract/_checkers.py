"""What must hold for a history: pure functions over what was published and what handlers were started with."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = [
    "Handling",
    "at_once",
    "duplicates",
    "inversions",
    "lost",
    "overlaps",
    "repeats",
    "unexpected",
]


@dataclass(slots=True, eq=False)
class Handling:
    """One start of a handler. Times are in seconds of the loop's clock."""

    id: str
    key: str | None
    attempt: int
    member: str = ""
    started: float = 0.0
    ended: float | None = None
    failed: str | None = None
    """The exception's name if the start failed."""
    event: Any = field(default=None, repr=False)
    headers: dict[str, str] = field(default_factory=dict, repr=False)

    @property
    def done(self) -> bool:
        """Whether the handler returned."""
        return self.ended is not None and self.failed is None


def lost(published: Iterable[str], handled: Iterable[Handling]) -> list[str]:
    """Ids that were published and never handled to the end."""
    done = {handling.id for handling in handled if handling.done}
    return [id_ for id_ in published if id_ not in done]


def unexpected(published: Iterable[str], handled: Iterable[Handling]) -> list[str]:
    """Ids that were handled and never published."""
    known = set(published)
    return sorted({handling.id for handling in handled} - known)


def duplicates(handled: Iterable[Handling]) -> dict[str, int]:
    """Ids that were handled to the end more than once, with how often."""
    counts = Counter(handling.id for handling in handled if handling.done)
    return {id_: count for id_, count in counts.items() if count > 1}


def repeats(handled: Iterable[Handling]) -> dict[str, int]:
    """Ids that a handler was started with more than once, with how often."""
    counts = Counter(handling.id for handling in handled)
    return {id_: count for id_, count in counts.items() if count > 1}


def inversions(published: Sequence[tuple[str | None, str]], handled: Iterable[Handling]) -> list[tuple[str, str]]:
    """Pairs of ids of one key whose first starts were in the opposite order of their publishes.

    ``published`` is key and id, in publish order. Repeated starts do not count: a suffix may be repeated. Without a
    key there is no order.
    """
    place = {id_: at for at, (_, id_) in enumerate(published)}
    latest: dict[str, str] = {}
    seen: set[str] = set()
    found: list[tuple[str, str]] = []
    for handling in sorted(handled, key=lambda item: item.started):
        if handling.key is None or handling.id in seen or handling.id not in place:
            continue
        seen.add(handling.id)
        before = latest.get(handling.key)
        if before is not None and place[before] > place[handling.id]:
            found.append((before, handling.id))
        else:
            latest[handling.key] = handling.id
    return found


def overlaps(handled: Iterable[Handling]) -> list[tuple[str, str]]:
    """Pairs of ids of one key that were in handlers at the same time."""
    by_key: defaultdict[str, list[Handling]] = defaultdict(list)
    for handling in handled:
        if handling.key is not None:
            by_key[handling.key].append(handling)
    found = []
    for group in by_key.values():
        group.sort(key=lambda item: item.started)
        running: Handling | None = None
        for handling in group:
            if running is not None and (running.ended is None or running.ended > handling.started):
                found.append((running.id, handling.id))
            if running is None or running.ended is not None:
                running = handling
    return found


def at_once(handled: Iterable[Handling]) -> int:
    """The most handlers that ran at the same time."""
    moments: list[tuple[float, int]] = []
    for handling in handled:
        moments.append((handling.started, 1))
        if handling.ended is not None:
            moments.append((handling.ended, -1))
    most = now = 0
    for _, step in sorted(moments):
        now += step
        most = max(most, now)
    return most
