"""The adapter: one Kafka cluster."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Collection, Mapping
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import Any, ClassVar, Literal

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.client import AIOKafkaClient
from aiokafka.coordinator.assignors.range import RangePartitionAssignor
from aiokafka.errors import InvalidSessionTimeoutError

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
from anybroker.kit.client_logs import quiet
from anybroker.printable import logger

from . import history
from . import peek as looking
from . import topology as topologies
from .client_log import hide_passwords, limit_warnings
from .closing import Closing
from .cluster import Cluster
from .failures import kafka_errors
from .link import check_servers, keep_asking_servers
from .names import group_id, inlet
from .producers import Producers
from .receiver import KafkaReceiver
from .sender import KafkaSender
from .settings import MESSAGE_BYTES, KafkaSettings, client_options, servers, session_of
from .wire import Wire

__all__ = ["KafkaAdapter"]

_log = logger("anybroker.kafka")

_SETTLING = 10.0
"""Seconds that the core may take for the last commit of a revoked lane, after the drain."""
_PATIENCE = 2.0
"""Seconds that close() waits for clients which wait for Kafka."""
_METADATA_MS = 5000
"""How old a client's metadata may be: partitions that were added are found within that time."""
_FOREVER_MS = 2**31 - 1
_HEARTBEAT_MS = 1000
"""Members hear of a rebalance by their next heartbeat, and all of them wait until the last one has."""


class KafkaAdapter:
    """See :class:`anybroker.adapter.Adapter`, and the README for how our words map to Kafka's."""

    Settings: ClassVar[type[AdapterSettings]] = KafkaSettings
    capabilities = Capabilities(
        adapter="kafka",
        acknowledgement=Acknowledgement.CUMULATIVE,
        durable=Support.NATIVE,
        processes=Support.NATIVE,
        release=Support.EMULATED,
        retains=Support.NATIVE,
        start_at_time=Support.NATIVE,
        seek=Support.NATIVE,
        backlog=Support.NATIVE,
        backlog_age=Support.NATIVE,
        inspect=Support.NATIVE,
        history=Support.NATIVE,
        exclusive_lanes=True,
        max_event_bytes=MESSAGE_BYTES,
        settle_interval=0.05,
    )

    def __init__(self, url: BrokerUrl, settings: KafkaSettings, context: AdapterContext) -> None:
        self._url = url
        self._settings = settings
        self._context = context
        hide_passwords()
        limit_warnings()
        quiet("aiokafka")
        self._servers = servers(url)
        self._options = client_options(url, settings, context)
        self._wire = Wire(settings.content_mode)
        self._creates = False
        self._closing = Closing()
        self._cluster: Cluster | None = None
        self._epochs = itertools.count(1)
        self._session = session_of(context.lease)
        self._refusing: set[str] = set()
        if settings.batch_bytes > settings.max_message_bytes // 2:
            raise ConfigError(
                "batch_bytes",
                f"{settings.batch_bytes} is more than half of max_message_bytes ({settings.max_message_bytes})",
                "Lower it: a batch has to fit with room to spare.",
            )
        self.capabilities = replace(type(self).capabilities, max_event_bytes=settings.max_message_bytes)

    @property
    def native(self) -> Any:
        """aiokafka's ``AIOKafkaClient``: the cluster's metadata, and ``send(node, request)`` for any request."""
        return self._connected().client

    async def connect(self) -> None:
        """See :meth:`anybroker.adapter.Adapter.connect`."""
        timeout = self._context.connect_timeout
        seconds = 0.9 * timeout / (len(self._servers) + 1)
        await check_servers(self._url, self._servers, self._options, min(seconds, self._settings.request_timeout))
        cluster = Cluster(
            AIOKafkaClient(**self._options),
            self._settings.request_timeout,
            self._settings.isolation == "read_committed",
            self._settings.max_decompressed_bytes,
        )
        keep_asking_servers(cluster.client, self._servers, self._options)
        try:
            with kafka_errors(f"connecting to {self._url}"):
                async with asyncio.timeout(seconds):
                    await cluster.start()
        except BaseException:
            await cluster.close()
            raise
        self._cluster = cluster

    def _connected(self) -> Cluster:
        if self._cluster is None:
            raise Unavailable("the Kafka adapter is not connected")
        return self._cluster

    async def declare(self, topology: Topology, mode: Literal["create", "verify"], /) -> None:
        """See :meth:`anybroker.adapter.Adapter.declare`. Topics and inlets are created, groups get a position."""
        self._creates = self._creates or mode == "create"
        with kafka_errors("declaring topics and groups"):
            cluster = self._connected().with_timeout(self._context.connect_timeout)
            await topologies.declare(cluster, topology, mode, self._settings.replication_factor)

    async def open_sender(self) -> KafkaSender:
        """See :meth:`anybroker.adapter.Adapter.open_sender`."""
        cluster = self._connected()
        producers = Producers(
            self._make_producer,
            self._closing,
            deadline=0.9 * self._context.publish_deadline,
            connect_timeout=self._context.connect_timeout,
        )
        await producers.current()
        return KafkaSender(producers, cluster, self._wire, self._settings.max_message_bytes)

    def _make_producer(self) -> AIOKafkaProducer:
        settings = self._settings
        producer = AIOKafkaProducer(
            **self._options,
            metadata_max_age_ms=_METADATA_MS,
            acks=settings.acks,
            enable_idempotence=True,
            compression_type=None if settings.compression == "none" else settings.compression,
            max_batch_size=settings.batch_bytes,
            max_request_size=settings.max_message_bytes,
        )
        keep_asking_servers(producer.client, self._servers, self._options)
        return producer

    async def open_receiver(self, subscription: SubscriptionSpec, listener: LaneListener, /) -> KafkaReceiver:
        """See :meth:`anybroker.adapter.Adapter.open_receiver`. Lanes come afterwards, when the group has rebalanced."""
        cluster = self._connected()
        topic, group = subscription.topic, subscription.group
        with kafka_errors(f"joining the group {group!r} of {topic!r}"):
            await topologies.check_group(cluster, topic, group, self._creates)
            receiver = KafkaReceiver(
                self._make_consumer(group_id(topic, group)),
                group_id(topic, group),
                cluster,
                self._wire,
                listener,
                self._epochs,
                self._closing,
                timeout=self._settings.request_timeout,
                drain=self._context.drain + _SETTLING,
                fit=partial(topologies.check_group, cluster, topic, group, True) if self._creates else None,
                refused=partial(self._refused, group_id(topic, group)),
            )
            try:
                async with asyncio.timeout(self._context.connect_timeout):
                    await receiver.start((topic, inlet(topic, group)))
                if group_id(topic, group) in self._refusing:
                    await receiver.joined()
                    self._refusing.discard(group_id(topic, group))
            except BaseException:
                await receiver.close()
                raise
        return receiver

    def _refused(self, group: str, exc: BaseException) -> None:
        """Let the next receiver wait for the group's answer, with a session of the whole lease where the broker does
        not allow a shorter one."""
        self._refusing.add(group)
        lease = self._context.lease
        if isinstance(exc, InvalidSessionTimeoutError) and self._session < lease:
            _log.warning(
                "Kafka refuses a session of %g s (group.min.session.timeout.ms): the lease of %g s is used. When two "
                "members are killed one after the other, what they held may then wait for twice the lease",
                self._session, lease,
            )  # fmt: skip
            self._session = lease

    def _make_consumer(self, group: str) -> AIOKafkaConsumer:
        settings, context = self._settings, self._context
        session = int(self._session * 1000)
        rebalance = max(settings.rebalance_timeout, context.drain + _SETTLING + 20)
        consumer = AIOKafkaConsumer(
            **self._options,
            metadata_max_age_ms=_METADATA_MS,
            group_id=group,
            enable_auto_commit=False,
            auto_offset_reset="earliest",  # after retention has deleted the position: better an event twice than lost
            isolation_level=settings.isolation,
            session_timeout_ms=session,
            heartbeat_interval_ms=min(session // 3, _HEARTBEAT_MS),
            rebalance_timeout_ms=int(rebalance * 1000),
            max_poll_interval_ms=_FOREVER_MS,  # slow handlers do not mean a dead member: heartbeats decide
            partition_assignment_strategy=(RangePartitionAssignor,),
            fetch_max_bytes=settings.fetch_bytes,
            max_partition_fetch_bytes=settings.fetch_bytes // 4,
            client_rack=settings.rack,
        )
        keep_asking_servers(consumer._client, self._servers, self._options)
        return consumer

    async def backlog(self, topic: str, group: str, /) -> Backlog:
        """See :meth:`anybroker.adapter.ReportsBacklog.backlog`. Finished events count until the position has passed.
        Nothing is asked for the age that is not asked for the count."""
        with kafka_errors(f"counting what waits for {group!r} of {topic!r}"):
            return await topologies.backlog(self._connected(), topic, group)

    async def seek(self, topic: str, group: str, to: Start, /) -> None:
        """See :meth:`anybroker.adapter.Replays.seek`. The inlet follows only to the end."""
        with kafka_errors(f"moving {group!r} of {topic!r}"):
            await topologies.seek(self._connected(), topic, group, to)

    async def groups(self) -> Mapping[str, Collection[str]]:
        """See :meth:`anybroker.adapter.ListsGroups.groups`."""
        with kafka_errors("listing topics"):
            return topologies.groups(await self._connected().names())

    async def members(self, topic: str, group: str, /) -> int | None:
        """See :meth:`anybroker.adapter.Inspects.members`."""
        with kafka_errors(f"counting the members of {group!r} of {topic!r}"):
            return await looking.members(self._connected(), topic, group)

    async def peek(
        self, topic: str, /, *, group: str | None, limit: int, newest: bool, beyond: Mapping[str, int]
    ) -> Peek:
        """See :meth:`anybroker.adapter.Inspects.peek`."""
        with kafka_errors(f"looking at {topic!r}"):
            isolation = int(self._settings.isolation == "read_committed")
            return await looking.peek(self._connected(), self._wire, isolation, topic, group, limit, newest, beyond)

    async def history_extent(
        self, topic: str, /, *, since: datetime | None, until: datetime | None
    ) -> Mapping[str, tuple[int, int]]:
        """See :meth:`anybroker.adapter.ReadsHistory.history_extent`."""
        with kafka_errors(f"looking at {topic!r}"):
            return await history.extent(self._connected(), topic, since, until)

    async def read_history(self, topic: str, lane: str, begin: int, end: int, limit: int, /) -> HistoryPage:
        """See :meth:`anybroker.adapter.ReadsHistory.read_history`."""
        with kafka_errors(f"reading {topic!r}"):
            isolation = int(self._settings.isolation == "read_committed")
            return await history.read(self._connected(), self._wire, isolation, topic, lane, begin, end)

    async def close(self) -> None:
        """See :meth:`anybroker.adapter.Adapter.close`. A client that Kafka keeps waiting is ended in the background."""
        cluster, self._cluster = self._cluster, None
        if cluster is not None:
            await self._closing.finish(_PATIENCE)
            await self._closing.begin(cluster.close(), _PATIENCE)
