"""Calls of an adapter, whatever comes out of them: also a cancellation that nobody asked for."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from ..errors import BrokerError, Unavailable
from ..printable import logger

__all__ = ["as_failure", "bounded", "cancelled_by_nobody"]

_T = TypeVar("_T")

_log = logger("anybroker")


def cancelled_by_nobody() -> bool:
    """While a CancelledError is handled: whether this task was not cancelled, so that it came out of what was awaited,
    such as a client that gave up one of its own tasks."""
    task = asyncio.current_task()
    return task is not None and not task.cancelling()


async def as_failure(what: str, call: Awaitable[_T]) -> _T:
    """The result of an adapter's call. A cancellation that comes out of it, while nobody cancelled this task, is a
    failed call: Unavailable. The caller would take it for its own, and a task group would drop it in silence."""
    try:
        return await call
    except asyncio.CancelledError as exc:
        if not cancelled_by_nobody():
            raise
        raise Unavailable(f"{what}: the adapter's client cancelled its own call") from exc


async def bounded(call: Awaitable[object], seconds: float, what: str) -> None:
    """Await it for so many seconds, where something is to end. What goes wrong is logged, and is not a reason to leave
    the rest undone; only this task's own cancellation is raised."""
    try:
        async with asyncio.timeout(seconds):
            await call
    except TimeoutError:
        _log.warning("%s took more than %.0f s", what, seconds)
    except BrokerError as exc:
        _log.warning("%s failed: %s", what, exc)
    except asyncio.CancelledError as exc:
        if not cancelled_by_nobody():
            raise
        _log.error("%s failed", what, exc_info=exc)
    except Exception:  # noqa: BLE001 - against the interface
        _log.exception("%s failed", what)
