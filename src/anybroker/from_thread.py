"""Publishing from a thread that is not the event loop's."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine, Iterable
from typing import Any, TypeVar

from .adapter import Receipt
from .engine.core import Core, Publishes
from .errors import BrokerError, StateError

__all__ = ["FromThread"]

_T = TypeVar("_T")


class FromThread:
    """``bus.from_thread``: the same calls, blocking, for plain ``def`` handlers and other threads.

    Inside a handler the published event keeps its cause. ``StateError`` in the event loop's own thread, which it would
    block for ever.
    """

    def __init__(self, bus: Publishes, core: Core) -> None:
        self._bus = bus
        self._core = core

    def publish(self, topic: str, /, *args: Any, **options: Any) -> Receipt:
        """As :meth:`Bus.publish`."""
        return self._call(self._bus.publish(topic, *args, **options))

    def publish_many(self, topic: str, items: Iterable[Any], /, **options: Any) -> list[Receipt | BrokerError]:
        """As :meth:`Bus.publish_many`."""
        return self._call(self._bus.publish_many(topic, items, **options))

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
        return asyncio.run_coroutine_threadsafe(call, loop).result()
