"""Waiting until a broker answers in its own protocol."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from urllib.error import URLError

from .errors import BrokerFailed, Cancelled

__all__ = ["NotYet", "start_seconds", "until_ready"]

PAUSE_SECONDS = 0.03


class NotYet(Exception):
    """A probe's answer: something is there, but it does not serve yet."""


def start_seconds() -> float:
    """How long a broker may take to answer, in seconds: ``ANYBROKER_TEST_START_SECONDS``, else 90.

    Long, because ten suites side by side on two cores are a use case; a broker that dies is noticed at once.
    """
    return float(os.environ.get("ANYBROKER_TEST_START_SECONDS", "90"))


def until_ready(
    name: str,
    probe: Callable[[], object],
    *,
    died: Callable[[], str | None] = lambda: None,
    log: Callable[[], str] = lambda: "",
    cancelled: threading.Event | None = None,
    seconds: float | None = None,
) -> float:
    """Call ``probe`` until it returns; give the seconds that took.

    ``probe`` makes one attempt and raises ``OSError`` or ``NotYet`` while the broker does not serve. ``died`` says
    why waiting is useless. Raises ``BrokerFailed`` with the log's tail after the deadline, ``Cancelled`` when asked.
    """
    allowed = start_seconds() if seconds is None else seconds
    begun = time.monotonic()
    while True:
        if cancelled is not None and cancelled.is_set():
            raise Cancelled
        try:
            probe()
        except (OSError, URLError, NotYet) as error:
            last = f"{type(error).__name__}: {error}"
        else:
            return time.monotonic() - begun
        if (death := died()) is not None:
            raise BrokerFailed(f"{name} {death}; the end of its log:\n{log()}")
        if time.monotonic() - begun > allowed:
            raise BrokerFailed(f"{name} did not answer in {allowed:.0f} s ({last}); the end of its log:\n{log()}")
        time.sleep(PAUSE_SECONDS)
