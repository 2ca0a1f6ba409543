"""Calling an adapter, which may raise anything, even a cancellation that nobody requested."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from ..errors import BrokerError, Unavailable
from ..printable import logger

__all__ = ["as_failure", "bounded", "cancelled_by_nobody"]

_T = TypeVar("_T")

_log = logger("anybroker.broker")


def cancelled_by_nobody() -> bool:
    """While handling a CancelledError: whether this task was not cancelled, so that the error came from what was
    awaited, such as a client that cancelled one of its own tasks."""
    task = asyncio.current_task()
    return task is not None and not task.cancelling()


async def as_failure(what: str, call: Awaitable[_T]) -> _T:
    """The result of an adapter's call. A cancellation raised by the call, while nobody cancelled this task, becomes
    Unavailable: the caller would think that it was cancelled itself, and a task group would silently drop the error."""
    try:
        return await call
    except asyncio.CancelledError as exc:
        if not cancelled_by_nobody():
            raise
        raise Unavailable(f"{what}: the adapter's client cancelled its own call") from exc


async def bounded(call: Awaitable[object], seconds: float, what: str) -> None:
    """Await a call that closes something, for at most this many seconds. Failures are logged, so that the caller can
    close the rest; only this task's own cancellation is raised."""
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
