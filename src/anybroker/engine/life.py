"""The life of a Bus: starting, closing, and starting again."""

from __future__ import annotations

import asyncio
import os
from asyncio.events import _get_running_loop as running_loop
from collections.abc import Callable
from contextlib import AsyncExitStack
from contextvars import copy_context
from typing import Any

from ..adapter import Backlog
from ..config.registry import make_adapter_of
from ..config.settings import DEFAULT_URL, parse_url
from ..errors import ConfigError, StateError, Unavailable
from ..idempotency._stores import Stores
from ..names import check_stored
from ..printable import brief
from .calls import as_failure, bounded
from .core import Core
from .lag import LagWatch
from .observing import Observer, Observers, check_observer
from .parts import Added, Parts
from .pending import PendingWatch
from .publisher import Publisher
from .spans import spans_of
from .subscriptions import Subscribed, Subscriptions
from .watch import Watch

__all__ = ["Life"]

_CLOSE_TIMEOUT = 10.0
"""Seconds that the adapter has to close its connection."""


class Life:
    """Starts and closes one Bus.

    ``new`` → ``starting`` → ``started`` → ``closing`` → ``closed``, from which it starts again.
    """

    def __init__(
        self, core: Core, subscriptions: Subscriptions[Any], consume: bool, connected: Callable[[], None]
    ) -> None:
        """``connected``: called at each start, once events can be published."""
        self._core = core
        self._subscriptions = subscriptions
        self.consume = consume
        """Whether the subscriptions start."""
        self._connected = connected
        self.parts = Parts()
        self._observers: list[tuple[Observer, Any]] = []
        self._lag: LagWatch | None = None
        self._pending: PendingWatch | None = None
        self._watch: Watch | None = None
        self._watched: dict[tuple[str, str], None] = {}
        """Topics and groups that are asked about beside those of the subscriptions."""
        self._provided = AsyncExitStack()
        self._start_ended = asyncio.Event()
        self._closing: asyncio.Task[None] | None = None
        self._given_up = False
        self._context = copy_context()
        """Of the start: what is started later must not inherit from the handler that starts it."""

    async def start(self) -> None:
        """Start in this order: watch, early parts, adapter, topics, publisher, provided values, stores, other parts (as
        added), subscriptions (as made), lag watch. Raises ConfigError or BrokerError, and leaves nothing open."""
        core = self._core
        if core.state not in ("new", "closed"):
            raise StateError(f"start: the Bus is {core.state} already. Close it first, or make another Bus")
        core.begin(asyncio.get_running_loop(), os.getpid())
        self._provided, self._start_ended, self._closing = AsyncExitStack(), asyncio.Event(), None
        self._given_up, self._context = False, copy_context()
        try:
            await as_failure("starting", self._start())
        except BaseException:
            core.enter("started")  # so that close() closes what there is
            await self.close(drain=0)
            raise
        else:
            core.enter("started")
        finally:
            self._start_ended.set()

    async def _start(self) -> None:
        core = self._core
        settings = core.settings
        adapter = core.adapter = make_adapter_of(settings, core.factory, core.source)
        self._subscriptions.check(adapter)
        self._check_watched()
        core.observers = observers = Observers(
            [check_observer(observer.attached(bus)) for observer, bus in self._observers]
        )
        self._watch = Watch(
            lambda: self._subscriptions,
            lambda: self.problems,
            lambda: self.unavailable,
            observers,
            lambda: core.publisher,
        )
        self._watch.start()
        await self.parts.start_early()
        try:
            async with asyncio.timeout(settings.connect_timeout):
                await adapter.connect()
        except TimeoutError as exc:
            where = str(parse_url(settings.url)) if settings.url else adapter.capabilities.adapter
            raise Unavailable(
                f"the broker at {where} did not answer within {settings.connect_timeout:g} s. "
                "Is it running, and is the address right?"
            ) from exc
        url = None if core.factory is not None else parse_url(settings.url or DEFAULT_URL)
        core.spans = spans_of(adapter.capabilities, url)
        await core.topics.declare_all()
        core.publisher = Publisher(
            await adapter.open_sender(), settings.publish_deadline, core.stats, observers.published
        )
        self._connected()
        await core.providers.start(self._provided)
        core.stores = Stores(core.store, url, bool(adapter.capabilities.durable), core.source)
        self._provided.push_async_callback(core.stores.close)
        await self.parts.start()
        if self.consume:
            await self._subscriptions.start()
        if (observers.lag or observers.depth) and adapter.capabilities.backlog:
            self._lag = LagWatch(self._groups, core.backlog, observers.lag, core.depth, observers.depth)
            await self._lag.start()
        if observers.pending is not None:
            self._pending = PendingWatch(lambda: self.parts.started, observers.pending)

    def _groups(self) -> list[tuple[str, str]]:
        return list(dict.fromkeys([*((each.topic, each.group) for each in self._subscriptions), *self._watched]))

    def watch(self, topic: str, group: str) -> None:
        """Ask about this group too. ConfigError for a name that none has, CapabilityError where none can be asked."""
        check_stored(topic, group)
        self._watched[topic, group] = None
        if self._core.state == "started":
            self._check_watched()

    def _check_watched(self) -> None:
        if self._watched:
            remedy = "Watch the broker with its own tools."
            self._core.adapter.capabilities.require("backlog", setting="bus.watch()", remedy=remedy)

    def observe(self, observer: Observer, bus: Any) -> None:
        """Tell it of this Bus from the next start on. ConfigError for what is not an Observer, StateError on a Bus that
        runs."""
        self._core.check_stopped("observe")
        self._observers.append((check_observer(observer), bus))

    def add(self, part: Any, bus: object) -> Added[Any]:
        """A part, or a subscription of this Bus. On a running Bus it is started now. ``bus``: what a part is attached
        to that wants to know."""
        core = self._core
        if core.state in ("starting", "closing"):
            raise StateError(f"add: the Bus is {core.state}. Add it before, or once the Bus is started")
        if core.state == "started":
            core.check_started("add")
        if isinstance(part, Subscribed) and not isinstance(part, type):
            if part not in self._subscriptions:
                raise ConfigError("bus.add(subscription)", "belongs to another Bus", "Make it with this one.")
            if core.state != "started":
                self._subscriptions.admit(part)
                return Added(part, None)
            return Added(part, self.parts.start_late(part.name, self._start_subscription(part), self._context))
        self.parts.add(part, bus)
        if core.state != "started":
            return Added(part, None)
        return Added(part, self.parts.start_now(part, self._context))

    async def _start_subscription(self, subscription: Subscribed) -> None:
        core, subscriptions = self._core, self._subscriptions
        subscription.check(core.adapter)
        was_late = subscriptions.admit(subscription)
        try:
            subscriptions.check_names()
            await core.topics.declare(subscription.topic, (), None)
            if self.consume:
                await subscription.start()
        except BaseException:
            if was_late:
                subscriptions.put_back(subscription)
            raise

    async def close(self, drain: float | None = None) -> None:
        """Close in this order: lag watch, late starts (cancelled), subscriptions (all at once), parts (the last one
        first), publisher, stores, provided values, adapter. Idempotent: concurrent calls wait for the same close, and
        cancelling one of them does not stop it."""
        core = self._core
        if core.state not in ("new", "closed"):
            if running_loop() is not core.loop:
                raise core.elsewhere("close")
            if self._subscriptions.runs_in(asyncio.current_task()):
                raise StateError(
                    "close: called inside a handler, which it would wait for. Use asyncio.create_task(bus.close()), or "
                    "set an event that the program's main function waits for"
                )
        while core.state == "starting":  # a start that failed may be followed by another one at once
            await self._start_ended.wait()
        if core.state in ("new", "closed"):
            core.enter("closed")
            return
        if self._closing is None:
            core.enter("closing")
            self._closing = asyncio.create_task(
                self._close(core.settings.drain if drain is None else drain), name="anybroker close"
            )
        await asyncio.shield(self._closing)

    async def _close(self, drain: float) -> None:
        core = self._core
        deadline = asyncio.get_running_loop().time() + drain
        try:
            lag, self._lag = self._lag, None
            if lag is not None:
                await lag.stop(0)
            pending, self._pending = self._pending, None
            if pending is not None:
                await pending.stop()
            await self.parts.abandon_starts(self._left_until(deadline))
            await self._subscriptions.stop(self._left_until(deadline))
            await self.parts.stop(lambda: self._left_until(deadline))
        finally:
            watch, self._watch = self._watch, None
            if watch is not None:
                watch.stop()
            try:
                if core.publisher is not None:
                    await core.publisher.close(max(self._left_until(deadline), 1.0))
                await self._provided.aclose()
            finally:
                core.publisher = None
                if core.has_adapter:
                    await bounded(core.adapter.close(), _CLOSE_TIMEOUT, "closing the connection")
                core.enter("closed")
                if core.observers.closed is not None:
                    core.observers.closed()

    def _left_until(self, deadline: float) -> float:
        """Seconds that are left to drain."""
        return 0.0 if self._given_up else max(deadline - asyncio.get_running_loop().time(), 0.0)

    def give_up(self) -> None:
        """While the Bus closes: wait for no handler, no part and no confirmation any more."""
        self._given_up = True
        self.parts.give_up()
        self._subscriptions.give_up()
        if self._core.publisher is not None:
            self._core.publisher.give_up()

    @property
    def since(self) -> dict[str, float]:
        """By the name of each problem, when it was first seen, in seconds since the epoch."""
        watch = self._watch
        return {} if watch is None else watch.since

    @property
    def blocked_for(self) -> float:
        """Seconds without a turn of the event loop, 0.0 while it turns. Readable in any thread."""
        watch = self._watch
        return 0.0 if watch is None else watch.blocked_for

    @property
    def problems(self) -> dict[str, str]:
        """What is wrong now: by subscription, by part, and under ``publish`` why the broker takes nothing."""
        found = {**self._subscriptions.problems, **self.parts.problems}
        lag = self._lag
        if lag is not None and (unknown := lag.problem) is not None:
            found["lag"] = brief(unknown)
        if (publishing := self._publishing) is not None:
            found["publish"] = publishing
        return found

    @property
    def unavailable(self) -> dict[str, str]:
        """Those of the problems that say that a broker, a store or a dead-letter topic is away."""
        found = self._subscriptions.unavailable
        if (publishing := self._publishing) is not None:
            found["publish"] = publishing
        return found

    @property
    def _publishing(self) -> str | None:
        publisher = self._core.publisher
        return None if publisher is None else publisher.problem

    @property
    def has_died(self) -> bool:
        """Whether publishing, or a subscription, ended by a defect of ours or the adapter's and does not recover."""
        publisher = self._core.publisher
        return any(each.has_died for each in self._subscriptions) or (publisher is not None and publisher.has_died)

    def lag_of(self, topic: str, group: str) -> Backlog | None:
        """What the lag watch was told last; None where it does not run, or the broker did not answer."""
        lag = self._lag
        return None if lag is None else lag.last.get((topic, group))
