"""One line of aiokafka's log instead of thousands: it warns at every try, ten times a second for each partition."""

from __future__ import annotations

import logging
import time

__all__ = ["calm"]

_AGAIN = 60.0
"""Seconds until the same warning is let through again."""
_MOST = 256
"""Kinds of warnings that are remembered; some have what they are about in their text."""


class _Calm(logging.Filter):
    """Lets a warning through once a minute, and then says how often it came meanwhile."""

    def __init__(self) -> None:
        super().__init__()
        self._last: dict[tuple[str, str], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether this one is let through. Below WARNING all are: who asks for them wants them."""
        if record.levelno < logging.WARNING:
            return True
        key = record.name, str(record.msg)
        now = time.monotonic()
        since, left_out = self._last.get(key, (None, 0))
        if since is not None and now - since < _AGAIN:
            self._last[key] = since, left_out + 1
            return False
        if since is None and len(self._last) >= _MOST:
            self._last.clear()
        self._last[key] = now, 0
        if left_out:
            record.msg = f"{record.getMessage()} (and {left_out} more like it in the last {now - (since or now):.0f} s)"
            record.args = ()
        return True


_FILTER = _Calm()


def calm() -> None:
    """From now on, for all of aiokafka's loggers. Doing it again is nothing."""
    for name in list(logging.root.manager.loggerDict):
        if name == "aiokafka" or name.startswith("aiokafka."):
            logging.getLogger(name).addFilter(_FILTER)
