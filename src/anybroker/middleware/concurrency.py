"""A bound on how many starts of a handler run at once."""

from __future__ import annotations

from collections import OrderedDict
from functools import partial

from ..adapter import Inbound
from ..delivery import Delivery
from ..engine.waiting import Place, Waiting
from ..errors import ConfigError
from .layer import Chain, Handler, Layer
from .turns import Key, KeyFunction, Queue, Turn, checked

__all__ = ["concurrency"]


class concurrency(Layer):  # noqa: N801 - used as a decorator
    """At most ``n`` starts of the handler at once: in all, or for each value of ``key``.

    :param n: starts at once in this process, for each handler and subscription that has it; 1 or more.
    :param key: a function of the event to a string or an integer, such as ``lambda event: event.data["tenant"]``: ``n``
        holds for each value then. What it raises is the handler's failure; anything else than a string or an integer is
        rejected.

    An event over it waits in this process: its lease is kept, and on an ordered subscription its key stays closed. It
    takes no worker of the subscription, uses up no attempt, and delays neither other keys nor ``close``, which gives it
    back. First come, first served: an event that waits is called by the one that ended. With ``key``, up to
    ``max_ahead`` events wait, and then nothing more is fetched until some have gone on; without it, about a hundred.

    Another process of the group has its own ``n``. Refused on a batch handler, whose call has events of many keys.
    """

    kind = "concurrency"
    after = "retry"
    waits_after = False

    def __init__(self, n: int, key: KeyFunction | None = None) -> None:
        if isinstance(n, bool) or not isinstance(n, int) or n < 1:
            raise ConfigError("concurrency(n)", f"{n!r} is not a number of starts", "Use a whole number of 1 or more.")
        if key is not None and not callable(key):
            raise ConfigError("concurrency(key=)", f"{key!r} is not a function", "Give a function of the event.")
        self.n = n
        self.key = key

    def bind(self, call_next: Handler, chain: Chain) -> Handler:
        """The composed handler."""
        if chain.handler.is_batch:
            raise ConfigError(
                f"concurrency({self.n}) on handler {chain.handler.name}",
                "it takes batches, and an event that runs waits for its batch",
                "Bound the calls by max_in_flight= of the subscription.",
            )
        n, key_of = self.n, self.key
        hold_back = None if key_of is not None else partial(chain.hold_back, self.kind)
        seats = _Seats(n, Queue(hold_back))
        reason = f"{n} starts run already"
        by_key, leave = seats.by_key, seats.leave

        async def run(delivery: Delivery) -> None:
            key = None if key_of is None else checked("concurrency(key=)", key_of(delivery.event))
            here = by_key.get(key)
            if here is None:
                here = by_key[key] = _Room()
            elif here.called and delivery.inbound in here.called:
                here.called.discard(delivery.inbound)
            elif here.taken < n:
                here.taken += 1
            else:
                raise Waiting(Turn(seats, key), reason)
            try:
                await call_next(delivery)
            finally:
                leave(key, here)

        return run


class _Room:
    """The starts of one key."""

    __slots__ = ("called", "line", "taken")

    def __init__(self) -> None:
        self.taken = 1
        """Those that run, and those that are called and will. While it is less than ``n``, nobody waits."""
        self.called: set[Inbound] = set()
        self.line: OrderedDict[Inbound, Place] | None = None


class _Seats:
    """The starts of one handler."""

    def __init__(self, n: int, queue: Queue) -> None:
        self._n = n
        self._queue = queue
        self.by_key: dict[Key, _Room] = {}
        """Only of keys of which something runs."""

    def join(self, key: Key, place: Place) -> None:
        """Lines.join."""
        here = self.by_key.get(key)
        if here is None:
            here = self.by_key[key] = _Room()
        elif here.taken < self._n:
            here.taken += 1
        else:
            if here.line is None:
                here.line = OrderedDict()
            here.line[place.inbound] = place
            self._queue.joined()
            return
        here.called.add(place.inbound)  # one has ended in between
        place.call()

    def left(self, key: Key, inbound: Inbound) -> None:
        """Lines.left."""
        here = self.by_key.get(key)
        if here is None:
            return
        if here.line is not None and here.line.pop(inbound, None) is not None:
            self._queue.gone()
        elif inbound in here.called:
            here.called.discard(inbound)
            self.leave(key, here)

    def leave(self, key: Key, here: _Room) -> None:
        """One has ended: the next takes its turn."""
        if here.line:
            inbound, place = here.line.popitem(last=False)
            here.called.add(inbound)
            self._queue.gone()
            place.call()
            return
        here.taken -= 1
        if not here.taken:
            del self.by_key[key]
