"""What the parts of a Bus share: settings, the adapter, what handlers are provided with, the ways out, and where it may
be used."""

from __future__ import annotations

import asyncio
import os
import sys
import time
import warnings
from asyncio.events import _get_running_loop as running_loop
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeAlias

from ..adapter import Adapter, Backlog, ListsGroups, Outbound, Receipt, Replays, ReportsBacklog, Start
from ..codec.choice import Codecs
from ..config.registry import AdapterFactory, check_factory
from ..config.settings import BusSettings
from ..errors import BrokerError, MissingGroup, StateError
from ..handlers.provide import Providers
from ..idempotency._store import Store
from ..idempotency._stores import Stores
from ..names import DEAD_LETTER_GROUP, check_stored, check_topic, near_groups
from ..printable import logger
from ..stats import PublishStats
from .calls import as_failure
from .copies import Copies
from .observing import Observers
from .publisher import Publisher
from .sinks import Sink, Sinks
from .spans import Spans
from .topics import Topics, Wanted

__all__ = ["BusState", "Core"]

BusState: TypeAlias = Literal["new", "starting", "started", "closing", "closed"]

_log = logger("anybroker.broker")


class Core:
    """Made with the Bus, and filled when it starts."""

    def __init__(
        self,
        settings: BusSettings,
        factory: AdapterFactory | None,
        store: Store | str | None,
        middleware: tuple[Any, ...],
        codecs: Codecs,
        sinks: Iterable[Sink],
        wanted: Callable[[], Iterable[Wanted]],
    ) -> None:
        self.settings = settings
        self.factory = factory
        """What makes the adapter instead of the URL."""
        self.store = store
        """The idempotency store of handlers that name none, or its URL."""
        self.middleware = middleware
        """For every handler."""
        self.codecs = codecs
        self.stats = PublishStats()
        self.sinks = Sinks(sinks)
        self.observers = Observers()
        """Replaced at each start by what was attached until then."""
        self.providers = Providers()
        self.topics = Topics(settings.topics, wanted, self.stats)
        self.publisher: Publisher | None = None
        """None while the Bus does not run."""
        self.spans: Spans | None = None
        """None where no OpenTelemetry SDK was set up at the start."""
        self.copies = Copies(lambda: self.publisher, lambda: self.spans)
        self.state: BusState = "new"
        """Changed by :meth:`enter`."""
        self.state_since = time.time()
        """Seconds since the epoch."""
        self.loop: asyncio.AbstractEventLoop | None = None
        """The event loop that the Bus was started in."""
        self.pid = 0
        """The process that the Bus was started in."""
        self.known_source: str | None = settings.source
        self._adapter: Adapter | None = None
        self._stores: Stores | None = None

    @property
    def source(self) -> str:
        """CloudEvents ``source`` of what is published; the program's name, with a warning, if none was given."""
        if self.known_source is None:
            program = Path(sys.argv[0]).stem if sys.argv and sys.argv[0] else ""
            if program == "__main__":
                program = Path(sys.argv[0]).parent.name
            self.known_source = program or "anybroker"
            warnings.warn(
                f"no source is set: using the program's name {self.known_source!r} as the CloudEvents source. "
                "Set source=, ANYBROKER_SOURCE, or 'source' in anybroker.toml to the service's name",
                UserWarning,
                stacklevel=4,
            )
        return self.known_source

    @property
    def has_adapter(self) -> bool:
        """Whether it was made."""
        return self._adapter is not None

    @property
    def adapter(self) -> Adapter:
        """The adapter. StateError before the start."""
        if self._adapter is None:
            raise self.not_started("adapter")
        return self._adapter

    @adapter.setter
    def adapter(self, adapter: Adapter) -> None:
        self._adapter = self.topics.adapter = adapter

    @property
    def stores(self) -> Stores:
        """The idempotency stores of the handlers. StateError before the start."""
        if self._stores is None:
            raise self.not_started("idempotency")
        return self._stores

    @stores.setter
    def stores(self, stores: Stores) -> None:
        self._stores = stores

    def enter(self, state: BusState) -> None:
        """It is in this state from now on."""
        self.state, self.state_since = state, time.time()

    def begin(self, loop: asyncio.AbstractEventLoop, pid: int) -> None:
        """Start, also again: nothing is known of the broker yet."""
        self.enter("starting")
        self.loop, self.pid = loop, pid
        self._adapter = self._stores = None
        self.topics.begin(self.settings.provision)

    @contextmanager
    def override(self, factory: AdapterFactory, store: Store | str | None) -> Iterator[None]:
        """Meanwhile ``factory`` makes the adapter, ``store`` is the default store, and topics and
        groups are made. StateError unless the Bus is stopped, at both ends."""
        check_factory(factory)
        before = self.settings, self.factory, self.store
        self.check_stopped("override")
        self.settings = self.settings.model_copy(update={"provision": "create"})
        self.factory, self.store = factory, store
        try:
            yield
            self.check_stopped("override")
        finally:
            self.settings, self.factory, self.store = before

    def provide(self, kind: Any, factory: Callable[[], Any], scope: Literal["process", "delivery"]) -> None:
        """Register a factory. StateError for a value of the process while the Bus runs: it would not be made."""
        if scope == "process":
            self.check_stopped("provide")
        self.providers.register(kind, factory, scope)

    def check_stopped(self, what: str) -> None:
        """StateError where the Bus runs."""
        if self.state not in ("new", "closed"):
            raise StateError(f"{what}: the Bus is {self.state}. Do it before the start, or after the close")

    # ------------------------------------------------------------------------------------------------ where it is used

    def check_started(self, what: str) -> None:
        """StateError where the Bus does not run, or not here."""
        if self.state not in ("starting", "started"):
            raise self.not_started(what)
        if running_loop() is not self.loop:
            raise self.elsewhere(what)

    def elsewhere(self, what: str) -> StateError:
        """Called in another event loop, or another process, than the one that the Bus was started in."""
        if self.loop is None or self.state in ("closing", "closed"):
            return self.not_started(what)
        if os.getpid() != self.pid:
            return StateError(
                f"{what}: this process was forked from the one that the Bus was started in; nothing was sent. Make and "
                "start a Bus in each process"
            )
        return StateError(
            f"{what}: called in another event loop than the one that the Bus was started in; nothing was sent. Use "
            "bus.from_thread.publish(…) in other threads, or start a Bus in this event loop"
        )

    def not_started(self, what: str) -> StateError:
        """Called before the start, or after the end."""
        if self.state in ("closing", "closed"):
            return StateError(f"{what}: the Bus is closed. Do it before leaving 'async with bus', or start it again")
        return StateError(f"{what}: the Bus is not started. Use 'async with bus:' or await bus.start()")

    async def put(self, outbound: Outbound, within: object) -> Receipt:
        """Put an event into a sink, as a part of the caller's transaction."""
        if self.publisher is None:
            raise self.not_started("publish")
        check_topic(outbound.topic)
        return await self.sinks.put(outbound, within)

    async def put_many(self, topic: str, batch: Sequence[Outbound], within: object) -> list[Receipt]:
        """Put events of one topic into a sink, as a part of the caller's transaction."""
        if self.publisher is None:
            raise self.not_started("publish_many")
        check_topic(topic)
        return await self.sinks.put_many(batch, within)

    # --------------------------------------------------------------------------------------------------------- looking

    async def backlog(self, topic: str, group: str) -> Backlog:
        """What waits for a group. CapabilityError where the broker cannot say, MissingGroup where there is none."""
        self.check_started("backlog")
        check_stored(topic, group)
        try:
            return await self._count(topic, group)
        except MissingGroup as exc:
            raise await self.no_group(topic, group) from exc

    async def depth(self, topic: str, group: str) -> int:
        """How many dead letters of a group wait; 0 where its dead-letter topic was never made."""
        if not self.topics.has_dead_letters(topic):
            return 0
        try:
            return (await self._count(self.topics.dead_letters_of(topic, group), DEAD_LETTER_GROUP)).lag
        except MissingGroup:
            return 0

    async def _count(self, topic: str, group: str) -> Backlog:
        adapter = self.adapter
        adapter.capabilities.require("backlog", setting="bus.backlog()", remedy="Ask the broker's own tools.")
        assert isinstance(adapter, ReportsBacklog)
        return await as_failure("backlog", adapter.backlog(topic, group))

    async def seek(self, topic: str, group: str, to: Start) -> None:
        """Move a group without members to the start, the end or a moment. CapabilityError where the broker cannot."""
        self.check_started("seek")
        adapter = self.adapter
        adapter.capabilities.require("seek", setting="bus.seek()", remedy="Use a broker that keeps what was consumed.")
        assert isinstance(adapter, Replays)
        try:
            await as_failure("seek", adapter.seek(topic, group, to))
        except MissingGroup as exc:
            raise await self.no_group(topic, group) from exc

    async def check_group(self, topic: str, group: str) -> None:
        """MissingGroup where the broker can tell that there is no such group."""
        if self.adapter.capabilities.backlog:
            await self.backlog(topic, group)

    async def no_group(self, topic: str, group: str) -> MissingGroup:
        """What to raise, with what may have been meant instead, as far as the broker tells."""
        near: list[str] = []
        if isinstance(self.adapter, ListsGroups):
            try:
                there = await as_failure("listing groups", self.adapter.groups())
                near = near_groups(topic, group, there)
            except BrokerError as exc:  # such as a missing permission; the names are a help, and not what was asked for
                _log.debug("the broker's topics and groups could not be listed: %s", exc)
        meant = f"; near names: {', '.join(near)}" if near else ""
        return MissingGroup(
            f"{topic}/{group}",
            f"no group {group!r} on topic {topic!r}{meant}",
            'Check both names, or declare the group first (provision="create").',
        )
