"""``sqlite://``: the adapter's class."""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Collection, Mapping
from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import ClassVar, Literal

from anybroker.adapter import (
    AdapterContext,
    AdapterSettings,
    Backlog,
    BrokerUrl,
    HistoryPage,
    LaneListener,
    Peek,
    Start,
    SubscriptionSpec,
    Topology,
)
from anybroker.capabilities import Acknowledgement, Capabilities, Support
from anybroker.errors import ConfigError, Unavailable
from anybroker.kit.file_access import make_private

from . import peek as looking
from . import topology as admin
from .receiver import SqliteReceiver
from .recent import RecentIds
from .sender import SqliteSender
from .settings import SqliteSettings
from .store import Store
from .wake import Fifo

__all__ = ["SqliteAdapter"]


class SqliteAdapter:
    """Topics and groups in one SQLite file."""

    Settings: ClassVar[type[AdapterSettings]] = SqliteSettings
    capabilities: Capabilities = Capabilities(
        adapter="sqlite",
        acknowledgement=Acknowledgement.PER_MESSAGE,
        durable=Support.NATIVE,
        processes=Support.NATIVE,
        release=Support.NATIVE,
        delay=Support.NATIVE,
        deduplication=Support.NATIVE,
        retains=Support.NATIVE,
        start_at_time=Support.NATIVE,
        seek=Support.NATIVE,
        lease_extension=Support.NATIVE,
        backlog=Support.NATIVE,
        backlog_age=Support.NATIVE,
        inspect=Support.NATIVE,
        history=Support.NATIVE,
        max_event_bytes=SqliteSettings().max_event_bytes,
    )

    def __init__(self, url: BrokerUrl, settings: SqliteSettings, context: AdapterContext) -> None:
        if url.hosts or len(url.path) < 2:
            raise ConfigError(
                "url",
                f"{url} names no file",
                "Write sqlite:///shop.db for a file in the working folder, sqlite:////var/lib/shop.db for another.",
            )
        self._settings = settings
        self._context = context
        self._path = Path(url.path[1:])
        self._store: Store | None = None
        self._native: sqlite3.Connection | None = None
        self.capabilities = replace(
            self.capabilities,
            max_event_bytes=settings.max_event_bytes,
            deduplication=Support.NATIVE if settings.deduplication_window else Support.ABSENT,
        )

    @property
    def native(self) -> sqlite3.Connection:
        """A second connection to the file, for the thread that asks first. Every query on it blocks the caller, and a
        transaction left open on it blocks the broker."""
        if self._native is None:
            make_private(self._path)
            self._native = sqlite3.connect(self._path, timeout=self._settings.busy_timeout)
        return self._native

    async def connect(self) -> None:
        """Adapter.connect: opens the file, creating it if needed."""
        store = Store(self._path.absolute(), self._settings)
        await store.open(self._context.connect_timeout)
        self._store = store

    @property
    def _opened(self) -> Store:
        if self._store is None:
            raise Unavailable("the sqlite adapter is not connected, or already closed")
        return self._store

    async def declare(self, topology: Topology, mode: Literal["create", "verify"], /) -> None:
        """Adapter.declare: in one transaction, all or nothing."""
        await self._opened.call(partial(admin.declare, topology, mode == "create"))

    async def open_sender(self) -> SqliteSender:
        """Adapter.open_sender."""
        return SqliteSender(self._opened, RecentIds(self._settings.deduplication_window))

    async def open_receiver(self, subscription: SubscriptionSpec, listener: LaneListener, /) -> SqliteReceiver:
        """Adapter.open_receiver."""
        store = self._opened
        fifo = Fifo(store.wake_folder, store.path)
        member = secrets.randbits(62)
        try:
            group = await store.call(partial(admin.join, subscription, member, fifo.name))
        except BaseException:
            fifo.close()
            raise
        receiver = SqliteReceiver(store, subscription, group, member, fifo, self._context.lease)
        listener.assigned(receiver.lane)
        return receiver

    async def backlog(self, topic: str, group: str, /) -> Backlog:
        """ReportsBacklog.backlog."""
        return await self._opened.call(partial(admin.backlog, topic, group))

    async def groups(self) -> Mapping[str, Collection[str]]:
        """ListsGroups.groups."""
        return await self._opened.call(admin.groups)

    async def members(self, topic: str, group: str, /) -> int | None:
        """Inspects.members."""
        return await self._opened.call(partial(looking.members, topic, group))

    async def peek(
        self, topic: str, /, *, group: str | None, limit: int, newest: bool, beyond: Mapping[str, int]
    ) -> Peek:
        """Inspects.peek."""
        return await self._opened.call(partial(looking.peek, topic, group, limit, newest, beyond))

    async def history_extent(
        self, topic: str, /, *, since: datetime | None, until: datetime | None
    ) -> Mapping[str, tuple[int, int]]:
        """ReadsHistory.history_extent."""
        return await self._opened.call(partial(looking.history_extent, topic, since, until))

    async def read_history(self, topic: str, lane: str, begin: int, end: int, limit: int, /) -> HistoryPage:
        """ReadsHistory.read_history."""
        return await self._opened.call(partial(looking.read_history, topic, begin, end, limit))

    async def seek(self, topic: str, group: str, to: Start, /) -> None:
        """Replays.seek: claims and parked events of the group are dropped, and it continues from there."""
        await self._opened.call(partial(admin.seek, topic, group, to))

    async def close(self) -> None:
        """Adapter.close."""
        store, self._store = self._store, None
        if self._native is not None:
            self._native.close()
            self._native = None
        if store is not None:
            await store.close()
