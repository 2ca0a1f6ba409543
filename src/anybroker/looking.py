"""The half of a Bus that says what it is, and how it is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from .adapter import Adapter, Backlog, Start
from .cloudevents.event import Event
from .config.settings import BusSettings
from .deadletters.queue import DeadLetterQueue
from .delivery import Delivery
from .describe import BusDescription, describe
from .engine.core import Core
from .engine.inspector import Inspector
from .engine.life import Life
from .engine.subscriptions import Subscriptions
from .history.outcome import Replayed, ReplayProgress
from .history.replay import Wanted, replay
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

    async def replay(
        self,
        topic: str,
        *,
        from_: datetime | Mapping[str, int] | None = None,
        to: datetime | Mapping[str, int] | None = None,
        group: str | None = None,
        handler: Callable[..., object] | None = None,
        into: str | None = None,
        type: str | Iterable[str] = (),
        key: str | Iterable[str] = (),
        where: Callable[[Event[Any]], object] | None = None,
        rate: float | None = None,
        resume: str | Path | None = None,
        dry_run: bool = False,
        stop_on_failure: bool = False,
        progress: Callable[[ReplayProgress], None] | None = None,
    ) -> Replayed:
        """Replay what a topic keeps, consumed or not, from one moment or position up to another, in order of each key.

        No group's position changes. The end is fixed when this begins: what is published meanwhile does not count.

        :param from_: the first to replay: stored at this moment or later; or the position of each lane, and then no
            other lanes (``{"orders/3": 1204}``). None: the first that is kept.
        :param to: the first not to replay, in the same way. None: up to now.
        :param group: send copies to this group of the topic and to no other, through its inlet. It may have members.
        :param handler: run this function here for one event after the other, with its decorators and the Bus's
            middleware. It retries in place; what would be dead-lettered is a failure of the result. ``delivery.group``
            is ``replay-`` with the name of this replay.
        :param into: publish to another topic: the same events under the same ids.
        :param type: only events of these types. A handler takes those of its own types in any case.
        :param key: only events of these keys.
        :param where: only events for which this returns something true.
        :param rate: events a second, at most.
        :param resume: a file that says how far it is. If it is there, the replay goes on where it was interrupted, also
            by ``SIGKILL``; the other arguments have to be the same. Written, with ``fsync``, after each batch: up to
            500 copies, or 20 starts of the handler, may be made twice. Of copies the broker drops those where it can
            tell (capability ``deduplication``).
        :param dry_run: send nothing, and count exactly what would be sent, or what is left.
        :param stop_on_failure: stop at the first event that fails, before it. Otherwise it is logged and passed.
        :param progress: called at the start and after each batch.

        Raises ``CapabilityError`` where the broker cannot read again what was consumed (capability ``history``),
        ``MissingGroup``, ``ConfigError``, before anything is sent; a ``BrokerError`` where the broker takes nothing for
        longer than the publish deadline. After that, as after a cancellation, it can go on with ``resume``.
        """
        wanted = Wanted(
            topic=topic,
            from_=from_,
            to=to,
            group=group,
            handler=handler,
            into=into,
            types=type,
            keys=key,
            where=where,
            rate=rate,
            resume=resume,
            dry_run=dry_run,
            stop_on_failure=stop_on_failure,
            progress=progress,
        )
        return await replay(self._core, wanted)

    def dead_letters(self, topic: str, group: str) -> DeadLetterQueue:
        """The dead letters of a group: list, show, replay, discard."""
        check_names(topic, group)
        return DeadLetterQueue(self._core, topic, group, self._topics.dead_letters_of(topic, group))
