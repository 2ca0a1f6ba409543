"""Publishing from a thread that is not the event loop's."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine, Iterable
from typing import Any, TypeVar, Unpack

from .adapter import Receipt
from .cloudevents.event import ABSENT
from .engine.core import Core
from .engine.publishes import Publishes, PublishOptions
from .errors import BrokerError, StateError
from .kit.callers_thread import CallersThread, callers_thread

__all__ = ["FromThread"]

_T = TypeVar("_T")


class FromThread:
    """``bus.from_thread``: the same calls, blocking, for plain ``def`` handlers and other threads.

    Inside a handler the published event keeps its cause. A connection that is given as ``within`` is used in the
    calling thread. ``StateError`` in the event loop's own thread, which it would block for ever.
    """

    def __init__(self, bus: Publishes, core: Core) -> None:
        self._bus = bus
        self._core = core

    def publish(self, topic: str, data: object = ABSENT, /, **options: Unpack[PublishOptions]) -> Receipt:
        """As :meth:`Bus.publish`."""
        return self._call(self._bus.publish(topic, data, **options))

    def publish_many(
        self, topic: str, items: Iterable[object], /, *, deadline: float | None = None, within: object = None
    ) -> list[Receipt | BrokerError]:
        """As :meth:`Bus.publish_many`."""
        return self._call(self._bus.publish_many(topic, items, deadline=deadline, within=within))

    def _call(self, call: Coroutine[Any, Any, _T]) -> _T:
        loop = self._core.loop
        if loop is not None and os.getpid() != self._core.pid:
            call.close()
            raise StateError("from_thread: this process was forked from the one of the Bus. Make and start a Bus in it")
        if loop is None or not loop.is_running():
            call.close()
            raise StateError("from_thread: the Bus is not started")
        try:
            running = asyncio.get_running_loop()
        except RuntimeError:
            running = None
        if running is loop:
            call.close()
            raise StateError("from_thread: called in the event loop's own thread. Use 'await bus.publish(…)' there")
        thread = CallersThread()
        token = callers_thread.set(thread)
        try:
            return thread.serve(asyncio.run_coroutine_threadsafe(call, loop))
        finally:
            callers_thread.reset(token)
