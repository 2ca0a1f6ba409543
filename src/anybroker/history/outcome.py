"""What a replay has done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["ReplayFailure", "ReplayProgress", "Replayed"]


@dataclass(frozen=True)
class ReplayFailure:
    """One event that was not replayed."""

    id: str
    """The event's id; its place if it is not a CloudEvent."""
    place: str
    """``lane@position``, such as ``orders/3@1204``: what ``from_`` takes."""
    error: str
    """The exception, in printable text."""


@dataclass(frozen=True)
class ReplayProgress:
    """How far a replay is."""

    passed: int
    """Positions that it has passed."""
    total: int
    """Positions from the start to the end: on some brokers not each of them has an event."""
    matched: int
    """Events that the filters let through."""
    replayed: int
    """Those that reached the target."""


@dataclass(frozen=True)
class Replayed:
    """What a replay has done since it began, interruptions included."""

    topic: str
    target: str
    """``group audit``, ``handler rebuild`` or ``topic orders-2``; empty for a dry run without one."""
    read: int
    """Events between the start and the end."""
    matched: int
    """How many of them the filters let through."""
    replayed: int
    """How many of these reached the target. 0 for a dry run."""
    failed: int
    """How many did not."""
    duplicates: int
    """How many of the replayed ones the target had already, from before an interruption: the broker dropped these."""
    failures: Sequence[ReplayFailure]
    """The failures of this run, 1,000 at most."""
    complete: bool
    """Whether the end was reached. False: it stopped at a failure, as it was told to."""
    seconds: float
    """That this run took."""
