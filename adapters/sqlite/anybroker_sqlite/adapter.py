"""``sqlite://``: the adapter's class, its topology, and what an administrator asks."""

from __future__ import annotations

import secrets
import sqlite3
import time
from dataclasses import replace
from functools import partial
from math import inf
from pathlib import Path
from typing import ClassVar, Literal

from anybroker.adapter import (
    AdapterContext,
    AdapterSettings,
    Backlog,
    BrokerUrl,
    GroupSpec,
    LaneListener,
    Start,
    SubscriptionSpec,
    TopicSpec,
    Topology,
)
from anybroker.capabilities import Acknowledgement, Capabilities, Support
from anybroker.errors import ConfigError, Unavailable

from .consume import SqliteReceiver, release_dead
from .publish import RecentIds, SqliteSender
from .schema import SEGMENT_EVENTS, SHIFT
from .settings import SqliteSettings
from .store import Store, Topic
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
        """A connection to the file, for the thread that asks first; not the one that the adapter works with. Every
        query on it blocks the caller, and a transaction left open on it blocks the broker."""
        if self._native is None:
            self._native = sqlite3.connect(self._path, timeout=self._settings.busy_timeout)
        return self._native

    async def connect(self) -> None:
        """Adapter.connect: opens the file, and makes it if it is not there."""
        store = Store(self._path.absolute(), self._settings)
        await store.open(self._context.connect_timeout)
        self._store = store

    @property
    def _opened(self) -> Store:
        if self._store is None:
            raise Unavailable("the sqlite adapter is not connected, or closed already")
        return self._store

    async def declare(self, topology: Topology, mode: Literal["create", "verify"], /) -> None:
        """Adapter.declare: all in one transaction, or nothing."""
        await self._opened.call(partial(_declare, topology, mode == "create"))

    async def open_sender(self) -> SqliteSender:
        """Adapter.open_sender."""
        return SqliteSender(self._opened, RecentIds(self._settings.deduplication_window))

    async def open_receiver(self, subscription: SubscriptionSpec, listener: LaneListener, /) -> SqliteReceiver:
        """Adapter.open_receiver."""
        store = self._opened
        fifo = Fifo(store.wake_folder)
        member = secrets.randbits(62)
        try:
            group = await store.call(partial(_join, subscription, member, fifo.name))
        except BaseException:
            fifo.close()
            raise
        receiver = SqliteReceiver(store, subscription, group, member, fifo, self._context.lease)
        listener.assigned(receiver.lane)
        return receiver

    async def backlog(self, topic: str, group: str, /) -> Backlog:
        """ReportsBacklog.backlog."""
        return await self._opened.call(partial(_backlog, topic, group))

    async def seek(self, topic: str, group: str, to: Start, /) -> None:
        """Replays.seek: what was out or put aside is forgotten; the group goes on from there."""
        await self._opened.call(partial(_seek, topic, group, to))

    async def close(self) -> None:
        """Adapter.close."""
        store, self._store = self._store, None
        if self._native is not None:
            self._native.close()
            self._native = None
        if store is not None:
            await store.close()


def _declare(topology: Topology, create: bool, store: Store) -> None:
    for spec in topology.topics:
        topic = store.topic(spec.name)
        if topic is None:
            if not create:
                raise ConfigError(f"topic {spec.name!r}", f"is not in {store.path}", "Start with provision='create'.")
            topic = _create_topic(store, spec)
        _same_topic(spec, topic, store)
        for group in spec.groups:
            _declare_group(store, topic, group, create)


def _create_topic(store: Store, spec: TopicSpec) -> Topic:
    cursor = store.execute(
        "INSERT INTO ab_topic(name, ordered, retention, last) VALUES (?, ?, ?, 0)",
        (spec.name, spec.ordered, spec.retention),
    )
    store.execute("UPDATE ab_topic SET last = id << ? WHERE id = ?", (SHIFT, cursor.lastrowid))
    topic = store.topic(spec.name)
    assert topic is not None
    return topic


def _same_topic(spec: TopicSpec, topic: Topic, store: Store) -> None:
    """A topic that is there is never changed: not its order, nor how long it keeps its events."""
    if bool(topic.ordered) != spec.ordered:
        raise ConfigError(
            f"topic {spec.name!r}",
            f"exists with ordered={bool(topic.ordered)}, and is asked for with ordered={spec.ordered}",
            "Use the same setting everywhere, or another topic.",
        )
    if spec.retention is not None and topic.retention != spec.retention:
        raise ConfigError(
            f"topic {spec.name!r}",
            f"exists with retention={topic.retention}, and is asked for with retention={spec.retention} (seconds)",
            f"Use the same setting everywhere, or change it once: sqlite3 {store.path} "
            f'"UPDATE ab_topic SET retention = {"9e999" if spec.retention == inf else spec.retention} '
            f"WHERE name = '{spec.name}'\".",
        )


def _declare_group(store: Store, topic: Topic, spec: GroupSpec, create: bool) -> None:
    there = store.execute("SELECT ordered FROM ab_group WHERE topic = ? AND name = ?", (topic.id, spec.name)).fetchone()
    name = f"group {spec.name!r} of topic {topic.name!r}"
    if there is None:
        if not create:
            raise ConfigError(name, f"is not in {store.path}", "Start with provision='create'.")
        store.execute(
            "INSERT INTO ab_group(topic, name, ordered, cursor) VALUES (?, ?, ?, ?)",
            (topic.id, spec.name, spec.ordered, _before(store, topic, spec.start)),
        )
    elif bool(there[0]) != spec.ordered:
        raise ConfigError(
            name,
            f"exists with ordered={bool(there[0])}, and is asked for with ordered={spec.ordered}",
            "Use the same setting for all members, or another group name.",
        )


def _before(store: Store, topic: Topic, start: Start) -> int:
    """The sequence number after which a group begins."""
    if start == "new":
        return topic.last
    at = 0.0 if start == "earliest" else start.timestamp()
    row = store.execute(
        "SELECT first FROM ab_segment WHERE first BETWEEN ? AND ? AND at >= ? ORDER BY first LIMIT 1",
        (topic.id << SHIFT, topic.last, at),
    ).fetchone()
    return topic.last if row is None else int(row[0]) - 1


def _group(store: Store, topic: str, group: str) -> tuple[int, int, int]:
    """Its id, whether it is ordered, its cursor."""
    row = store.execute(
        "SELECT g.id, g.ordered, g.cursor FROM ab_group g JOIN ab_topic t ON t.id = g.topic "
        "WHERE t.name = ? AND g.name = ?",
        (topic, group),
    ).fetchone()
    if row is None:
        raise ConfigError(
            f"group {group!r} of topic {topic!r}", f"is not in {store.path}", "Declare it, or use provision='create'."
        )
    return row  # type: ignore[no-any-return]


def _join(spec: SubscriptionSpec, member: int, wake: str, store: Store) -> int:
    group, ordered, _ = _group(store, spec.topic, spec.group)
    if bool(ordered) != spec.ordered:
        raise ConfigError(
            f"group {spec.group!r} of topic {spec.topic!r}",
            f"exists with ordered={bool(ordered)}, and is subscribed to with ordered={spec.ordered}",
            "Use the same setting for all members, or another group name.",
        )
    release_dead(store, group)
    store.execute("INSERT INTO ab_member(id, grp, wake) VALUES (?, ?, ?)", (member, group, wake))
    return group


def _backlog(topic: str, group: str, store: Store) -> Backlog:
    id_, _, cursor = _group(store, topic, group)
    row = store.execute(
        """
        SELECT (SELECT coalesce(sum(min(count, first + count - 1 - ?2)), 0) FROM ab_segment
                WHERE first BETWEEN ?2 + 1 - ?3 AND ((?2 >> 40) + 1 << 40) - 1 AND first + count - 1 > ?2
                    AND (only_group IS NULL OR only_group = ?1))
            + (SELECT count(*) FROM ab_parked WHERE grp = ?1) + (SELECT count(*) FROM ab_delayed WHERE grp = ?1),
            (SELECT count(*) FROM ab_claim WHERE grp = ?1)
        """,
        (id_, cursor, SEGMENT_EVENTS),
    ).fetchone()
    return Backlog(*row)


def _seek(topic: str, group: str, to: Start, store: Store) -> None:
    id_, _, _ = _group(store, topic, group)
    release_dead(store, id_)
    if store.execute("SELECT 1 FROM ab_member WHERE grp = ?", (id_,)).fetchone():
        raise ConfigError(f"group {group!r} of topic {topic!r}", "has members now", "Stop its consumers first.")
    found = store.topic(topic)
    assert found is not None  # its group was found
    if not isinstance(to, str) and to.timestamp() <= found.trimmed:
        oldest = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(found.trimmed))
        raise ConfigError("to", f"topic {topic!r} does not reach back to {to}: up to {oldest} it is deleted")
    for table in ("ab_claim", "ab_parked", "ab_delayed"):
        store.execute(f"DELETE FROM {table} WHERE grp = ?", (id_,))
    store.execute("UPDATE ab_group SET cursor = ? WHERE id = ?", (_before(store, found, to), id_))
