"""Saying so when a whole lane, or the subscription, waits behind one event."""

from __future__ import annotations

from hashlib import blake2b

from ..printable import logger
from .holdings import Holdings

__all__ = ["Stalls"]

_log = logger("anybroker.broker")


class Stalls:
    """Looked for whenever there is no room for more events."""

    def __init__(self, holdings: Holdings, max_ahead: int) -> None:
        self._holdings = holdings
        self._max_ahead = max_ahead
        self.problem: str | None = None
        """What waits behind what; None while nothing does."""
        self.behind_running: str | None = None
        """That nothing more is fetched because of a handler that does not end; None while that is not so."""

    def look(self, window: int | None) -> None:
        """``max_ahead`` is reached, or the broker has handed over the ``window`` of a lane: find the event behind it,
        log it once, and count it. ``window``: None where the broker has no such limit."""
        holdings = self._holdings
        limit = self._max_ahead
        reached = f"max_ahead={limit} is reached"
        if holdings.cumulative:
            full = [lane for lane, state in holdings.lanes.items() if state.ledger and len(state.ledger) >= limit]
        elif window is not None and holdings.outstanding < limit:
            full = [lane for lane, state in holdings.lanes.items() if state.outstanding >= window]
            reached = f"{window} events of a lane are out, and the broker hands over no more of it"
        else:
            full = []
        if not full and holdings.outstanding < limit:
            self.problem = None
            return
        if self.problem is not None:
            return
        failing = holdings.strands.first_held(full or None)
        put_off = holdings.strands.first_put_off(full or None)
        first = failing or put_off or holdings.strands.first_in_line(full or None)
        if first is None:  # the handlers are just slow
            return
        holdings.stats.stalled += 1
        digest = "no key" if first.key is None else f"the key with hash {_key_hash(first.key)}"
        what = f"the lane {first.lane_state.lane.name}" if full else "everything"
        if failing is not None:
            why = f"a failing event of {digest}, attempt {failing.attempt}"
        elif put_off is not None:
            why = f"an event of {digest} that may not start yet"
        else:
            why = f"events that wait for their turn in a middleware, the oldest of {digest}"
        self.problem = f"{reached}: {what} waits behind {why}"
        _log.warning("%s: %s", holdings.name, self.problem)

    def look_at_running(self, waiting: int) -> None:
        """``waiting``: how many events wait behind handlers that have been running for too long, if no more are fetched
        because of them; else 0. Logged once."""
        if not waiting:
            self.behind_running = None
        elif self.behind_running is None:
            self._holdings.stats.stalled += 1
            self.behind_running = (
                f"{waiting} events wait behind handlers that still run, and no more are fetched, of other keys either, "
                "until one ends. End a handler that hangs with @timeout(), or raise max_in_flight"
            )
            _log.warning("%s: %s", self._holdings.name, self.behind_running)


def _key_hash(key: str) -> str:
    """What names a key in logs: keys may be personal data."""
    return blake2b(key.encode("utf-8", "surrogatepass"), digest_size=4).hexdigest()
