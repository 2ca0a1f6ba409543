"""Waiting for what a thread does, which cannot be cancelled."""

from __future__ import annotations

import asyncio
from typing import TypeVar

__all__ = ["uncancelled"]

_T = TypeVar("_T")


async def uncancelled(future: asyncio.Future[_T]) -> _T:
    """Wait for the future to the end, however often this task is cancelled; then pass the cancellation on."""
    cancelled: asyncio.CancelledError | None = None
    while not future.done():
        try:
            await asyncio.shield(future)
        except asyncio.CancelledError as exc:
            if future.cancelled():
                raise
            cancelled = exc
        except Exception:  # noqa: BLE001 - see the next line
            break  # the future's own failure: raised below, by its result
    if cancelled is not None:
        raise cancelled
    return future.result()
