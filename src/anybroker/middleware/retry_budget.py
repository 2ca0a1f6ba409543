"""A bound on how much of the work may be retries, so that a storm of failures does not multiply the load."""

from __future__ import annotations

from collections import deque
from time import monotonic

from ..delivery import Delivery
from ..engine.seldom import Seldom
from ..errors import ConfigError, Retry
from ..printable import logger
from .layer import Chain, Handler, Layer

__all__ = ["retry_budget"]

_log = logger("anybroker.handler")

_BURST = 1.0
"""Seconds of retries that may be made at once."""
_MARKS = 10
"""In how many parts the window is counted."""


class retry_budget(Layer):  # noqa: N801 - used as a decorator
    """Let retries be at most this part of the starts, and ``floor`` a second beside that; those over it wait longer.

    :param share: of all starts in the last ``over`` seconds, retries included: 0.2 is one retry for five starts. Less
        than 1.
    :param floor: retries a second that are always within the budget, for where little happens.
    :param over: seconds.
    :param longest: seconds that a retry waits more at most.

    A retry over the budget takes its turn behind the others: its wait is that much longer. It is never given up
    sooner, by ``for_`` and :class:`deadline` neither: they look at the wait as it was. It is counted
    (``stats.retries_slowed``), and logged at most once a minute.

    Where the object is written it counts: at the Bus, all handlers share one budget; at a subscription or a handler it
    is theirs. Each process has its own.
    """

    kind = "retry_budget"
    after = "dead_letter"
    waits_after = False

    def __init__(self, share: float = 0.2, *, floor: float = 10.0, over: float = 10.0, longest: float = 300.0) -> None:
        if not 0 <= share < 1:
            raise ConfigError("retry_budget(share=)", f"{share!r} is not a part", "Use 0 or more, and less than 1.")
        if not 0 < floor < float("inf"):
            raise ConfigError("retry_budget(floor=)", f"{floor!r} is not a rate", "Use more than 0 retries a second.")
        for name, value in (("over", over), ("longest", longest)):
            if not 0 < value < float("inf"):
                raise ConfigError(f"retry_budget({name}=)", f"{value!r} is not a time", "Use seconds over 0.")
        self.share, self.floor, self.over, self.longest = share, floor, over, longest
        self._starts = 0
        self._marks: deque[tuple[float, int]] = deque()
        """Moments with the starts made until then, the oldest at or before the beginning of the window."""
        self._turn = 0.0
        """When all retries that were let through so far are worked off, at the rate that they were allowed."""
        self._say = Seldom()

    def bind(self, call_next: Handler, chain: Chain) -> Handler:
        """The composed handler."""
        where, stats = f"{chain.topic}/{chain.group}", chain.stats

        async def run(delivery: Delivery) -> None:
            self._starts += 1
            try:
                await call_next(delivery)
            except Retry as exc:
                if exc.counted and (more := self._more(monotonic())) > 0:
                    exc.after = (1.0 if exc.after is None else exc.after) + more
                    stats.retries_slowed += 1
                    self._tell(where, more)
                raise

        return run

    def _more(self, now: float) -> float:
        """The seconds that a retry has to wait more. It takes its turn with this call."""
        rate = self.floor + self.share * self._started(now) / self.over
        turn = max(self._turn, now)
        more = min(max(turn + 1 / rate - now - _BURST, 0.0), self.longest)
        self._turn = min(turn + 1 / rate, now + _BURST + self.longest)
        return more

    def _started(self, now: float) -> float:
        """Starts within the window."""
        marks, over = self._marks, self.over
        if not marks or now - marks[-1][0] >= over / _MARKS:
            marks.append((now, self._starts))
        while len(marks) > 1 and marks[1][0] <= now - over:
            marks.popleft()
        since, before = marks[0]
        passed = now - since
        return (self._starts - before) * (over / passed if passed > over else 1.0)

    def _tell(self, where: str, more: float) -> None:
        if times := self._say():
            _log.warning(
                "%s: retries are over their budget (%g %% of the starts and %g a second) and wait longer, this one by "
                "%.1f s (%d times since this was said last)",
                where,
                100 * self.share,
                self.floor,
                more,
                times,
            )
