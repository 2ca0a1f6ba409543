"""What the parts of a Bus share: settings, the adapter, what handlers are provided with, the ways out, and where it may
be used."""

from __future__ import annotations

import asyncio
import os
import sys
import warnings
from asyncio.events import _get_running_loop as running_loop
from collections.abc import Callable, Coroutine, Iterable
from pathlib import Path
from typing import Any, Literal, Protocol

from ..adapter import Adapter, Backlog, ListsGroups, Receipt, Replays, ReportsBacklog, Start
from ..config.settings import BusSettings
from ..errors import BrokerError, MissingGroup, StateError
from ..handlers.provide import Providers
from ..idempotency._stores import Stores
from ..names import check_names, near_groups
from ..printable import logger
from ..stats import PublishStats
from .calls import as_failure
from .copies import Copies
from .publisher import Publisher
from .topics import Topics, Wanted

__all__ = ["Core", "Publishes"]

_log = logger("anybroker")


class Publishes(Protocol):
    """The two calls that publish: see :class:`anybroker.Bus`."""

    @property
    def publish(self) -> Callable[..., Coroutine[Any, Any, Receipt]]:
        """One event."""
        ...

    @property
    def publish_many(self) -> Callable[..., Coroutine[Any, Any, list[Receipt | BrokerError]]]:
        """Several."""
        ...


class Core:
    """Made with the Bus, and filled when it starts."""

    def __init__(
        self, settings: BusSettings, middleware: tuple[Any, ...], wanted: Callable[[], Iterable[Wanted]]
    ) -> None:
        self.settings = settings
        self.middleware = middleware
        """For every handler."""
        self.stats = PublishStats()
        self.providers = Providers()
        self.topics = Topics(settings.topics, settings.provision, wanted, self.stats)
        self.publisher: Publisher | None = None
        """None while the Bus does not run."""
        self.copies = Copies(lambda: self.publisher)
        self.state: Literal["new", "starting", "started", "closing", "closed"] = "new"
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
            return StateError(f"{what}: the Bus is closed. Do it before leaving 'async with bus', or make a new Bus")
        return StateError(f"{what}: the Bus is not started. Use 'async with bus:' or await bus.start()")

    # --------------------------------------------------------------------------------------------------------- looking

    async def backlog(self, topic: str, group: str) -> Backlog:
        """What waits for a group. CapabilityError where the broker cannot say, MissingGroup where there is none."""
        self.check_started("backlog")
        check_names(topic, group)
        adapter = self.adapter
        adapter.capabilities.require("backlog", setting="bus.backlog()", remedy="Ask the broker's own tools.")
        assert isinstance(adapter, ReportsBacklog)
        try:
            return await as_failure("backlog", adapter.backlog(topic, group))
        except MissingGroup as exc:
            raise await self._no_group(topic, group) from exc

    async def seek(self, topic: str, group: str, to: Start) -> None:
        """Move a group without members to the start, the end or a moment. CapabilityError where the broker cannot."""
        self.check_started("seek")
        adapter = self.adapter
        adapter.capabilities.require("seek", setting="bus.seek()", remedy="Use a broker that keeps what was consumed.")
        assert isinstance(adapter, Replays)
        try:
            await as_failure("seek", adapter.seek(topic, group, to))
        except MissingGroup as exc:
            raise await self._no_group(topic, group) from exc

    async def check_group(self, topic: str, group: str) -> None:
        """MissingGroup where the broker can tell that there is no such group."""
        if self.adapter.capabilities.backlog:
            await self.backlog(topic, group)

    async def _no_group(self, topic: str, group: str) -> MissingGroup:
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
