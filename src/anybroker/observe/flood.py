"""Many lines of one kind become a few, and a count: a flood must neither fill a disk nor hide what else happens."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic
from typing import NamedTuple

__all__ = ["Flood", "HeldBack"]

_MOST_NAMES = 8
"""How many names are told apart in a summary."""
_OTHERS = "others"


class HeldBack(NamedTuple):
    """The lines of one kind and subscription that were not written."""

    kind: str
    topic: str
    group: str
    lines: int
    seconds: float
    """Since the first of them."""
    names: dict[str, int]
    """How many of each: of each type of exception, for instance."""


class _Window:
    """What was let through and held back of one kind and subscription."""

    __slots__ = ("began", "held", "names", "passed", "since", "told")

    def __init__(self) -> None:
        self.began = float("-inf")
        self.passed = 0
        self.held = 0
        self.since = 0.0
        self.names: dict[str, int] = {}
        self.told: set[str] = set()
        """The names of what was let through."""


class Flood:
    """Of each kind and subscription a burst of lines is let through, and then counted: what was held back is told after
    ``every`` seconds, also when nothing more comes. After so many seconds without a line held back there is room for a
    burst again. The first line of each name passes also in a flood of others, up to twice a burst of names: it may be
    the only one that says what is wrong.

    Used in the event loop. Nothing runs while nothing is held back. Where the loop ended without :meth:`flush`, what
    was held back is told later in the next one.
    """

    def __init__(
        self,
        tell: Callable[[HeldBack], None],
        burst: int = 10,
        every: float = 10.0,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        """``every``: seconds. ``clock``: seconds, monotonic."""
        self._tell = tell
        self._burst = burst
        self._every = every
        self._clock = clock
        self._windows: dict[tuple[str, str, str], _Window] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def lets(self, kind: str, topic: str, group: str, name: str) -> bool:
        """Whether to write this line. False: it is counted, under this name. ``name``: what kind of problem it is."""
        window = self._window(kind, topic, group)
        now = self._clock()
        if not window.held and now - window.began >= self._every:
            window.began, window.passed = now, 0
            window.told.clear()
        is_new = name not in window.told and len(window.told) < 2 * self._burst
        if window.passed < self._burst or is_new:
            window.passed += 1
            window.told.add(name)
            return True
        self._hold(window, name, now)
        return False

    def hold(self, kind: str, topic: str, group: str, name: str) -> None:
        """Do not write it in any case: count it."""
        self._hold(self._window(kind, topic, group), name, self._clock())

    def flush(self) -> None:
        """Tell of all that is held back, now."""
        timer, self._timer, self._loop = self._timer, None, None
        if timer is not None:
            timer.cancel()
        now = self._clock()
        for (kind, topic, group), window in self._windows.items():
            if window.held:
                told = HeldBack(kind, topic, group, window.held, now - window.since, window.names)
                window.began, window.held, window.names = now, 0, {}
                self._tell(told)

    def _window(self, kind: str, topic: str, group: str) -> _Window:
        key = kind, topic, group
        window = self._windows.get(key)
        if window is None:
            window = self._windows[key] = _Window()
        return window

    def _hold(self, window: _Window, name: str, now: float) -> None:
        if not window.held:
            window.since = now
        window.held += 1
        names = window.names
        if name not in names and len(names) >= _MOST_NAMES:
            name = _OTHERS
        names[name] = names.get(name, 0) + 1
        loop = asyncio.get_running_loop()
        if loop is not self._loop:  # none is set, or in a loop that has ended
            self._loop = loop
            self._timer = loop.call_later(self._every, self.flush)
