"""What is done to a run: a deck of faults, shuffled by the seed and dealt until the run has had enough of them."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle

from .points import POINTS

__all__ = ["SERVERS", "Fault", "deck"]

SERVERS = ("database", "broker")
_KILLED = ("worker", "worker", "relay", "relay", "last", "shop")


@dataclass(frozen=True)
class Fault:
    """One of them."""

    what: str
    """A program, ``database`` or ``broker``."""
    point: str | None = None
    """Where the program kills itself; None: it is killed from outside, now."""

    def __str__(self) -> str:
        """As :meth:`of` reads it."""
        return self.what if self.point is None else f"{self.what}:{self.point}"

    @classmethod
    def of(cls, text: str) -> Fault:
        """As the command line has it: ``worker``, ``worker:in-commit``, ``database``. Raises ValueError."""
        what, _, point = text.partition(":")
        if what not in (*POINTS, *SERVERS) or (point and point not in POINTS.get(what, ())):
            raise ValueError(f"{text!r} is not a program, a program's point, or one of {', '.join(SERVERS)}")
        return cls(what, point or None)


def deck(chance: random.Random, servers: Collection[str], only: Sequence[Fault] = ()) -> Iterator[Fault]:
    """Every point and these servers restarted twice, in random order, then random kills; and all of it again, for ever.
    ``only``: these instead."""
    if only:
        yield from cycle(only)
    points = [Fault(role, point) for role, names in POINTS.items() for point in names]
    first = [*points, *(Fault(server) for server in servers for _ in range(2))]
    second = [Fault(role) for role in _KILLED]
    while True:
        chance.shuffle(first)
        chance.shuffle(second)
        yield from first
        yield from second
