"""Calling a function of the user's for each dead letter: ``Bus(on_dead_letter=…)``."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from inspect import iscoroutinefunction
from typing import Final, TypeAlias

from ..delivery import Delivery
from ..engine.observing import Observer
from ..engine.seldom import Seldom
from ..errors import ConfigError, exc_info_of
from ..printable import logger

__all__ = ["DeadLetterHook", "OnDeadLetter"]

_log = logger("anybroker.dead_letters")

_WAITING: Final = 1_000
"""Most dead letters that the function has yet to be told of."""

OnDeadLetter: TypeAlias = Callable[[Delivery, BaseException], Awaitable[None]]
"""Called with the delivery, and with what it died of."""


class DeadLetterHook(Observer):
    """An observer, and a part of the Bus: it calls the function for one dead letter after the other, beside everything
    else. No delivery waits for it. A failure is logged and counted, and so is each dead letter that it is not told of,
    because 1,000 others wait or the Bus closes."""

    name = "on_dead_letter"
    problem: str | None = None

    def __init__(self, function: OnDeadLetter, failed: Callable[[Delivery], None]) -> None:
        """``failed``: counts. Raises ConfigError for what is not an async function."""
        if not iscoroutinefunction(function) and not iscoroutinefunction(getattr(function, "__call__", None)):  # noqa: B004 - not whether it is callable
            raise ConfigError("on_dead_letter", f"{function!r} is not an async function", "Write 'async def'.")
        self._function = function
        self._failed = failed
        self._waiting: asyncio.Queue[tuple[Delivery, BaseException]] = asyncio.Queue()
        self._working: asyncio.Task[None] | None = None
        self._say = Seldom()

    async def start(self) -> None:
        """Begin to call it."""
        self._waiting = asyncio.Queue(_WAITING)
        self._working = asyncio.create_task(self._work(), name="anybroker on_dead_letter")

    async def stop(self, drain: float, /) -> None:
        """Call it for what waits, for so many seconds at most."""
        working, self._working = self._working, None
        if working is None:
            return
        joining = asyncio.create_task(self._waiting.join())
        await asyncio.wait((joining, working), timeout=drain, return_when=asyncio.FIRST_COMPLETED)
        for task in (joining, working):
            task.cancel()
        await asyncio.wait((joining, working))
        while not self._waiting.empty():
            self._missed(*self._waiting.get_nowait())

    def dead_lettered(self, delivery: Delivery, error: BaseException) -> None:
        """Observer."""
        try:
            self._waiting.put_nowait((delivery, error))
        except asyncio.QueueFull:
            self._missed(delivery, error)

    def _missed(self, delivery: Delivery, _: BaseException) -> None:
        self._failed(delivery)
        if times := self._say():
            _log.warning(
                "%s/%s: on_dead_letter was not called for a dead letter, because it is too slow or the Bus closes (%d "
                "times since this was said last)",
                *(delivery.topic, delivery.group, times),
            )

    async def _work(self) -> None:
        while True:
            delivery, error = await self._waiting.get()
            try:
                await self._function(delivery, error)
            except asyncio.CancelledError:
                self._missed(delivery, error)
                raise
            except BaseException as exc:  # noqa: BLE001 - the user's function, whose failure is its own
                self._failed(delivery)
                _log.error(
                    "%s/%s: on_dead_letter failed: %s",
                    *(delivery.topic, delivery.group, type(exc).__name__),
                    exc_info=exc_info_of(exc),
                )
            finally:
                self._waiting.task_done()
