"""What ``bus.health()`` returns: how a Bus is, as data."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime

from ..engine.core import BusState
from ..engine.subscriptions import SubscriptionState

__all__ = ["BLOCKED_LIMIT", "Health", "Lag", "Problem", "SubscriptionHealth"]

BLOCKED_LIMIT = 30.0
"""Seconds for which the event loop may be blocked until the process counts as dead."""


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One entry of ``bus.problems``."""

    what: str
    """In printable text."""
    since: float | None
    """Seconds since the epoch: when it was first seen. Problems are looked for each second; None: not seen yet."""
    unready: bool
    """Whether the Bus is not ready because of it: a broker, a store or a dead-letter topic is away."""


@dataclass(frozen=True, kw_only=True)
class Lag:
    """What waits for a group, as the broker said it last (at most 15 seconds ago)."""

    events: int
    """Those in flight included."""
    age: float | None
    """Seconds: how old the oldest one was then. None where the broker cannot tell, or nothing waits."""


@dataclass(frozen=True, kw_only=True)
class SubscriptionHealth:
    """One subscription."""

    topic: str
    group: str
    state: SubscriptionState
    ready: bool
    """It has joined its group, and nothing that it needs is away. True also where it was stopped on purpose."""
    problem: str | None
    """What is wrong with it, in printable text."""
    since: float | None
    """Seconds since the epoch: when that problem was first seen."""
    lag: Lag | None
    """None where it is not known: nobody looks (see ``docs/health.md``), or the broker does not say."""
    unfinished_age: float | None
    """For how many seconds an event has been the oldest unfinished one of its lane. None: nothing is unfinished."""
    running: int
    """Handlers in flight."""
    buffered: int
    """Events received and not finished."""
    held_lanes: int


@dataclass(frozen=True, kw_only=True)
class Health:
    """A Bus at one moment."""

    live: bool
    """The process works: its event loop turns, and the Bus has not ended. A broker that is away changes nothing."""
    ready: bool
    """It can do its work: it is started, its subscriptions have joined their groups, and no broker, store or
    dead-letter topic is away."""
    state: BusState
    since: float
    """Seconds since the epoch: when the Bus came into this state."""
    blocked_for: float
    """Seconds for which the event loop has been blocked; 0.0 while it turns."""
    why: tuple[str, ...]
    """Why it is not live, or not ready: one sentence each."""
    problems: Mapping[str, Problem] = field(default_factory=dict)
    """All of ``bus.problems``, by name. Not each of them makes it unready."""
    subscriptions: tuple[SubscriptionHealth, ...] = ()

    def as_dict(self) -> dict[str, object]:
        """As JSON has it. Moments are texts (RFC 3339, UTC)."""
        return _with_moments(asdict(self))

    def as_json(self) -> str:
        """In one line."""
        return json.dumps(self.as_dict())


def _with_moments(values: dict[str, object]) -> dict[str, object]:
    return {name: _moment(value) if name == "since" else _inner(value) for name, value in values.items()}


def _inner(value: object) -> object:
    if isinstance(value, dict):
        return _with_moments(value)
    if isinstance(value, list | tuple):
        return [_inner(each) for each in value]
    return round(value, 3) if isinstance(value, float) else value


def _moment(since: object) -> object:
    if not isinstance(since, float):
        return since
    return datetime.fromtimestamp(since, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
