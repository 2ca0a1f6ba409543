"""From what was received to deliveries in their strands."""

from __future__ import annotations

import time
from collections.abc import Collection
from math import inf

from ..adapter import Inbound, Lane, count_of
from ..delivery import Delivery
from ..errors import PoisonedError
from ..kit.not_before import NOT_BEFORE, moment_of
from ..names import SHORT_KEY, bounded_key
from ..printable import logger
from .held import Held
from .holdings import Holdings
from .inlet import ATTEMPTS_HEADER, CLOCKS_APART, LONGEST_RELEASE
from .lanes import LaneState
from .seldom import Seldom

__all__ = ["Intake"]

_log = logger("anybroker.broker")


class Intake:
    """Makes deliveries. Counts and moments that the library cannot have written are not believed."""

    def __init__(self, holdings: Holdings, held: Held, poison_after: int, max_delay: float | None) -> None:
        """``max_delay``: seconds that the broker delays an event at most, None without a limit."""
        self._holdings = holdings
        self._held = held
        self._poison_after = poison_after
        self._longest_wait = inf if max_delay is None else max(max_delay, LONGEST_RELEASE) + CLOCKS_APART
        """Seconds that an adapter may say an event has to wait."""
        self._say_not_believed = Seldom()

    def accept(self, batch: Collection[Inbound]) -> None:
        """Make deliveries of what was received and put them into their strands. The caller wakes the workers."""
        holdings = self._holdings
        stats = holdings.stats
        topic, group = holdings.spec.topic, holdings.spec.group
        lanes, ready = holdings.lanes, holdings.ready
        enter = holdings.strands.enter
        cumulative = holdings.cumulative
        poison_after = self._poison_after
        last: Lane | None = None
        state: LaneState | None = None
        taken = 0
        for inbound in batch:
            lane = inbound.lane
            if lane is not last:
                state = lanes.get(lane)
                last = lane
            if state is None or state.gone:
                if holdings.lease is not None:
                    holdings.lease.settled((inbound,))
                continue
            starts = inbound.attempts
            if cumulative:
                noted = state.ledger.receive(inbound.position)  # type: ignore[union-attr] # cumulative lanes have one
                if noted < 0:
                    stats.skipped_finished += 1
                    if holdings.settler is not None:
                        holdings.settler.commit(state)
                    continue
                starts = starts or noted
            if starts and count_of(starts) != starts:
                starts = self._not_believed("a count of starts")
            not_before = inbound.not_before
            if inbound.inlet and inbound.headers:  # elsewhere anybody may have written them
                headers = inbound.headers
                if not starts and ATTEMPTS_HEADER in headers:
                    starts = count_of(headers[ATTEMPTS_HEADER])
                    if not starts and headers[ATTEMPTS_HEADER] != "0":
                        self._not_believed(ATTEMPTS_HEADER)
                if not_before is None and NOT_BEFORE in headers:
                    not_before = moment_of(headers[NOT_BEFORE], LONGEST_RELEASE + CLOCKS_APART)
                    if not_before is None:
                        self._not_believed(NOT_BEFORE)
            key = inbound.key
            if key is not None and len(key) > SHORT_KEY:
                key = bounded_key(key)
            delivery = Delivery(inbound.event, topic, group, starts + 1, key, inbound, state)
            state.outstanding += 1
            taken += 1
            if inbound.deliveries > poison_after:
                delivery.verdict = PoisonedError(inbound.deliveries)
                delivery.attempt = starts
            if not_before is not None and (ahead := not_before - time.time()) > 0 and self._is_believed(ahead):
                self._held.put_off(delivery, not_before)
            elif enter(delivery):
                ready.append(delivery)
        holdings.outstanding += taken
        stats.received += taken

    def _is_believed(self, ahead: float) -> bool:
        """Whether an event may have to wait this many seconds."""
        if ahead < inf and ahead <= self._longest_wait:
            return True
        self._not_believed("a moment to wait for")
        return False

    def _not_believed(self, what: str) -> int:
        """Another program has written what the library never writes, in a place that only the library should write to.
        It counts as 0."""
        self._holdings.stats.not_believed += 1
        if times := self._say_not_believed():
            _log.warning(
                "%s: %s that the library never writes came with an event, and is not believed (%d times since this was "
                "said last). Another program writes to the group's inlet, or to where its members leave notes",
                self._holdings.name,
                what,
                times,
            )
        return 0
