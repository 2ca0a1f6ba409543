"""The subscriptions of a Bus, by topic and group."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any, Generic, Literal, Protocol, TypeAlias, TypeVar, runtime_checkable

from ..adapter import Adapter, GroupSpec
from ..errors import ConfigError
from ..printable import logger
from .topics import Wanted
from .watch import Watched

__all__ = ["Subscribed", "Subscriptions"]

_log = logger("anybroker.broker")


@runtime_checkable
class Subscribed(Watched, Protocol):
    """What the life of a Bus needs of a subscription."""

    topic: str
    group: str

    @property
    def name(self) -> str:
        """``topic/group``."""
        ...

    @property
    def wanted(self) -> GroupSpec:
        """The group to be there."""
        ...

    @property
    def lanes(self) -> int | None:
        """In how many lanes the group is to be kept in order; None: no number was asked for."""
        ...

    @property
    def idempotent_handlers(self) -> tuple[str, ...]:
        """The names of its handlers that are idempotent."""
        ...

    @property
    def problem(self) -> str | None:
        """Why it is unhealthy."""
        ...

    @property
    def unavailable(self) -> str | None:
        """Why it is unhealthy, where that is because the broker, a store or the dead-letter topic is away."""
        ...

    @property
    def has_died(self) -> bool:
        """Whether it receives nothing more because of a defect."""
        ...

    def check(self, adapter: Adapter) -> None:
        """ConfigError for what cannot be, before anything is made."""
        ...

    async def start(self) -> None:
        """Begin to receive."""
        ...

    async def stop(self, drain: float | None = None) -> None:
        """Leave the group."""
        ...

    def give_up(self) -> None:
        """While it stops: cancel the handlers in flight now."""
        ...

    def runs_in(self, task: asyncio.Task[Any] | None) -> bool:
        """Whether one of its handlers runs in this task."""
        ...


SubscriptionState: TypeAlias = Literal["stopped", "starting", "running", "paused", "reconnecting", "stopping"]

_NOT_ADDED = "it was made while the Bus ran, and receives nothing until: await bus.add(subscription)"

_S = TypeVar("_S", bound=Subscribed)


class Subscriptions(Generic[_S]):
    """In the order in which they were made."""

    def __init__(self) -> None:
        self._by_name: dict[tuple[str, str], _S] = {}
        self._late: set[tuple[str, str]] = set()
        """Those that were made while the Bus ran, and have not been added to it."""

    def __iter__(self) -> Iterator[_S]:
        """Those that start and stop with the Bus."""
        return iter([each for place, each in self._by_name.items() if place not in self._late])

    def __contains__(self, subscription: object) -> bool:
        """Whether it belongs to this Bus."""
        return any(each is subscription for each in self._by_name.values())

    @property
    def all(self) -> tuple[_S, ...]:
        """Those too that do not start with the Bus."""
        return tuple(self._by_name.values())

    def get(self, topic: str, group: str) -> _S | None:
        """The one of this group; None: there is none."""
        return self._by_name.get((topic, group))

    def add(self, subscription: _S, *, late: bool) -> None:
        """From now on it starts and stops with the Bus; ``late``: once it is admitted."""
        place = subscription.topic, subscription.group
        self._by_name[place] = subscription
        if late:
            self._late.add(place)

    def admit(self, subscription: Subscribed) -> bool:
        """It starts and stops with the Bus from now on. Whether it did not before."""
        place = subscription.topic, subscription.group
        was_late = place in self._late
        self._late.discard(place)
        return was_late

    def put_back(self, subscription: Subscribed) -> None:
        """It was admitted, and could not be started."""
        self._late.add((subscription.topic, subscription.group))

    def remove(self, topic: str, group: str) -> None:
        """As if it had never been added."""
        del self._by_name[topic, group]
        self._late.discard((topic, group))

    def wanted(self) -> list[Wanted]:
        """What they want of their topics."""
        return [Wanted(each.topic, each.wanted, each.lanes) for each in self]

    def check(self, adapter: Adapter) -> None:
        """ConfigError for what cannot be."""
        for subscription in self:
            subscription.check(adapter)
        self.check_names()

    def check_names(self) -> None:
        """ConfigError for an idempotent handler on two topics: idempotency tells events apart by group, handler, source
        and id, not by topic."""
        topics: dict[tuple[str, str], str] = {}
        for subscription in self:
            topic, group = subscription.topic, subscription.group
            for name in subscription.idempotent_handlers:
                other = topics.setdefault((group, name), topic)
                if other != topic:
                    raise ConfigError(
                        f"handler {name} of group {group!r}",
                        f"is idempotent on the topics {other!r} and {topic!r}: an event that is on both would be "
                        "handled on one of them only",
                        "Give each its own name=, or put them into different groups.",
                    )

    async def start(self) -> None:
        """One after the other. Raises what one raises."""
        for subscription in self:
            await subscription.start()

    async def stop(self, drain: float) -> None:
        """All at once. What goes wrong is logged."""
        stopping = [subscription.stop(drain) for subscription in self]
        for result in await asyncio.gather(*stopping, return_exceptions=True):
            if isinstance(result, BaseException):
                _log.error("a subscription did not stop cleanly", exc_info=result)

    def give_up(self) -> None:
        """While they stop: wait for no handler any more."""
        for subscription in self:
            subscription.give_up()

    def runs_in(self, task: asyncio.Task[Any] | None) -> bool:
        """Whether a handler of theirs runs in this task."""
        return any(subscription.runs_in(task) for subscription in self)

    @property
    def problems(self) -> dict[str, str]:
        """By ``topic/group``; also those that receive nothing because they were never added."""
        late = {f"{topic}/{group}": _NOT_ADDED for topic, group in self._late}
        return {each.name: problem for each in self if (problem := each.problem) is not None} | late

    @property
    def unavailable(self) -> dict[str, str]:
        """By ``topic/group``: for which of them the broker, a store or the dead-letter topic is away."""
        return {each.name: why for each in self if (why := each.unavailable) is not None}
