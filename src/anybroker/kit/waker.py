"""Waiting for whichever comes first: a moment, or a call from elsewhere in the event loop."""

from __future__ import annotations

import asyncio

__all__ = ["Waker"]


class Waker:
    """What a receiver waits on while it has nothing to hand over. One task waits; callbacks wake it."""

    __slots__ = ("_waiter",)

    def __init__(self) -> None:
        self._waiter: asyncio.Future[None] | None = None

    def wake(self) -> None:
        """End the wait. While nobody waits this does nothing: look before you wait, without an ``await`` between."""
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    async def wait(self, until: float) -> None:
        """Return when woken, or at this time of the event loop's clock."""
        loop = asyncio.get_running_loop()
        self._waiter = waiter = loop.create_future()
        timer = loop.call_at(until, self.wake)
        try:
            await waiter
        finally:
            timer.cancel()
