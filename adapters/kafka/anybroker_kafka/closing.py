"""Ending clients in the background: aiokafka's ``stop()`` may take as long as the broker is away."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from anybroker.printable import logger

__all__ = ["Closing", "ignore_outcome"]

_log = logger("anybroker.kafka")

_LONGEST = 60.0
"""Seconds until the end of a client is given up: by then every request has timed out, and only sockets are left."""


def ignore_outcome(future: asyncio.Future[Any]) -> None:
    """A done callback for a task that may end when nobody awaits it: asyncio does not report its error as lost."""
    if not future.cancelled():
        future.exception()


class Closing:
    """Runs what ends a client to completion, also when the caller stops waiting.

    A client whose end was cancelled half-way would keep its tasks, heartbeats included, and a member that is gone would
    hold its partitions forever.
    """

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    async def begin(self, end: Coroutine[Any, Any, None], timeout: float) -> None:
        """Start it, and wait at most that many seconds; it goes on after them, and after a cancellation."""
        task = self.leave(end)
        await asyncio.wait({task}, timeout=timeout)

    def leave(self, end: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Start it, and do not wait."""
        task = asyncio.create_task(self._run(end))
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    async def _run(self, end: Coroutine[Any, Any, None]) -> None:
        async with asyncio.timeout(_LONGEST):
            await end

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (exc := task.exception()) is not None:
            _log.debug("a Kafka client ended with an error: %s", exc)

    async def finish(self, timeout: float) -> None:
        """Wait for all of them, at most that many seconds."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=timeout)
