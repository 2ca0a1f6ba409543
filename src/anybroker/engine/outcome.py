"""What happens to a delivery whose start failed: it is held, released, or kept because nothing else can be done."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from ..delivery import Delivery
from ..errors import AnybrokerError, EventTooLarge, Retry, cause_of, text_of
from ..printable import logger
from .backoff import Backoff
from .failures import note_failure
from .held import Held
from .holdings import Holdings
from .inlet import LONGEST_RELEASE
from .observing import Observers, StartOutcome
from .waiting import Waiting

__all__ = ["Outcome", "ReleaseCopy"]

_log = logger("anybroker.handler")

ReleaseCopy = Callable[[Delivery, int, float], Awaitable[None]]
"""Sends a copy to the group's inlet, confirmed: the delivery, the starts it had, and the delay in seconds."""


class Outcome:
    """Decides by what the chain raised, of one subscription."""

    def __init__(
        self,
        holdings: Holdings,
        held: Held,
        release_copy: ReleaseCopy | None,
        released_by_broker: bool,
        observers: Observers,
    ) -> None:
        """``released_by_broker``: it releases with a delay and a count of starts. ``release_copy`` is for the others,
        and for an event that has to carry more."""
        self._holdings = holdings
        self._held = held
        self._release_copy = release_copy
        self._released_by_broker = released_by_broker
        self._retried = observers.retried
        self._tell_stuck = observers.stuck
        self._stuck_backoff = Backoff(first=0.5, cap=10.0, floor=0.1)
        self.copies: set[asyncio.Task[None]] = set()
        """Copies on their way to the inlet."""

    def failed(self, delivery: Delivery, exc: Exception) -> StartOutcome:
        """The chain raised. ``Retry`` holds, releases or lines up; anything else nothing has handled: keep it and
        report it."""
        holdings = self._holdings
        state = delivery.lane_state
        if state.lost or (holdings.not_ours and delivery.inbound in holdings.not_ours):
            holdings.not_ours.discard(delivery.inbound)
            holdings.recovered(delivery)
            holdings.stats.stale_settlements += 1
            holdings.remove(delivery)
            return "returned"
        starts = delivery.attempt
        outcome: StartOutcome
        if isinstance(exc, Retry):
            delay = 1.0 if exc.after is None else exc.after
            released = getattr(exc, "release", False)
            if exc.counted:
                outcome = "retried"
                holdings.stats.retried += 1
                failure = exc if (cause := cause_of(exc)) is None else cause
                note_failure(delivery, failure)
                if self._retried is not None:
                    self._retried(delivery, failure, delay)
            else:
                outcome = "postponed"
                holdings.stats.postponed += 1
                holdings.stats.started -= 1
                starts -= 1
            following = delivery.again(starts + 1)
        else:
            released = False
            outcome = "stuck"
            delay, following = self._stuck(delivery, exc)
        if state.gone or holdings.stopping:
            holdings.give_back(delivery, starts)
            holdings.next_of(delivery)
        elif released and ((copy := self._copy_for(exc)) is None or delay <= LONGEST_RELEASE):
            holdings.stats.released += 1
            self._release(delivery, starts, delay, copy)
        else:
            if state.ledger is not None and starts:
                state.ledger.attempts[delivery.inbound.position] = starts
            if isinstance(exc, Waiting):
                holdings.line_up(following, exc.line)
            else:
                self._held.hold(following, delay)
        return outcome

    def _stuck(self, delivery: Delivery, exc: Exception) -> tuple[float, Delivery]:
        """It can be neither finished nor dead-lettered: seconds until the next try, and what is tried then."""
        holdings = self._holdings
        holdings.stats.stuck += 1
        tries = holdings.stuck[delivery.inbound] = holdings.stuck.get(delivery.inbound, 0) + 1
        delay = self._stuck_backoff.wait(tries)
        if delivery.verdict is None:
            note_failure(delivery, exc)
            following = delivery.again(delivery.attempt + 1)
        else:  # only the dead letter is missing: the handler is not run again
            following = delivery.again(delivery.attempt)
            following.verdict = delivery.verdict
        # Where no dead letter has room for one event, the others still belong here: only what is refused matters.
        refused = isinstance(exc, AnybrokerError) and not isinstance(exc, EventTooLarge)
        holdings.report(f"{type(exc).__name__}: {text_of(exc)}", unavailable=delivery.verdict is not None and refused)
        if self._tell_stuck is not None:
            self._tell_stuck(delivery, exc, delay)
        return delay, following

    def _copy_for(self, exc: Exception) -> ReleaseCopy | None:
        """What sends the copy that its release is; None: the broker releases it by itself."""
        if self._released_by_broker and not getattr(exc, "by_copy", False):
            return None
        return self._release_copy

    def _release(self, delivery: Delivery, starts: int, delay: float, copy: ReleaseCopy | None) -> None:
        if copy is None:
            if self._holdings.settler is not None:
                self._holdings.settler.release(delivery, starts, delay, failed=True)
            self._holdings.remove(delivery)
            return
        task = asyncio.create_task(self._copy_to_inlet(copy, delivery, starts, delay))
        self.copies.add(task)
        task.add_done_callback(self.copies.discard)

    async def _copy_to_inlet(self, send: ReleaseCopy, delivery: Delivery, starts: int, delay: float) -> None:
        """Emulated release: a confirmed copy in the inlet, then the original is done."""
        holdings = self._holdings
        try:
            await send(delivery, starts, delay)
        except (AnybrokerError, asyncio.CancelledError) as exc:
            if holdings.stopping or delivery.lane_state.gone:
                holdings.give_back(delivery, starts)
                holdings.next_of(delivery)
            else:
                _log.warning(
                    "%s: a delayed release could not be sent (%s); holding the event instead", holdings.name, exc
                )
                self._held.hold(delivery.again(starts + 1), delay)
            return
        holdings.settle_done(delivery)
        holdings.remove(delivery)
