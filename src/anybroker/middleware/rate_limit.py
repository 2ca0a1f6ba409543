"""A bound on how many starts of a handler begin in a time."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from math import ceil

from ..adapter import Inbound
from ..delivery import Delivery
from ..engine.seldom import Seldom
from ..engine.waiting import Place, Waiting
from ..errors import ConfigError
from ..printable import logger
from .layer import Chain, Handler, Layer
from .turns import Key, KeyFunction, Queue, Turn, checked

__all__ = ["rate_limit"]

_log = logger("anybroker.handler")

_MOST_KEYS = 100_000
"""Keys that are remembered at once."""
_ONE = 1 - 1e-9
"""A start, and what the sums of floats may lack of it."""


class rate_limit(Layer):  # noqa: N801 - used as a decorator
    """At most ``rate`` starts of the handler in ``per`` seconds: in all, or for each value of ``key``.

    :param rate: starts, over 0; ``0.5`` is one in two times ``per``.
    :param per: seconds.
    :param burst: starts that may follow each other at once after a quiet time, 1 or more: by default ``rate``, rounded
        up. In any time of ``t`` seconds at most ``burst + rate * t / per`` starts begin. ``burst=1`` spaces them
        evenly.
    :param key: a function of the event to a string or an integer, such as ``lambda event: event.data["tenant"]``: the
        limit holds for each value then. What it raises is the handler's failure; anything else than a string or an
        integer is rejected. 100,000 values are remembered at once; with more of them in use the oldest that has nothing
        waiting may begin its burst again, which is logged.

    An event over it waits in this process: its lease is kept, and on an ordered subscription its key stays closed. It
    takes no worker of the subscription, uses up no attempt, and delays neither other keys nor ``close``, which gives it
    back. First come, first served. With ``key``, up to ``max_ahead`` events wait, and then nothing more is fetched
    until some have gone on; without it, about a hundred. Each start counts, so that of a retry does too.

    Local to the process, the handler and the subscription: of three members each has the whole rate.
    """

    kind = "rate_limit"
    after = ("retry", "concurrency")
    waits_after = False

    def __init__(
        self, rate: float, per: float = 1.0, *, burst: int | None = None, key: KeyFunction | None = None
    ) -> None:
        for name, value in (("rate", rate), ("per=", per)):
            if not 0 < value < float("inf"):
                raise ConfigError(f"rate_limit({name})", f"{value!r} is not a number over 0", "Use a number over 0.")
        if burst is not None and (isinstance(burst, bool) or not isinstance(burst, int) or burst < 1):
            raise ConfigError(
                "rate_limit(burst=)", f"{burst!r} is not a number of starts", "Use a whole number of 1 or more."
            )
        if key is not None and not callable(key):
            raise ConfigError("rate_limit(key=)", f"{key!r} is not a function", "Give a function of the event.")
        self.rate = rate
        self.per = per
        self.burst = max(1, ceil(rate)) if burst is None else burst
        self.key = key

    def bind(self, call_next: Handler, chain: Chain) -> Handler:
        """The composed handler."""
        key_of = self.key
        hold_back = None if key_of is not None else partial(chain.hold_back, self.kind)
        where = f"{chain.topic}/{chain.group}, handler {chain.handler.name}"
        loop = asyncio.get_running_loop()
        limiter = _Limiter(self.rate / self.per, self.burst, loop, Queue(hold_back), where)
        reason = f"over {self.rate:g} starts in {self.per:g} s"
        by_key, clock, fill = limiter.by_key, loop.time, limiter.fill

        async def run(delivery: Delivery) -> None:
            key = None if key_of is None else checked("rate_limit(key=)", key_of(delivery.event))
            here = by_key.get(key)
            if here is None:
                here = limiter.new(key)
            if here.called and delivery.inbound in here.called:
                here.called.discard(delivery.inbound)
            elif here.line or fill(here, clock()) < _ONE:
                raise Waiting(Turn(limiter, key), reason)
            else:
                here.level -= 1.0
            await call_next(delivery)

        return run


class _Bucket:
    """The starts of one key."""

    __slots__ = ("called", "level", "line", "then", "timer")

    def __init__(self, level: float, then: float) -> None:
        self.level = level
        """How many may begin, at the time ``then``."""
        self.then = then
        self.called: set[Inbound] = set()
        """Those that may begin and have not reached their handler."""
        self.line: OrderedDict[Inbound, Place] = OrderedDict()
        self.timer: asyncio.TimerHandle | None = None
        """Set while the line has somebody."""

    @property
    def in_use(self) -> bool:
        """Whether it cannot be forgotten."""
        return bool(self.line or self.called)


class _Limiter:
    """The starts of one handler."""

    def __init__(
        self, rate: float, burst: int, loop: asyncio.AbstractEventLoop, queue: Queue, where: str, most: int = _MOST_KEYS
    ) -> None:
        """``rate``: starts a second. ``where``: for the log."""
        self._rate = rate
        self._burst = float(burst)
        self._clock: Callable[[], float] = loop.time
        self._later = loop.call_later
        self._queue = queue
        self._where = where
        self._most = most
        self._say = Seldom()
        self.by_key: OrderedDict[Key, _Bucket] = OrderedDict()

    def fill(self, here: _Bucket, now: float) -> float:
        """How many may begin now."""
        level = here.level + (now - here.then) * self._rate
        here.then = now
        if level > self._burst:
            level = self._burst
        here.level = level
        return level

    def new(self, key: Key) -> _Bucket:
        """A key that is not remembered. Looks at two others, which are forgotten if that makes no difference: so there
        are never many more than are in use."""
        by_key, now = self.by_key, self._clock()
        for _ in range(min(2, len(by_key))):
            oldest, other = next(iter(by_key.items()))
            full = self.fill(other, now) >= self._burst
            if other.in_use or (not full and len(by_key) < self._most):
                by_key.move_to_end(oldest)
                continue
            del by_key[oldest]
            if not full and (times := self._say()):
                _log.warning(
                    "%s: rate_limit has more than %d keys in use at once, and forgets the oldest, which may begin "
                    "its burst again (%d times since this was said last)",
                    self._where,
                    self._most,
                    times,
                )
        here = by_key[key] = _Bucket(self._burst, now)
        return here

    def join(self, key: Key, place: Place) -> None:
        """Lines.join."""
        here = self.by_key.get(key)
        if here is None:
            here = self.new(key)
        here.line[place.inbound] = place
        self._queue.joined()
        if here.timer is None:
            self._go_on(here)

    def left(self, key: Key, inbound: Inbound) -> None:
        """Lines.left. A start that did not come about can be another's."""
        here = self.by_key.get(key)
        if here is None:
            return
        if here.line.pop(inbound, None) is not None:
            self._queue.gone()
            if not here.line and here.timer is not None:
                here.timer.cancel()
                here.timer = None
        elif inbound in here.called:
            here.called.discard(inbound)
            here.level += 1.0
            if here.timer is not None:
                here.timer.cancel()
                self._go_on(here)

    def _go_on(self, here: _Bucket) -> None:
        """Call those who may begin now, and look again when the next one may."""
        here.timer = None
        self.fill(here, self._clock())
        while here.line and here.level >= _ONE:
            here.level -= 1.0
            inbound, place = here.line.popitem(last=False)
            here.called.add(inbound)
            self._queue.gone()
            place.call()
        if here.line:
            here.timer = self._later(max((1.0 - here.level) / self._rate, 0.0001), self._go_on, here)
