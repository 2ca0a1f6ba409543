"""What one member of a group holds: its lanes, and the deliveries of them that are not finished."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ..adapter import Inbound, Lane, SubscriptionSpec
from ..stats import SubscriptionStats
from .lanes import LaneState, Strands
from .lease import LeaseKeeper
from .settle import Settler
from .waiting import Line, Place

if TYPE_CHECKING:
    from ..delivery import Delivery

__all__ = ["Holdings", "starts_before"]


class Holdings:
    """Shared by the objects that make up one pump, which change it from the event loop only."""

    __slots__ = (
        "cumulative",
        "lanes",
        "lease",
        "name",
        "not_ours",
        "outstanding",
        "places",
        "problem",
        "ready",
        "room_changed",
        "settler",
        "spec",
        "stats",
        "stopping",
        "strands",
        "stuck",
        "unavailable",
        "wake_workers",
    )

    def __init__(self, spec: SubscriptionSpec, cumulative: bool, stats: SubscriptionStats) -> None:
        self.spec = spec
        self.name = f"{spec.topic}/{spec.group}"
        self.cumulative = cumulative
        """Whether the broker settles positions, so that each lane has a ledger."""
        self.stats = stats
        self.lanes: dict[Lane, LaneState] = {}
        self.strands = Strands(spec.ordered)
        self.ready = self.strands.ready
        self.outstanding = 0
        """Deliveries received and not finished."""
        self.not_ours: set[Inbound] = set()
        """Events whose lease was lost: another member may have them, so they are not started here any more."""
        self.stuck: dict[Inbound, int] = {}
        """Events that could be neither finished nor dead-lettered, and how often that was tried."""
        self.places: dict[Inbound, Place] = {}
        """Of what waits in a line, or was called and has not ended its start since."""
        self.settler: Settler | None = None
        """None while no receiver is open."""
        self.lease: LeaseKeeper | None = None
        self.stopping = False
        self.problem: str | None = None
        """Why the subscription is unhealthy; None while it is well. Set by :meth:`report`."""
        self.unavailable = False
        """Whether that is because the broker, or the dead-letter topic, is away."""
        self.wake_workers: Callable[[], None] = _nothing
        """Called when something is ready that may not have been before."""
        self.room_changed: Callable[[bool], None] = _nothing_forced
        """Called when there may be room for more events. True: the fetching task has to look in any case."""

    # --------------------------------------------------------------------------------------------------- one delivery

    def next_of(self, delivery: Delivery) -> None:
        """The head of a strand is finished or forgotten: its follower may start."""
        following = self.strands.leave(delivery)
        if following is not None:
            self.ready.append(following)
            self.wake_workers()

    def remove(self, delivery: Delivery) -> None:
        """Take it out of the counts, and let the next of its key start. Settles nothing."""
        delivery.lane_state.outstanding -= 1
        self.outstanding -= 1
        self.next_of(delivery)

    def settle_done(self, delivery: Delivery) -> None:
        """Settle it as handled, unless its lane was lost. Counts nothing."""
        state = delivery.lane_state
        if state.lost or self.settler is None:
            self.stats.stale_settlements += 1
        elif state.ledger is not None:
            state.ledger.finish(delivery.inbound.position)
            self.settler.commit(state)
        else:
            self.settler.ack(delivery)

    def give_back(self, delivery: Delivery, starts: int) -> None:
        """Back to the broker, for the member that gets it next, with the number of starts it had."""
        state = delivery.lane_state
        if self.places:
            self.leave_lines(delivery.inbound)
        self.stats.returned += 1
        state.outstanding -= 1
        self.outstanding -= 1
        self.recovered(delivery)
        if state.lost or self.settler is None:
            return
        if state.ledger is not None:
            if starts:
                state.ledger.attempts[delivery.inbound.position] = starts
        else:
            self.settler.release(delivery, starts)

    def forget(self, delivery: Delivery) -> None:
        """It is not started any more: another member has it already, or gets it with the number of starts it had."""
        if delivery.lane_state.lost or delivery.inbound in self.not_ours:
            self.not_ours.discard(delivery.inbound)
            self.recovered(delivery)
            self.leave_lines(delivery.inbound)
            delivery.lane_state.outstanding -= 1
            self.outstanding -= 1
        else:
            self.give_back(delivery, starts_before(delivery))

    def recovered(self, delivery: Delivery) -> None:
        """Stop counting it as stuck: it is finished, or not ours any more."""
        if self.stuck.pop(delivery.inbound, None) is not None and not self.stuck:
            self.report(None)

    def report(self, problem: str | None, *, unavailable: bool = True) -> None:
        """Why the subscription is unhealthy; None: it is well again. ``unavailable``: because the broker, or the
        dead-letter topic, is away."""
        self.problem = problem
        self.unavailable = problem is not None and unavailable

    # ---------------------------------------------------------------------------------------------------------- lines

    def line_up(self, delivery: Delivery, line: Line) -> None:
        """The head of a strand waits in this line until it is called. What other lines keep for it stays."""
        inbound = delivery.inbound
        before = self.places.get(inbound)
        others = () if before is None else tuple(each for each in before.lines if each.owner is not line.owner)
        place = self.places[inbound] = Place(delivery, (*others, line), self._call_up)
        self.strands.line_up(delivery)
        line.join(place)

    def _call_up(self, inbound: Inbound) -> None:
        delivery = self.strands.call_up(inbound)
        if delivery is not None:
            self.ready.append(delivery)
            self.wake_workers()

    def leave_lines(self, inbound: Inbound) -> None:
        """It is not started here any more: tell the lines that know it."""
        place = self.places.pop(inbound, None)
        if place is not None:
            for line in place.lines:
                line.left(inbound)

    def start_ended(self, delivery: Delivery) -> None:
        """What had been called has started, and that has ended. Lines whose turn it did not reach have to know."""
        place = self.places.get(delivery.inbound)
        if place is not None and place.delivery is delivery:  # else it waits again
            self.leave_lines(delivery.inbound)

    # ---------------------------------------------------------------------------------------------------------- lanes

    def drop_gone(self) -> None:
        """Forget what was not started of lanes that are gone."""
        for head in self.strands.take_gone():
            delivery: Delivery | None = head
            while delivery is not None and delivery.lane_state.gone:
                self.forget(delivery)
                delivery = self.strands.leave(delivery)
            if delivery is not None:
                self.ready.append(delivery)
        self.wake_workers()

    def commit_all(self, states: list[LaneState]) -> None:
        """Hand the positions of these lanes to the settler, where the broker settles positions."""
        if self.cumulative and self.settler is not None:
            for state in states:
                self.settler.commit(state)


def starts_before(delivery: Delivery) -> int:
    """The handler starts that a waiting delivery had. With a verdict the handler does not run again, so all count."""
    return delivery.attempt if delivery.verdict is not None else delivery.attempt - 1


def _nothing() -> None:
    """Until a pump sets it."""


def _nothing_forced(_force: bool) -> None:
    """Until a pump sets it."""
