"""Whether publishing works, by what came of the publishes."""

from __future__ import annotations

from collections.abc import Mapping

from ..printable import printable

__all__ = ["AWAY_AFTER", "FORGET_AFTER", "Progressing", "Trouble", "sentence"]

AWAY_AFTER = 5.0
"""Seconds for which a topic must have accepted nothing before that is a problem: less is normal on a network."""
FORGET_AFTER = 60.0
"""Seconds after which a failure is forgotten where nobody publishes any more: nobody knows how it would go now."""
_NAMED = 3


class Trouble:
    """The failures of one topic since it last accepted an event. Times are of the loop's clock."""

    __slots__ = ("last", "since", "why")

    def __init__(self) -> None:
        self.since: float | None = None
        """None: the last publish succeeded."""
        self.last = 0.0
        self.why = ""

    def failed(self, why: object, since: float, now: float) -> None:
        """Not stored, or nobody knows. ``since``: when it was tried first."""
        self.since = since if self.since is None else min(since, self.since)
        self.last = now
        self.why = str(why)

    def over(self) -> None:
        """The topic accepted an event."""
        self.since = None

    def lasts(self, now: float, waiting: bool) -> bool:
        """Whether it is a problem. ``waiting``: an event of the topic is to be sent again."""
        if self.since is None or now - self.last > FORGET_AFTER:
            return False
        return (now if waiting else self.last) - self.since >= AWAY_AFTER


class Progressing:
    """Whether anything is confirmed at all: a connection that is silently gone refuses nothing."""

    def __init__(self) -> None:
        self._published = -1
        self._looks = 0

    def look(self, published: int, in_flight: int) -> None:
        """Called each second. Looks are counted, and not seconds: an event loop that was blocked saw no confirmation
        either."""
        self._looks = self._looks + 1 if in_flight and published == self._published else 0
        self._published = published

    def stands_still(self, published: int, in_flight: int) -> bool:
        """Whether events are in flight, were so for some seconds, and none was confirmed until now."""
        return self._looks >= AWAY_AFTER and in_flight > 0 and published == self._published


def sentence(troubles: Mapping[str, Trouble]) -> str:
    """What to say of these topics."""
    named = [f"the topic {topic!r} accepts no events: {trouble.why}" for topic, trouble in sorted(troubles.items())]
    more = len(named) - _NAMED
    return printable("; ".join(named[:_NAMED]) + (f"; and {more} more topics" if more > 0 else ""))
