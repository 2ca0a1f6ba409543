"""Waiting for a turn without a worker: what a middleware raises, and the place that an event has meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from ..adapter import Inbound
from ..delivery import Delivery
from ..errors import Retry

__all__ = ["Line", "Place", "Waiting"]


class Line(Protocol):
    """What an event waits in. Called in the event loop; must neither raise nor wait."""

    @property
    def owner(self) -> object:
        """Whose line it is: an event has one turn of each owner."""
        ...

    def join(self, place: Place, /) -> None:
        """The event waits from now on. ``place.call()``, also at once, lets it start again."""
        ...

    def left(self, inbound: Inbound, /) -> None:
        """The event waits no more: it is not started here again, or its start, once it was called, has ended. What was
        kept for it is free."""
        ...


class Waiting(Retry):
    """Raised by a middleware: the event waits in this line, with its key closed, and without a worker. It uses up no
    attempt. When it is called, it starts again from the outermost middleware."""

    counted = False

    def __init__(self, line: Line, reason: str) -> None:
        super().__init__(None, reason)
        self.line = line


class Place:
    """The place of one event that waits."""

    __slots__ = ("_call_up", "delivery", "lines")

    def __init__(self, delivery: Delivery, lines: tuple[Line, ...], call_up: Callable[[Inbound], None]) -> None:
        self.delivery = delivery
        """What starts when it is called."""
        self.lines = lines
        """Those that have to be told when it is gone: the one that it waits in, and those that have called it already
        for a turn that it has not reached."""
        self._call_up = call_up

    @property
    def inbound(self) -> Inbound:
        """What the line knows it by."""
        return self.delivery.inbound

    def call(self) -> None:
        """It may start again. Does nothing where it does not wait any more."""
        self._call_up(self.delivery.inbound)
