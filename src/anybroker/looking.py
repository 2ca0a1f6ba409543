"""The half of a Bus that says what it is, and how it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from .adapter import Adapter, Backlog, Start
from .config.settings import BusSettings
from .deadletters.queue import DeadLetterQueue
from .delivery import Delivery
from .describe import BusDescription, describe
from .engine.core import Core
from .engine.inspector import Inspector
from .engine.life import Life
from .engine.subscriptions import Subscriptions
from .middleware.outgoing import PublishMiddleware
from .names import check_names
from .observe.health import BLOCKED_LIMIT, Health
from .observe.logs import LogObserver
from .publishing import PublishingBus
from .seeing import look_at
from .subscription import Subscription

__all__ = ["LookingBus"]


class LookingBus(PublishingBus):
    """What a :class:`Bus` is asked. Not made by itself."""

    def __init__(
        self,
        core: Core,
        publish_middleware: Sequence[PublishMiddleware],
        subscriptions: Subscriptions[Subscription],
        consume: bool,
    ) -> None:
        super().__init__(core, publish_middleware)
        self._subscriptions = subscriptions
        self._life = Life(core, subscriptions, consume, self._connected)
        self._life.observe(LogObserver(core.topics.dead_letters_of, self._types_of), self)
        self.inspect = Inspector(core)
        """``await bus.inspect.peek(topic)``: looks at topics, groups and stored events without touching them."""

    @property
    def settings(self) -> BusSettings:
        """What the arguments, the environment and the configuration file say."""
        return self._core.settings

    @property
    def adapter(self) -> Adapter:
        """The adapter; ``bus.adapter.native`` is the client's own object. StateError before the start."""
        return self._core.adapter

    def describe(self) -> BusDescription:
        """What this Bus is, as data: its topics, groups, handlers, event types, keys, middleware and settings, and no
        secret. Before the start too: no broker is asked. Raises ConfigError for middleware in an order that cannot be.
        """
        return describe(
            self.settings,
            factory=self._core.factory,
            consume=self._life.consume,
            publish_middleware=self._publish_middleware,
            published=self._published,
            subscriptions=self.subscriptions,
        )

    @property
    def subscriptions(self) -> tuple[Subscription, ...]:
        """All subscriptions, also those that were made late and not added yet."""
        return self._subscriptions.all

    def _types_of(self, topic: str, group: str) -> list[str]:
        """Those that the handlers of a subscription take."""
        subscription = self._subscriptions.get(topic, group)
        return [] if subscription is None else sorted({t for each in subscription.handlers for t in each.spec.types})

    def _hook_failed(self, delivery: Delivery) -> None:
        if (subscription := self._subscriptions.get(delivery.topic, delivery.group)) is not None:
            subscription.stats.hooks_failed += 1

    @property
    def state(self) -> Literal["new", "starting", "started", "closing", "closed"]:
        """What it does now."""
        return self._core.state

    @property
    def problems(self) -> dict[str, str]:
        """What is wrong now, by subscription (``orders/billing``) and part, and under ``publish`` why the broker takes
        nothing, or with what publishes fail; empty while all is well. :meth:`health` says which of them matter."""
        return self._life.problems

    @property
    def problems_since(self) -> dict[str, float]:
        """By the name of each problem, when it was first seen: seconds since the epoch. Looked at each second."""
        return self._life.since

    def health(self, *, blocked_limit: float = BLOCKED_LIMIT) -> Health:
        """How the Bus is now, as data: whether it is live and ready, and how each subscription is. Cheap, asks nobody,
        may be called in any thread and never raises. ``blocked_limit``: seconds for which the event loop may be blocked
        until the process does not count as live."""
        return look_at(self._core, self._life, self._subscriptions, blocked_limit)

    @property
    def blocked_for(self) -> float:
        """Seconds for which the event loop has been blocked; 0.0 while it turns at least once a second. It may be read
        in any thread."""
        return self._life.blocked_for

    async def backlog(self, topic: str, group: str) -> Backlog:
        """What waits for a group. CapabilityError where the broker cannot say, MissingGroup where there is none."""
        return await self._core.backlog(topic, group)

    async def seek(self, topic: str, group: str, to: Start) -> None:
        """Move a group without members to the start, the end or a moment. CapabilityError where the broker cannot."""
        await self._core.seek(topic, group, to)

    def dead_letters(self, topic: str, group: str) -> DeadLetterQueue:
        """The dead letters of a group: list, show, replay, discard."""
        check_names(topic, group)
        return DeadLetterQueue(self._core, topic, group, self._topics.dead_letters_of(topic, group))
