"""Calling something in the thread that waits in ``bus.from_thread``: a database connection may belong to it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from contextvars import ContextVar
from queue import SimpleQueue
from typing import Any, TypeVar

__all__ = ["CallersThread", "callers_thread"]

_T = TypeVar("_T")


class CallersThread:
    """The thread that made it, while it is in :meth:`serve`."""

    def __init__(self) -> None:
        self._calls: SimpleQueue[tuple[Callable[[], Any], Future[Any]] | None] = SimpleQueue()

    def serve(self, until: Future[_T]) -> _T:
        """Blocks: does what :meth:`call` asks for until this has ended, and returns or raises what it did."""
        until.add_done_callback(lambda _: self._calls.put(None))
        while (asked := self._calls.get()) is not None:
            function, result = asked
            if not result.set_running_or_notify_cancel():
                continue
            try:
                value = function()
            except BaseException as exc:  # noqa: BLE001 - the one that asked gets it
                result.set_exception(exc)
            else:
                result.set_result(value)
        return until.result()

    async def call(self, function: Callable[[], _T]) -> _T:
        """In the event loop: what the function returns or raises there."""
        result: Future[_T] = Future()
        self._calls.put((function, result))
        return await asyncio.wrap_future(result)


callers_thread: ContextVar[CallersThread | None] = ContextVar("anybroker_callers_thread", default=None)
"""Set in a task that a thread waits for and serves."""
