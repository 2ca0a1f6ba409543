"""What can go wrong here: ``BrokerFailed`` (a broker did), ``Missing`` (a source is not available on this machine)."""

from __future__ import annotations

__all__ = ["BrokerFailed", "Cancelled", "Missing"]


class BrokerFailed(Exception):
    """A broker did not start, did not come back, or cannot do what was asked; the text ends with its log's tail."""


class Missing(Exception):
    """A source is not available: ``reason`` in one line, and the command that would get it in ``remedy``."""

    def __init__(self, reason: str, remedy: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.remedy = remedy


class Cancelled(Exception):
    """Somebody asked for the start to be given up (Ctrl-C, SIGTERM, a failure elsewhere)."""
