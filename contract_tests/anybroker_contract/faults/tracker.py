"""What the main process of a run knows: it follows the history."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

from .history import Follower

__all__ = ["LOOK", "Stalled", "Tracker"]

LOOK = 0.1
"""Seconds between two looks at the history."""


class Stalled(Exception):
    """What was waited for did not happen."""


class Tracker:
    """Counts, up to the last look."""

    def __init__(self, path: Path) -> None:
        self._follower = Follower(path)
        self.invoked = 0
        self.failed = 0
        """Publishes that ended without a receipt."""
        self.acknowledged: set[str] = set()
        self.ended: set[str] = set()
        """Handled to the end, or dead."""
        self.failing: set[str] = set()
        """Handlers failed on it, and it has not ended."""
        self.ready: set[int] = set()
        """Processes that have started."""
        self.moved = time.monotonic()
        """When something last ended."""

    def look(self) -> None:
        """Read the new records."""
        for record in self._follower.new():
            match record.what:
                case "invoke":
                    self.invoked += 1
                case "ok":
                    self.acknowledged.add(record.facts["id"])
                case "fail" | "unknown":
                    self.failed += 1
                case "effect" | "dead":
                    if record.facts["id"] not in self.ended:
                        self.moved = record.t
                    self.ended.add(record.facts["id"])
                    self.failing.discard(record.facts["id"])
                case "error":
                    if record.facts["id"] not in self.ended:
                        self.failing.add(record.facts["id"])
                case "ready":
                    self.ready.add(record.pid)

    @property
    def open(self) -> int:
        """How many acknowledged events have not ended."""
        return len(self.acknowledged - self.ended)

    def summary(self) -> str:
        """For a person."""
        return f"{len(self.acknowledged):,} accepted, {self.failed:,} not, {self.open:,} to be handled"

    async def until(self, condition: Callable[[], object], patience: float, what: str) -> None:
        """Return when the condition is true; Stalled after this many seconds."""
        end = time.monotonic() + patience
        while True:
            self.look()
            if condition():
                return
            if time.monotonic() > end:
                raise Stalled(f"not within {patience:g} s: {what} ({self.summary()})")
            await asyncio.sleep(LOOK)

    async def settle(self, patience: float, but: Callable[[], int] = lambda: 0) -> bool:
        """Wait until every acknowledged event has ended, except this many (``but``); False if none ended for
        ``patience`` seconds."""
        self.moved = max(self.moved, time.monotonic())
        while self.open > but():
            self.look()
            if time.monotonic() - self.moved > patience:
                return False
            await asyncio.sleep(LOOK)
        return True
