"""Waiting for what must happen: for a signal, with a deadline, never for a fixed time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

__all__ = ["Signal", "eventually", "quiet", "wait_until"]


class Signal:
    """Wakes everyone who waits for a change."""

    def __init__(self) -> None:
        self._waiting: list[asyncio.Future[None]] = []

    def fire(self) -> None:
        """Something changed."""
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    async def wait(self, timeout: float) -> bool:
        """True at the next change, False after ``timeout`` seconds."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        done, _ = await asyncio.wait([future], timeout=timeout)
        return bool(done)


async def wait_until(
    condition: Callable[[], object], deadline: float, changed: Signal, what: Callable[[], str]
) -> None:
    """Return when the condition is true; AssertionError with ``what()`` if it is not after ``deadline`` seconds."""
    loop = asyncio.get_running_loop()
    end = loop.time() + deadline
    while not condition():
        left = end - loop.time()
        if left <= 0:
            raise AssertionError(f"not within {deadline:g} s: {what()}")
        await changed.wait(left)


async def eventually(condition: Callable[[], Awaitable[object]], deadline: float, what: str) -> None:
    """The same for a condition that can only be polled, such as a broker's count: every 20 ms."""
    loop = asyncio.get_running_loop()
    end = loop.time() + deadline
    while not (last := await condition()):
        if loop.time() >= end:
            raise AssertionError(f"not within {deadline:g} s: {what} (last: {last!r})")
        await asyncio.sleep(0.02)


async def quiet(changed: Signal, seconds: float) -> None:
    """Return when nothing has changed for this many seconds: for showing that something does *not* happen."""
    while await changed.wait(seconds):
        pass
