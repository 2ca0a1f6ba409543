"""Deliveries that wait for a moment, with one timer for a whole subscription."""

from __future__ import annotations

import asyncio
import time

from ..delivery import Delivery
from .holdings import Holdings

__all__ = ["Held"]


class Held:
    """Holds deliveries, and makes them ready when they are due."""

    def __init__(self, holdings: Holdings) -> None:
        self._holdings = holdings
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0

    def hold(self, delivery: Delivery, delay: float) -> None:
        """Keep the head of a strand for ``delay`` seconds. Its key stays closed."""
        until = asyncio.get_running_loop().time() + delay
        self._holdings.strands.hold(delivery, until)
        self._look_at(until)

    def put_off(self, delivery: Delivery, not_before: float) -> None:
        """It may not start before that moment of the wall clock, and takes its place behind others of its key then.

        The timer follows the loop's clock, and the wall clock may be set meanwhile: it is read again every few seconds.
        """
        self._look_at(
            self._holdings.strands.put_off(delivery, asyncio.get_running_loop().time(), time.time(), not_before)
        )

    def close(self) -> None:
        """Nothing becomes due any more."""
        if self._timer is not None:
            self._timer.cancel()

    def _look_at(self, until: float) -> None:
        loop = asyncio.get_running_loop()
        if self._timer is None or until < self._timer_at:
            if self._timer is not None:
                self._timer.cancel()
            self._timer_at = until
            self._timer = loop.call_at(until, self._due)

    def _due(self) -> None:
        loop = asyncio.get_running_loop()
        strands = self._holdings.strands
        self._timer = None
        now, wall = loop.time(), time.time()
        while (delivery := strands.pop_due(now, wall)) is not None:
            self._holdings.ready.append(delivery)
        due = strands.next_due()
        if due is not None:
            self._timer_at = due
            self._timer = loop.call_at(due, self._due)
        self._holdings.wake_workers()
