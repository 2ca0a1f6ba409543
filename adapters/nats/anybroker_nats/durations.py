"""How long the server and a member wait. All of it follows from the lease of the group."""

from __future__ import annotations

import math
from typing import Any, Final

__all__ = ["ack_wait", "lease_of", "nanoseconds", "pull_wait"]

_PULL: Final = 5.0
"""Seconds that a pull waits at most; less where the lease is short, because each pull keeps the pin."""
_WHOLE: Final = 12.0
"""Seconds up to which the server of an unordered group waits for the whole lease. With a pull of two seconds, what a
dead path swallows is handled again within 15 seconds, with the default lease too."""
_NOTICED: Final = 8.0
"""Seconds after which a dead path is noticed, at the earliest: two pings."""


def nanoseconds(seconds: float) -> int:
    """Seconds as JetStream counts time."""
    return int(seconds * 1_000_000_000)


def ack_wait(lease: float, ordered: bool) -> float:
    """Seconds after which the server delivers again what is not acknowledged.

    The pin keeps a lane with its member for the whole lease, and redeliveries go to that member only, which knows what
    it has. So ``ack_wait`` may be shorter there: what was sent to a lost connection, or by a server that was killed,
    comes again soon. An unordered group has nothing but ``ack_wait``: all of a short lease; of a longer one, all but
    the time in which a dead path is noticed, so that what was sent there waits no longer than the lease.
    """
    return lease / 3 if ordered else max(min(lease, _WHOLE), lease - _NOTICED)


def pull_wait(lease: float, ordered: bool) -> float:
    """Seconds that a pull waits. For that long it may swallow messages after its connection vanished silently."""
    return min(_PULL, lease / (3 if ordered else 10))


def lease_of(info: dict[str, Any]) -> float:
    """The lease of a group, in seconds, from what the server says about one of its consumers."""
    config = info.get("config") or {}
    if timeout := config.get("priority_timeout"):
        return float(timeout) / 1e9
    wait = (config.get("ack_wait") or math.inf) / 1e9
    return wait if wait < _WHOLE else wait + _NOTICED
