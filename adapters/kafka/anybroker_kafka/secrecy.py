"""Keeps passwords out of aiokafka's log: at DEBUG it writes every request, the one with the PLAIN password too."""

from __future__ import annotations

import logging

__all__ = ["hide_passwords"]


class _Filter(logging.Filter):
    """Names what is said while authenticating, and leaves out what it contains."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Let every record pass."""
        if isinstance(record.args, tuple):
            record.args = tuple(
                f"{type(item).__name__}(…)" if type(item).__name__.startswith("SaslAuthenticate") else item
                for item in record.args
            )
        return True


_FILTER = _Filter()


def hide_passwords() -> None:
    """From now on. Doing it again is nothing."""
    logging.getLogger("aiokafka.conn").addFilter(_FILTER)
