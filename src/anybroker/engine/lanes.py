"""Which delivery may start next: the lanes that the broker hands out, and in each a strand per key."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from heapq import heapify, heappop, heappush
from math import inf

from ..adapter import Inbound, Lane
from ..delivery import Delivery, LaneState

__all__ = ["LOOK_AGAIN", "LaneState", "Strands"]

LOOK_AGAIN = 5.0
"""Seconds between two checks of the wall clock for an event that is not due yet."""


class Strands:
    """The deliveries of one subscription: ready, waiting behind another of the same key, or held until a time.

    A strand is the queue of one key. Only its head is ready, running or held; the deliveries behind it wait in order.
    What is held has a time, or waits in a line (:mod:`anybroker.engine.waiting`) until it is called. A delivery without
    a key is its own strand, and so is every delivery of an unordered subscription. Keys without a delivery take no
    memory.
    """

    __slots__ = (
        "_held",
        "_held_keys",
        "_in_line",
        "_ordered",
        "_outside",
        "_sequence",
        "_waiting",
        "blocked",
        "parked",
        "ready",
    )

    def __init__(self, ordered: bool) -> None:
        self._ordered = ordered
        self.ready: deque[Delivery] = deque()
        """What may start now, oldest first. Workers take from the left."""
        self._waiting: dict[str, deque[Delivery] | None] = {}
        self._held: list[tuple[float, int, Delivery]] = []
        self._held_keys: set[str] = set()
        self._in_line: dict[Inbound, Delivery] = {}
        self._outside: dict[Inbound, float] = {}
        self._sequence = 0
        self.blocked = 0
        """How many wait behind another delivery of their key."""
        self.parked = 0
        """How many of those wait behind a held delivery."""

    @property
    def held(self) -> int:
        """How many are held until a time."""
        return len(self._held)

    @property
    def in_line(self) -> int:
        """How many are held until they are called."""
        return len(self._in_line)

    def enter(self, delivery: Delivery) -> bool:
        """Join the strand of its key. True: it is the head, and may start; False: it waits."""
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
        """Remove the head of a strand, which has ended. Returns the next of its key, which is now the head, or None."""
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
        """Hold the head of a strand until a time of the loop's clock; its key stays blocked."""
        self._sequence += 1
        heappush(self._held, (until, self._sequence, delivery))
        self._close_key(delivery)

    def line_up(self, delivery: Delivery) -> None:
        """Hold the head of a strand until it is called; its key stays blocked."""
        self._in_line[delivery.inbound] = delivery
        self._close_key(delivery)

    def _close_key(self, delivery: Delivery) -> None:
        key = delivery.key
        if key is not None and self._ordered:
            self._held_keys.add(key)
            self.parked += len(self._waiting[key] or ())

    def call_up(self, inbound: Inbound) -> Delivery | None:
        """Take out what was held until it is called. It stays the head, and its key stays blocked. None: it is not
        there any more."""
        delivery = self._in_line.pop(inbound, None)
        if delivery is not None:
            self._unheld(delivery)
        return delivery

    def put_off(self, delivery: Delivery, now: float, wall: float, not_before: float) -> float:
        """Hold a delivery that has not entered its strand until that time of the wall clock; its key is not blocked.

        Returns when to look next, by the loop's clock: soon enough to notice that the wall clock was changed.
        """
        until = now + min(not_before - wall, LOOK_AGAIN)
        self._sequence += 1
        self._outside[delivery.inbound] = not_before
        heappush(self._held, (until, self._sequence, delivery))
        return until

    def take_held(self, inbound: Inbound) -> Delivery | None:
        """Take a held delivery out before it is due. It stays the head, and its key stays blocked. None: not held."""
        for at, (_, _, delivery) in enumerate(self._held):
            if delivery.inbound is inbound:
                del self._held[at]
                heapify(self._held)
                return delivery if self._unheld(delivery) else None
        return None

    def first_held(self, lanes: Collection[Lane] | None) -> Delivery | None:
        """The oldest held head of a strand in these lanes, or in all."""
        heads = (
            delivery
            for _, _, delivery in self._held
            if delivery.inbound not in self._outside and (lanes is None or delivery.lane_state.lane in lanes)
        )
        return min(heads, key=lambda delivery: delivery.inbound.position, default=None)

    def first_put_off(self, lanes: Collection[Lane] | None) -> Delivery | None:
        """The oldest delivery in these lanes, or in all, that has not entered its strand yet."""
        waiting = (
            delivery
            for _, _, delivery in self._held
            if delivery.inbound in self._outside and (lanes is None or delivery.lane_state.lane in lanes)
        )
        return min(waiting, key=lambda delivery: delivery.inbound.position, default=None)

    def first_in_line(self, lanes: Collection[Lane] | None) -> Delivery | None:
        """The oldest in these lanes, or in all, that is held until it is called."""
        waiting = (each for each in self._in_line.values() if lanes is None or each.lane_state.lane in lanes)
        return min(waiting, key=lambda delivery: delivery.inbound.position, default=None)

    def next_due(self) -> float | None:
        """The loop time at which the first held delivery is due."""
        return self._held[0][0] if self._held else None

    def pop_due(self, now: float, wall: float = inf) -> Delivery | None:
        """A held delivery that is due, or None. It stays the head, and its key stays blocked. A delivery that was put
        off and is still early by the wall clock is put off again."""
        while self._held and self._held[0][0] <= now:
            delivery = heappop(self._held)[2]
            not_before = self._outside.get(delivery.inbound) if self._outside else None
            if not_before is not None and not_before > wall:
                self.put_off(delivery, now, wall, not_before)
            elif self._unheld(delivery):
                return delivery
        return None

    def _unheld(self, delivery: Delivery) -> bool:
        """End holding it. True: it is the head of its strand; False: it was put off, and waits behind others."""
        if self._outside and delivery.inbound in self._outside:
            del self._outside[delivery.inbound]
            return self.enter(delivery)
        key = delivery.key
        if key is not None and self._ordered:
            self._held_keys.discard(key)
            self.parked -= len(self._waiting[key] or ())
        return True

    def unfinished(self) -> list[Delivery]:
        """All that are not running and may start now, or when what is before them has ended."""
        held = [delivery for _, _, delivery in self._held if delivery.inbound not in self._outside]
        behind = [delivery for waiting in self._waiting.values() for delivery in waiting or ()]
        return [*self.ready, *held, *self._in_line.values(), *behind]

    def clear(self) -> list[Delivery]:
        """Take out everything that was not started, in order within each key. Running heads keep their keys blocked."""
        heads = list(self.ready)
        self.ready.clear()
        for _, _, delivery in sorted(self._held):
            if self._unheld(delivery):
                heads.append(delivery)
        self._held.clear()
        heads += [delivery for delivery in self._in_line.values() if self._unheld(delivery)]
        self._in_line.clear()
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
        """Take out the ready or held heads whose lane is gone. What waits behind a running head stays until its turn,
        and is dropped then."""
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
        in_line = [delivery for delivery in self._in_line.values() if delivery.lane_state.gone]
        for delivery in in_line:
            self.call_up(delivery.inbound)
        gone += in_line
        return gone
