"""An event loop whose clock jumps to the next timer whenever nothing else is to be done: waits take no time."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

__all__ = ["run_quickly"]

_T = TypeVar("_T")


class _Selector(selectors.DefaultSelector):  # type: ignore[misc,valid-type,unused-ignore] # an alias that depends on the system
    """Never waits: tells how long it would have."""

    passed = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """What is ready; else the time until the next timer has passed."""
        ready = super().select(0)
        if not ready and timeout is None:  # no timer: another thread has to do something
            return super().select(1.0)
        if not ready and timeout is not None:
            self.passed += timeout
        return ready


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._quick = _Selector()
        super().__init__(self._quick)

    def time(self) -> float:
        """Seconds that have passed."""
        return self._quick.passed


def run_quickly(coroutine: Coroutine[Any, Any, _T]) -> _T:
    """Run it to its end on such a loop."""
    with asyncio.Runner(loop_factory=_Loop) as runner:
        return runner.run(coroutine)
