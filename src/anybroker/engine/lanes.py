"""Which delivery may start next: lanes as the broker hands them out, and strands, one a key, inside them."""

from __future__ import annotations

from asyncio import Event as AsyncEvent
from collections import deque
from collections.abc import Collection
from heapq import heapify, heappop, heappush
from math import inf
from typing import TYPE_CHECKING

from ..adapter import Inbound, Lane
from .ledger import LaneLedger

if TYPE_CHECKING:
    from ..delivery import Delivery

__all__ = ["LOOK_AGAIN", "LaneState", "Strands"]

LOOK_AGAIN = 5.0
"""Seconds after which the wall clock is asked again whether an event that is not due yet is due."""


class LaneState:
    """One lane while this member has it."""

    __slots__ = ("drained", "gone", "lane", "ledger", "lost", "outstanding", "running")

    def __init__(self, lane: Lane, ledger: LaneLedger | None) -> None:
        self.lane = lane
        self.ledger = ledger
        """None where the broker settles each message by itself."""
        self.outstanding = 0
        """Received and not finished."""
        self.running = 0
        """Handlers in flight."""
        self.gone = False
        """Revoked or lost: nothing more of it starts."""
        self.lost = False
        """Lost: what still finishes is not settled any more."""
        self.drained: AsyncEvent | None = None
        """Set when the last handler of a revoked lane has ended."""


class Strands:
    """The deliveries of one subscription: ready, waiting behind one of the same key, or held until a time.

    At most one delivery of a key is ready, running or held at any moment; those behind it wait in order. A delivery
    without a key, and every delivery of an unordered subscription, is its own strand. Keys without a delivery take no
    memory.
    """

    __slots__ = ("_held", "_held_keys", "_ordered", "_outside", "_sequence", "_waiting", "blocked", "parked", "ready")

    def __init__(self, ordered: bool) -> None:
        self._ordered = ordered
        self.ready: deque[Delivery] = deque()
        """What may start now, oldest first. Workers take from its left."""
        self._waiting: dict[str, deque[Delivery] | None] = {}
        self._held: list[tuple[float, int, Delivery]] = []
        self._held_keys: set[str] = set()
        self._outside: dict[Inbound, float] = {}
        self._sequence = 0
        self.blocked = 0
        """How many wait behind another one of their key."""
        self.parked = 0
        """How many of those wait behind one that is held."""

    @property
    def held(self) -> int:
        """How many are held until a time."""
        return len(self._held)

    def enter(self, delivery: Delivery) -> bool:
        """Take a place in the strand of its key. True: it is at the head, and may start; False: it waits."""
        key = delivery.key
        if key is None or not self._ordered:
            return True
        waiting = self._waiting
        if key not in waiting:
            waiting[key] = None
            return True
        behind = waiting[key]
        if behind is None:
            waiting[key] = deque((delivery,))
        else:
            behind.append(delivery)
        self.blocked += 1
        if self._held_keys and key in self._held_keys:
            self.parked += 1
        return False

    def leave(self, delivery: Delivery) -> Delivery | None:
        """The head of a strand has ended: the next of its key, which is now the head, or None."""
        key = delivery.key
        if key is None or not self._ordered:
            return None
        behind = self._waiting[key]
        if behind:
            self.blocked -= 1
            return behind.popleft()
        del self._waiting[key]
        return None

    def hold(self, delivery: Delivery, until: float) -> None:
        """Keep the head of a strand until a moment of the loop's clock; its key stays closed."""
        self._sequence += 1
        heappush(self._held, (until, self._sequence, delivery))
        key = delivery.key
        if key is not None and self._ordered:
            self._held_keys.add(key)
            self.parked += len(self._waiting[key] or ())

    def put_off(self, delivery: Delivery, now: float, wall: float, not_before: float) -> float:
        """Keep a delivery that has not entered its strand until that moment of the wall clock; its key stays open.

        Returns when to look next, by the loop's clock: soon enough to notice that the wall clock was set meanwhile.
        """
        until = now + min(not_before - wall, LOOK_AGAIN)
        self._sequence += 1
        self._outside[delivery.inbound] = not_before
        heappush(self._held, (until, self._sequence, delivery))
        return until

    def take_held(self, inbound: Inbound) -> Delivery | None:
        """Take a held delivery out before it is due; its key stays closed, and it is the head still. None: not held."""
        for at, (_, _, delivery) in enumerate(self._held):
            if delivery.inbound is inbound:
                del self._held[at]
                heapify(self._held)
                return delivery if self._unheld(delivery) else None
        return None

    def first_held(self, lanes: Collection[Lane] | None) -> Delivery | None:
        """The held head of a strand that was received first, of these lanes or of all."""
        heads = (
            delivery
            for _, _, delivery in self._held
            if delivery.inbound not in self._outside and (lanes is None or delivery.lane_state.lane in lanes)
        )
        return min(heads, key=lambda delivery: delivery.inbound.position, default=None)

    def first_put_off(self, lanes: Collection[Lane] | None) -> Delivery | None:
        """What has not entered its strand yet and was received first, of these lanes or of all."""
        waiting = (
            delivery
            for _, _, delivery in self._held
            if delivery.inbound in self._outside and (lanes is None or delivery.lane_state.lane in lanes)
        )
        return min(waiting, key=lambda delivery: delivery.inbound.position, default=None)

    def next_due(self) -> float | None:
        """The loop time at which the first held delivery is due."""
        return self._held[0][0] if self._held else None

    def pop_due(self, now: float, wall: float = inf) -> Delivery | None:
        """A held delivery that is due, or None; its key stays closed, and it is the head still. What was put off, and
        is early by the wall clock, is put off again."""
        while self._held and self._held[0][0] <= now:
            delivery = heappop(self._held)[2]
            not_before = self._outside.get(delivery.inbound) if self._outside else None
            if not_before is not None and not_before > wall:
                self.put_off(delivery, now, wall, not_before)
            elif self._unheld(delivery):
                return delivery
        return None

    def _unheld(self, delivery: Delivery) -> bool:
        """It is held no more. True: it is the head of its strand; False: it was put off, and waits behind others."""
        if self._outside and delivery.inbound in self._outside:
            del self._outside[delivery.inbound]
            return self.enter(delivery)
        key = delivery.key
        if key is not None and self._ordered:
            self._held_keys.discard(key)
            self.parked -= len(self._waiting[key] or ())
        return True

    def clear(self) -> list[Delivery]:
        """Take out all that was not started, in order within each key. Running heads keep their keys closed."""
        heads = list(self.ready)
        self.ready.clear()
        for _, _, delivery in sorted(self._held):
            if self._unheld(delivery):
                heads.append(delivery)
        self._held.clear()
        taken: list[Delivery] = []
        for delivery in heads:
            taken.append(delivery)
            if delivery.key is not None and self._ordered:
                taken.extend(self._waiting.pop(delivery.key, None) or ())
        for behind in self._waiting.values():
            if behind:
                taken.extend(behind)
                behind.clear()
        self.blocked = self.parked = 0
        return taken

    def take_gone(self) -> list[Delivery]:
        """Take out the heads, ready or held, whose lane is gone. What waits behind a running one stays until its turn
        comes, and is dropped then."""
        gone = [delivery for delivery in self.ready if delivery.lane_state.gone]
        if gone:
            kept = [delivery for delivery in self.ready if not delivery.lane_state.gone]
            self.ready.clear()
            self.ready.extend(kept)
        held = [item for item in self._held if item[2].lane_state.gone]
        if held:
            self._held = [item for item in self._held if not item[2].lane_state.gone]
            heapify(self._held)
            gone += [item[2] for item in held if self._unheld(item[2])]
        return gone
