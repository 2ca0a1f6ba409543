"""What a copy in a group's inlet says beside the event: the starts it had, when the first one failed, and how the last
ones did. When it may start again is in the header of :mod:`anybroker.kit.not_before`."""

from __future__ import annotations

__all__ = ["ATTEMPTS_HEADER", "CLOCKS_APART", "FAILURES_HEADER", "FIRST_FAILURE_HEADER", "LONGEST_RELEASE"]

ATTEMPTS_HEADER = "anybroker-attempts"
"""Handler starts so far, on a copy that the core sent to a group's inlet."""
FAILURES_HEADER = "anybroker-failures"
"""The last failed starts, on such a copy. Read only when another one fails: :mod:`anybroker.engine.failures`."""
FIRST_FAILURE_HEADER = "anybroker-first-failure"
"""When the first start failed, in seconds since the epoch, on such a copy. For ``retry(for_=)``."""
LONGEST_RELEASE = 43_200.0
"""Seconds of the longest delay for which a copy goes to a group's inlet: twelve hours, the same on every broker. What
has to wait longer is held in place; and a copy in an inlet that asks to wait longer was not written by the library."""
CLOCKS_APART = 60.0
"""Seconds that the clock of one member may be ahead of another's."""
