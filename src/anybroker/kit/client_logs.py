"""The logs of client libraries: the library says what matters of a connection, once."""

from __future__ import annotations

import logging

__all__ = ["quiet"]


def quiet(*names: str) -> None:
    """Let these loggers of a client pass on WARNING and above, unless the program has set their levels. A program that
    wants to see more sets one: ``logging.getLogger("aiokafka").setLevel(logging.DEBUG)``, before or later."""
    for name in names:
        log = logging.getLogger(name)
        if log.level == logging.NOTSET:
            log.setLevel(logging.WARNING)
