"""Telling observers what waits in parts for the broker, such as in an outbox."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import NamedTuple, Protocol, runtime_checkable

from ..errors import AnybrokerError, exc_info_of, text_of
from ..printable import logger
from .seldom import Seldom

__all__ = ["EVERY", "HasPending", "Pending", "PendingWatch"]

_log = logger("anybroker.bus")

EVERY = 15.0
"""Seconds between two questions."""


class Pending(NamedTuple):
    """Events that wait in a part for the broker."""

    waiting: int
    age: float | None
    """Seconds for which the oldest of them could have been sent; None where none can be now."""
    set_aside: int
    """Events that were rejected for good, and wait for somebody's decision."""
    sent: int
    """Events that it has brought to the broker since its first start."""


@runtime_checkable
class HasPending(Protocol):
    """A part in which events wait for the broker."""

    @property
    def name(self) -> str:
        """Of the part."""
        ...

    async def pending(self) -> Pending:
        """What waits now. Raises where that is not known."""
        ...


class PendingWatch:
    """Asks every 15 seconds, while somebody wants to know."""

    def __init__(self, parts: Callable[[], Iterable[object]], tell: Callable[[str, Pending], None]) -> None:
        self._parts = parts
        self._tell = tell
        self._say = Seldom()
        self._task = asyncio.create_task(self._run(), name="anybroker pending")

    async def stop(self) -> None:
        """Ask no more."""
        self._task.cancel()
        await asyncio.wait({self._task})

    async def _run(self) -> None:
        while True:
            for part in self._parts():
                if not isinstance(part, HasPending):
                    continue
                try:
                    async with asyncio.timeout(EVERY):
                        pending = await part.pending()
                except Exception as exc:  # noqa: BLE001 - the next round asks again
                    if self._say():
                        bug = None if isinstance(exc, AnybrokerError | TimeoutError) else exc_info_of(exc)
                        _log.warning("what waits in %s is not known: %s", part.name, text_of(exc), exc_info=bug)
                else:
                    self._tell(part.name, pending)
            await asyncio.sleep(EVERY)
