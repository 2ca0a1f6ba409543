"""aiokafka's log, without passwords and without thousands of equal lines.

At DEBUG it writes every request, the one with the PLAIN password too. It warns at every try, ten times a second for
each partition.
"""

from __future__ import annotations

import logging
import time

__all__ = ["hide_passwords", "limit_warnings"]

_AGAIN = 60.0
"""Seconds until the same warning is let through again."""
_MOST = 256
"""How many warnings are remembered: some of them name a partition in their text, so they are different ones."""


class _RepeatedWarnings(logging.Filter):
    """Lets each warning through once a minute, and says then how often it was left out meanwhile."""

    def __init__(self) -> None:
        super().__init__()
        self._last: dict[tuple[str, str], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether this one is let through. Records below WARNING always are: they are logged only on request."""
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


_REPEATED = _RepeatedWarnings()


def limit_warnings() -> None:
    """For all of aiokafka's loggers, from now on. May be called again."""
    for name in list(logging.root.manager.loggerDict):
        if name == "aiokafka" or name.startswith("aiokafka."):
            logging.getLogger(name).addFilter(_REPEATED)


class _Passwords(logging.Filter):
    """Replaces the requests and answers of an authentication by their names."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Let every record pass."""
        if isinstance(record.args, tuple):
            record.args = tuple(
                f"{type(item).__name__}(…)" if type(item).__name__.startswith("SaslAuthenticate") else item
                for item in record.args
            )
        return True


_PASSWORDS = _Passwords()


def hide_passwords() -> None:
    """From now on. May be called again."""
    logging.getLogger("aiokafka.conn").addFilter(_PASSWORDS)
