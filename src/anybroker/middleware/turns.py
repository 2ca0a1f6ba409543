"""What the layers that let events wait for their turn have in common: a line for each key."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeAlias

from ..adapter import Inbound
from ..cloudevents.event import Event
from ..engine.waiting import Place
from ..errors import Reject
from ..names import hashed

__all__ = ["Key", "KeyFunction", "Lines", "Queue", "Turn", "checked"]

Key: TypeAlias = str | int | None
KeyFunction: TypeAlias = Callable[[Event[Any]], str | int]

_LONGEST = 128
"""Characters of a key that is kept as it is: others choose it."""
_MANY = 100
"""Events in lines from which on nothing more is fetched, where no other key could go on."""


class Lines(Protocol):
    """A layer that is bound to one handler."""

    def join(self, key: Key, place: Place, /) -> None:
        """It waits in the line of that key."""
        ...

    def left(self, key: Key, inbound: Inbound, /) -> None:
        """It waits there no more."""
        ...


class Turn:
    """One wait of one event. It is the engine's :class:`~anybroker.engine.waiting.Line`."""

    __slots__ = ("key", "owner")

    def __init__(self, owner: Lines, key: Key) -> None:
        self.owner = owner
        self.key = key

    def join(self, place: Place) -> None:
        """Line.join."""
        self.owner.join(self.key, place)

    def left(self, inbound: Inbound) -> None:
        """Line.left."""
        self.owner.left(self.key, inbound)


class Queue:
    """How many wait in all lines of a layer, and whether fetching is held back because of them."""

    def __init__(self, hold_back: Callable[[bool], None] | None) -> None:
        """``hold_back``: None where events of another key could go on."""
        self._hold_back = hold_back
        self._holds = False
        self.waiting = 0

    def joined(self) -> None:
        """One more waits."""
        self.waiting += 1
        if self._hold_back is not None and not self._holds and self.waiting >= _MANY:
            self._holds = True
            self._hold_back(True)

    def gone(self) -> None:
        """One was called, or waits no more."""
        self.waiting -= 1
        if self._hold_back is not None and self._holds and self.waiting <= _MANY // 2:
            self._holds = False
            self._hold_back(False)


def checked(where: str, key: object) -> Key:
    """A key as a function of the user's returned it. Reject for what is none: the event will never have another one."""
    if isinstance(key, str):
        return key if len(key) <= _LONGEST else hashed(key)
    if isinstance(key, int):
        return key
    raise Reject(f"{where}: the function returned a {type(key).__name__} where a string or an integer is needed")
