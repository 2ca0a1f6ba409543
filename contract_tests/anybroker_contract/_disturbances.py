"""What tests do to the servers and files of stores and outboxes, and putting it right afterwards."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from typing import Any

__all__ = ["DISTURBANCES", "Disturbable", "Disturbed"]

DISTURBANCES = frozenset({"restart", "kill", "start", "freeze", "thaw", "make_read_only", "make_writable"})
"""What may be done to a server or file: a test that does one of them has it to itself."""
_OPPOSITES = {"freeze": "thaw", "kill": "start", "make_read_only": "make_writable"}


class Disturbable:
    """What a harness may override of this; tests of what it does not override do not apply."""

    def restart(self, place: str) -> Any:
        """End the server gracefully and start it again, with its data; return when it answers."""
        raise NotImplementedError

    def kill(self, place: str) -> Any:
        """SIGKILL the server; return when it is gone."""
        raise NotImplementedError

    def start(self, place: str) -> Any:
        """Start it again after ``kill``, with its data; return when it answers."""
        raise NotImplementedError

    def freeze(self, place: str) -> Any:
        """Stop it from answering, with its connections open."""
        raise NotImplementedError

    def thaw(self, place: str) -> Any:
        """Let it go on after ``freeze``."""
        raise NotImplementedError

    def make_read_only(self, place: str) -> Any:
        """Let it refuse every write, as a standby or a replica does."""
        raise NotImplementedError

    def make_writable(self, place: str) -> Any:
        """Let it accept writes again after ``make_read_only``."""
        raise NotImplementedError


class Disturbed:
    """Disturbs the place of one test, for the object that the test works with."""

    def __init__(self, harness: object, place: str) -> None:
        self._harness = harness
        self._place = place
        self._to_undo: list[str] = []

    async def do(self, what: str) -> None:
        """One of :data:`DISTURBANCES`."""
        action: Callable[[str], Any] = getattr(self._harness, what)
        if what in _OPPOSITES:
            self._to_undo.append(_OPPOSITES[what])
        elif what in self._to_undo:
            self._to_undo.remove(what)
        if inspect.iscoroutinefunction(action):
            await action(self._place)
        else:
            await asyncio.to_thread(action, self._place)

    async def undo(self) -> None:
        """Put right what was not put right."""
        for what in reversed(self._to_undo.copy()):
            await self.do(what)
