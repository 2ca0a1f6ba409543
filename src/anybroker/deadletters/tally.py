"""Counting dead letters by what they died of, one after the other, in a bounded space."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from .letter import DeadLetter
from .reason import pattern_of

__all__ = ["LetterReason", "LetterStats", "Tally"]

_REASONS = 1_000
"""Most reasons that are told apart."""
_TYPES = 20
"""Most types that are counted of one reason."""
_LONGEST = 200
"""Most characters of a type, and of a handler's name."""
_READ = 1_000
"""Most characters of an id, and of a reason."""
OTHERS = "(others)"


@dataclass(frozen=True)
class LetterReason:
    """Dead letters that died of the same thing."""

    fingerprint: str
    """As :attr:`DeadLetter.reason_fingerprint`. Empty for those that are not told apart, because there are more than
    1,000 different reasons."""
    kind: str
    """The exception's class with its module; empty where it is not known."""
    handler: str
    pattern: str
    """The reason with ``*`` for each value that may differ."""
    count: int
    first: str
    """When the first of them died, RFC 3339; empty where none of them says."""
    last: str
    types: Mapping[str, int]
    """How many of each type; what is not a CloudEvent has the type ``""``. 20 types, and ``(others)``."""
    replayed: int
    """How many of them were replayed before, and failed again."""
    example: str
    """The id of one of them."""
    reason: str
    """Its reason."""


@dataclass(frozen=True)
class LetterStats:
    """What :meth:`DeadLetterQueue.stats` counted."""

    total: int
    first: str
    """When the first of them died, RFC 3339; empty where none of them says."""
    last: str
    types: Mapping[str, int]
    reasons: tuple[LetterReason, ...]
    """The most frequent one first."""
    more: bool
    """Whether there may be more dead letters than were looked at."""


@dataclass
class _Group:
    """With texts of the first one that was seen, and nothing else of it: events may be large."""

    kind: str
    handler: str
    reason: str
    example: str
    count: int = 0
    first: str = ""
    last: str = ""
    replayed: int = 0
    types: dict[str, int] = field(default_factory=dict)

    def add(self, letter: DeadLetter) -> None:
        self.count += 1
        self.replayed += letter.replays > 0
        if died := letter.died:
            self.first = min(self.first or died, died)
            self.last = max(self.last, died)
        _count(self.types, letter.type[:_LONGEST], 1)


class Tally:
    """Counts; keeps some texts of one letter of each reason, and no letter."""

    def __init__(self) -> None:
        self._groups: dict[str, _Group] = {}

    def clear(self) -> None:
        """Begin again."""
        self._groups.clear()

    def extend(self, letters: Iterable[DeadLetter], /) -> None:
        """Count these too."""
        groups = self._groups
        for letter in letters:
            name = letter.reason_fingerprint
            if name not in groups and len(groups) >= _REASONS:
                name = ""
            group = groups.get(name)
            if group is None:
                group = groups[name] = _Group(
                    letter.kind, letter.handler[:_LONGEST], letter.reason[:_READ], letter.id[:_READ]
                )
            group.add(letter)

    def stats(self, more: bool) -> LetterStats:
        """What was counted until now."""
        types: dict[str, int] = {}
        reasons: list[LetterReason] = []
        for name, group in self._groups.items():
            for each, count in group.types.items():
                _count(types, each, count)
            known = (group.kind, group.handler, pattern_of(group.reason)) if name else ("", "", OTHERS)
            reasons.append(
                LetterReason(
                    name,
                    *known,
                    group.count,
                    group.first,
                    group.last,
                    group.types,
                    group.replayed,
                    group.example,
                    group.reason,
                )
            )
        reasons.sort(key=lambda each: (-each.count, each.first, each.fingerprint))
        return LetterStats(
            sum(each.count for each in reasons),
            min((each.first for each in reasons if each.first), default=""),
            max((each.last for each in reasons), default=""),
            types,
            tuple(reasons),
            more,
        )


def _count(types: dict[str, int], name: str, count: int) -> None:
    if name not in types and len(types) >= _TYPES:
        name = OTHERS
    types[name] = types.get(name, 0) + count
