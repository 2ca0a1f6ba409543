"""A store that is down: what is said of it once, and how long an event waits for it."""

from __future__ import annotations

from random import random
from time import monotonic

from ..errors import BrokerError
from ..printable import logger
from .layer import ReportsProblem
from .retry import Uncounted

__all__ = ["LONGEST_WAIT", "OUTAGES", "StoreDown"]

_log = logger("anybroker.store")

OUTAGES = (BrokerError, OSError)  # TimeoutError and ConnectionError are OSErrors
"""What says that a store is down, and is waited for. Anything else (text that cannot be encoded, a bug of a store) is
this event's failure: waiting would not help, and the event would come again for ever."""
LONGEST_WAIT = 5.0
"""Seconds, the longest wait for another owner or for the store."""


class StoreDown:
    """Whether the store is down, as one user of it sees it."""

    def __init__(self, where: str, problem: ReportsProblem) -> None:
        """``where``: the subscription and the handler, in logs."""
        self._where = where
        self._problem = problem
        self.since: float | None = None
        """When it went down."""

    def down(self, exc: Exception) -> Uncounted:
        """The store failed: what to raise. The wait grows with the time for which it is down."""
        now = monotonic()
        if self.since is None:
            self.since = now
            _log.error("%s: the idempotency store failed, nothing is handled until it is back: %s", self._where, exc)
        self._problem(f"the idempotency store failed: {exc}", unavailable=True)
        wait = min(max(now - self.since, 0.1), LONGEST_WAIT) * (0.5 + random() / 2)
        return Uncounted(wait, "the idempotency store failed")

    def over(self) -> None:
        """It answers again."""
        if self.since is not None:
            self.since = None
            self._problem(None)
            _log.info("%s: the idempotency store answers again", self._where)
