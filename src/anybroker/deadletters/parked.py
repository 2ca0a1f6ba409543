"""Dead letters of parked keys: in which order they are replayed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from ..errors import ConfigError

if TYPE_CHECKING:
    from .letter import DeadLetter

__all__ = ["in_order"]

_SHOWN = 10
"""Most dead letters named in one error."""


def in_order(
    what: str, letters: Sequence[DeadLetter], chosen: Sequence[DeadLetter], force: bool
) -> Sequence[DeadLetter]:
    """The chosen letters; those of one parked key in the order in which their events were published.

    ConfigError, without ``force``, if one that is chosen would be sent before an older one of its key that is not.
    """
    numbers = {id(letter): letter.parked for letter in letters if letter.parked is not None}
    if not numbers:
        return chosen
    if not force:
        _check_complete(what, letters, {id(letter) for letter in chosen})
    places: dict[str | None, list[int]] = {}
    for place, letter in enumerate(chosen):
        if id(letter) in numbers:
            places.setdefault(letter.inbound.key, []).append(place)
    ordered = list(chosen)
    for of_key in places.values():
        sequence = sorted((chosen[place] for place in of_key), key=lambda letter: numbers[id(letter)] or 0)
        for place, letter in zip(of_key, sequence, strict=True):
            ordered[place] = letter
    return ordered


def _check_complete(what: str, letters: Iterable[DeadLetter], chosen: set[int]) -> None:
    newest: dict[str | None, int] = {}
    """By key, the highest number that is chosen."""
    for letter in letters:
        if letter.parked is not None and id(letter) in chosen:
            newest[letter.inbound.key] = max(letter.parked, newest.get(letter.inbound.key, 0))
    older = [
        letter
        for letter in letters
        if letter.parked is not None and id(letter) not in chosen and letter.parked < newest.get(letter.inbound.key, 0)
    ]
    if older:
        shown = ", ".join(letter.described() for letter in older[:_SHOWN])
        raise ConfigError(
            what,
            f"leaves out older events of a parked key, and what follows them would be set aside again: {shown}"
            f"{', …' if len(older) > _SHOWN else ''}",
            "Replay all dead letters of the key, or discard the older ones first.",
        )
