"""Putting together what ``bus.health()`` returns."""

from __future__ import annotations

import time
from collections.abc import Iterable

from .engine.core import Core
from .engine.life import Life
from .observe.health import Health, Lag, Problem, SubscriptionHealth
from .subscription import Subscription

__all__ = ["look_at"]

_TRIES = 5
"""The event loop may change what another thread looks at."""


def look_at(core: Core, life: Life, subscriptions: Iterable[Subscription], blocked_limit: float) -> Health:
    """The health of a Bus. Called in any thread; never raises."""
    error: Exception | None = None
    for _ in range(_TRIES):
        try:
            return _look_at(core, life, subscriptions, blocked_limit)
        except Exception as exc:  # noqa: BLE001 - most likely a dict changed its size during the iteration
            error = exc
            time.sleep(0)
    return _unknown(core, life, blocked_limit, f"what runs could not be looked at: {error!r}")


def _look_at(core: Core, life: Life, subscriptions: Iterable[Subscription], blocked_limit: float) -> Health:
    problems, unavailable, since = life.problems, life.unavailable, life.since
    seen = [_of(each, life, since) for each in subscriptions]
    dead = _why_dead(core, life, blocked_limit)
    why = list(dead)
    if core.state == "closed":
        pass  # said already
    elif core.state != "started":
        why.append(f"the Bus is {core.state}")
    else:
        why += [f"{name}: {what}" for name, what in unavailable.items()]
        waiting = [f"{each.topic}/{each.group}" for each in seen if not each.ready]
        why += [f"{name}: it has not joined its group yet" for name in waiting if name not in unavailable]
    return Health(
        live=not dead,
        ready=not why,
        state=core.state,
        since=core.state_since,
        blocked_for=life.blocked_for,
        why=tuple(why),
        problems={
            name: Problem(what=what, since=since.get(name), unready=name in unavailable)
            for name, what in problems.items()
        },
        subscriptions=tuple(seen),
    )


def _why_dead(core: Core, life: Life, blocked_limit: float) -> list[str]:
    why: list[str] = []
    if core.state == "closed":
        why.append("the Bus is closed")
    if (blocked := life.blocked_for) > blocked_limit:
        why.append(f"the event loop has been blocked for {blocked:.0f} s")
    if core.state == "started" and life.has_died:
        why.append("publishing, receiving or handling has ended because of a defect: see the log")
    return why


def _of(subscription: Subscription, life: Life, since: dict[str, float]) -> SubscriptionHealth:
    state, problem = subscription.state, subscription.problem
    idle = not life.consume or state in ("stopped", "stopping")
    told = life.lag_of(subscription.topic, subscription.group)
    return SubscriptionHealth(
        topic=subscription.topic,
        group=subscription.group,
        state=state,
        ready=idle or (subscription.has_joined and subscription.unavailable is None),
        problem=problem,
        since=None if problem is None else since.get(subscription.name),
        lag=None if told is None else Lag(events=told.lag, age=told.age),
        unfinished_age=subscription.unfinished_age,
        running=subscription.running,
        buffered=subscription.buffered,
        held_lanes=subscription.held_lanes,
    )


def _unknown(core: Core, life: Life, blocked_limit: float, why: str) -> Health:
    dead = _why_dead(core, life, blocked_limit)
    return Health(
        live=not dead,
        ready=False,
        state=core.state,
        since=core.state_since,
        blocked_for=life.blocked_for,
        why=(*dead, why),
    )
