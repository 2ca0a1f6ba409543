"""The adapter: JetStream on one NATS server or cluster."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any, ClassVar, Final, Literal, TypeVar

from anybroker.adapter import (
    AdapterContext,
    AdapterSettings,
    Backlog,
    BrokerUrl,
    GroupSpec,
    HistoryPage,
    LaneListener,
    Peek,
    SubscriptionSpec,
    TopicSpec,
    Topology,
)
from anybroker.capabilities import Acknowledgement, Capabilities, Support
from anybroker.errors import ConfigError, Unavailable

from . import history
from . import peek as looking
from .failures import CLIENT_ERRORS, FORBIDDEN, ApiError, said
from .groups import Group
from .link import Link
from .options import connection_options
from .receiver import NatsReceiver
from .sender import NatsSender
from .settings import MAX_PAYLOAD, NatsSettings
from .topology import declare_topic, list_groups, verify_topic
from .wire import Wire

__all__ = ["NatsAdapter"]

_OLDEST: Final = (2, 11)
"""The first version with priority groups, which keep a lane with one member."""
_SCHEDULES: Final = (2, 12)
"""The first version that holds a message until its time."""
_ASK_AGAIN: Final = 0.2
"""Seconds until JetStream is asked again whether it has a leader, while a process starts."""
_ANSWER: Final = 1.0
"""Seconds that it has to answer then: a cluster without a leader says nothing, and will have one soon."""
_T = TypeVar("_T")


class NatsAdapter:
    """See :class:`anybroker.adapter.Adapter`, and the README for what is what in JetStream."""

    Settings: ClassVar[type[AdapterSettings]] = NatsSettings
    capabilities = Capabilities(
        adapter="nats",
        acknowledgement=Acknowledgement.PER_MESSAGE,
        durable=Support.NATIVE,
        processes=Support.NATIVE,
        release=Support.EMULATED,
        delay=Support.NATIVE,
        deduplication=Support.NATIVE,
        retains=Support.NATIVE,
        start_at_time=Support.NATIVE,
        lease_extension=Support.NATIVE,
        backlog=Support.NATIVE,
        backlog_age=Support.NATIVE,
        inspect=Support.NATIVE,
        history=Support.NATIVE,
        balance=Support.NATIVE,
        exclusive_lanes=True,
        max_event_bytes=MAX_PAYLOAD,
    )

    def __init__(self, url: BrokerUrl, settings: NatsSettings, context: AdapterContext) -> None:
        servers, options, login = connection_options(url, settings)
        options |= {"name": context.instance, "ping_interval": settings.ping_interval}
        self._settings = settings
        self._lease = context.lease
        self._patience = context.publish_deadline / 3
        self._deduplication_key = context.deduplication_key
        self._connect_timeout = context.connect_timeout
        self._starting_until = 0.0
        """By the loop's clock: until then a leader is waited for."""
        self._creates = False
        """Whether this Bus makes what does not exist."""
        self._wire = Wire(settings.content_mode)
        self._link = Link(servers, options, login, context.connect_timeout, settings.request_timeout)
        self._epochs = itertools.count(1)
        self._schedules = True
        self.capabilities = type(self).capabilities

    @property
    def native(self) -> Any:
        """nats-py's ``Client``, connected; ``native.jetstream()`` is its JetStream."""
        if self._link.native is None:
            raise Unavailable("the NATS adapter is not connected")
        return self._link.native

    async def connect(self) -> None:
        """See :meth:`anybroker.adapter.Adapter.connect`."""
        self._starting_until = asyncio.get_running_loop().time() + 0.9 * self._connect_timeout
        await self._link.connect()
        client = await self._link.client()
        version = client.connected_server_version
        number = (version.major or 0, version.minor or 0)
        try:
            if number < _OLDEST:
                raise ConfigError("url", f"the server is NATS {version!r}", "Use nats-server 2.11 or newer.")
            await self._while_it_starts(self._check_jetstream)
        except BaseException:
            await self._link.close()
            raise
        self._schedules = number >= _SCHEDULES
        self.capabilities = replace(
            self.capabilities,
            max_event_bytes=client.max_payload,
            delay=Support.NATIVE if self._schedules else Support.ABSENT,
        )

    async def _while_it_starts(self, call: Callable[[], Awaitable[_T]]) -> _T:
        """Servers that have just started elect their leaders, and say nothing until then. So what a start asks for is
        asked for again, within ``connect_timeout``; after that, trying again is left to the core."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                return await call()
            except Unavailable:
                if loop.time() + _ASK_AGAIN >= self._starting_until:
                    raise
            await asyncio.sleep(_ASK_AGAIN)

    async def _check_jetstream(self) -> None:
        left = self._starting_until - asyncio.get_running_loop().time()
        try:
            await self._link.api("INFO", timeout=max(0.1, min(_ANSWER, left)))
        except ApiError as exc:
            if exc.code == FORBIDDEN:
                raise ConfigError(
                    "url",
                    f"JetStream does not answer: {exc}",
                    "Let the user publish to $JS.API.>, $JS.ACK.> and the topics' subjects, and subscribe to _INBOX.>.",
                ) from exc
            if exc.code == 503 and exc.number == 10039:
                raise ConfigError(
                    "url", f"JetStream is not enabled for this account: {exc}", "Enable it on the server."
                ) from exc
            raise Unavailable(f"JetStream does not answer: {exc}") from exc
        except CLIENT_ERRORS as exc:
            raise Unavailable(
                f"JetStream does not answer ({said(exc)}). Is it enabled (nats-server -js)? In a cluster, does it have "
                "a leader?"
            ) from exc

    async def declare(self, topology: Topology, mode: Literal["create", "verify"], /) -> None:
        """See :meth:`anybroker.adapter.Adapter.declare`. Streams and consumers."""
        self._creates = self._creates or mode == "create"
        for topic in topology.topics:
            await self._while_it_starts(lambda topic=topic: self._declare(topic, mode))  # type: ignore[misc]

    async def _declare(self, topic: TopicSpec, mode: Literal["create", "verify"]) -> None:
        if mode == "create":
            await declare_topic(self._link, topic, self._settings, self._lease, self._schedules)
        else:
            await verify_topic(self._link, topic)

    async def open_sender(self) -> NatsSender:
        """See :meth:`anybroker.adapter.Adapter.open_sender`."""
        sender = NatsSender(self._link, self._wire, self._schedules, self._patience, self._deduplication_key)
        await sender.open()
        return sender

    async def open_receiver(self, subscription: SubscriptionSpec, listener: LaneListener, /) -> NatsReceiver:
        """See :meth:`anybroker.adapter.Adapter.open_receiver`. Lanes are assigned later, with their first deliveries.
        The group gets this Bus's lease, and keeps its number of lanes (``declare`` has refused another one)."""
        return await self._while_it_starts(lambda: self._open_receiver(subscription, listener))

    async def _open_receiver(self, subscription: SubscriptionSpec, listener: LaneListener) -> NatsReceiver:
        group = Group(self._link, subscription.topic, subscription.group)
        if self._creates:
            spec = GroupSpec(subscription.group, subscription.ordered, subscription.start)
            await group.repair(spec, self._lease)
        lanes = await group.check(subscription.ordered, None)
        await group.set_lease(lanes, self._lease)
        receiver = NatsReceiver(
            self._link,
            await self._link.client(),
            self._wire,
            subscription,
            listener,
            self._epochs,
            lanes,
            self._lease,
            self._settings.confirm_acks,
        )
        try:
            await receiver.start()
        except BaseException:
            await receiver.close()
            raise
        return receiver

    async def backlog(self, topic: str, group: str, /) -> Backlog:
        """See :meth:`anybroker.adapter.ReportsBacklog.backlog`. Counts what any member has."""
        return await Group(self._link, topic, group).backlog()

    async def groups(self) -> Mapping[str, Collection[str]]:
        """See :meth:`anybroker.adapter.ListsGroups.groups`."""
        return await list_groups(self._link)

    async def members(self, topic: str, group: str, /) -> int | None:
        """See :meth:`anybroker.adapter.Inspects.members`."""
        return await looking.members(self._link, topic, group)

    async def peek(
        self, topic: str, /, *, group: str | None, limit: int, newest: bool, beyond: Mapping[str, int]
    ) -> Peek:
        """See :meth:`anybroker.adapter.Inspects.peek`."""
        return await looking.peek(self._link, self._wire, topic, group, limit, newest, beyond)

    async def history_extent(
        self, topic: str, /, *, since: datetime | None, until: datetime | None
    ) -> Mapping[str, tuple[int, int]]:
        """See :meth:`anybroker.adapter.ReadsHistory.history_extent`."""
        return await history.extent(self._link, topic, since, until)

    async def read_history(self, topic: str, lane: str, begin: int, end: int, limit: int, /) -> HistoryPage:
        """See :meth:`anybroker.adapter.ReadsHistory.read_history`."""
        return await history.read(self._link, self._wire, topic, begin, end, limit)

    async def close(self) -> None:
        """See :meth:`anybroker.adapter.Adapter.close`."""
        await self._link.close()
