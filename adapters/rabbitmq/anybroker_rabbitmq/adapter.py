"""The adapter: one RabbitMQ virtual host."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any, ClassVar, Literal

from anybroker.adapter import (
    DEFAULT_LANES,
    AdapterContext,
    AdapterSettings,
    Backlog,
    BrokerUrl,
    GroupSpec,
    LaneListener,
    SubscriptionSpec,
    TopicSpec,
    Topology,
    number_of,
)
from anybroker.capabilities import Acknowledgement, Capabilities, Support
from anybroker.errors import ConfigError, Unavailable

from . import topology as topologies
from .ladder import LONGEST
from .link import Link
from .receiver import RabbitmqReceiver
from .sender import RabbitmqSender
from .settings import RabbitmqSettings, connection_options
from .wire import Wire

__all__ = ["RabbitmqAdapter"]

_COUNTS_ACQUIRED = (4, 3)
"""The first version that counts every delivery, in another header."""
_OLDEST = (3, 10)
"""The first version whose quorum queues know a message's time to live and dead-letter at least once."""


class RabbitmqAdapter:
    """See :class:`anybroker.adapter.Adapter`, and the README for the mapping to RabbitMQ."""

    Settings: ClassVar[type[AdapterSettings]] = RabbitmqSettings
    capabilities = Capabilities(
        adapter="rabbitmq",
        acknowledgement=Acknowledgement.PER_MESSAGE,
        durable=Support.NATIVE,
        processes=Support.NATIVE,
        release=Support.EMULATED,
        delay=Support.NATIVE,
        backlog=Support.NATIVE,
        balance=Support.NATIVE,
        exclusive_lanes=True,
        max_event_bytes=RabbitmqSettings().max_message_bytes,
        max_delay=LONGEST,
    )

    def __init__(self, url: BrokerUrl, settings: RabbitmqSettings, context: AdapterContext) -> None:
        servers, options = connection_options(url, settings)
        self._settings = settings
        self._wire = Wire(settings.content_mode, settings.header_prefix)
        timeouts = context.connect_timeout, settings.request_timeout
        self._consume = Link(servers, {**options, "name": f"{context.instance} consume"}, *timeouts)
        self._publish = Link(servers, {**options, "name": f"{context.instance} publish"}, *timeouts)
        self._epochs = itertools.count(1)
        self._with_groups: set[str] = set()
        self._declared: dict[tuple[str, str], TopicSpec] = {}
        """What was declared of each group, with as many lanes as it has."""
        self._makes = False
        self._limit: int | None = None
        self._receivers: set[RabbitmqReceiver] = set()
        self.capabilities = replace(type(self).capabilities, max_event_bytes=settings.max_message_bytes)

    @property
    def native(self) -> Any:
        """aio_pika's connection that consumes and declares. Open your own channels on it, but do not publish there: a
        broker short of memory or disk stops reading from connections that publish, acknowledgements included."""
        if self._consume.native is None:
            raise Unavailable("the RabbitMQ adapter is not connected")
        return self._consume.native

    async def connect(self) -> None:
        """See :meth:`anybroker.adapter.Adapter.connect`."""
        await self._consume.connect()
        try:
            version = str((await self._consume.transport()).server_properties.get("version", ""))
            major, minor, *_ = (*(number_of(part, 4) or 0 for part in version.split(".")), 0, 0)
            if (major, minor) < _OLDEST:
                raise ConfigError("url", f"the server is RabbitMQ {version or '(unknown)'}", "Use 3.10 or newer.")
        except BaseException:
            await self._consume.close()
            raise
        if (major, minor) >= _COUNTS_ACQUIRED:
            self._wire.counters |= {"x-acquired-count"}
        if major >= 4 and self._settings.delivery_limit == "argument":
            self._limit = -1  # 4.0 drops a message that was given back 20 times; before, -1 allowed no redelivery

    async def declare(self, topology: Topology, mode: Literal["create", "verify"], /) -> None:
        """See :meth:`anybroker.adapter.Adapter.declare`. Exchanges, queues and bindings."""
        self._makes = mode == "create"
        for topic in topology.topics:
            if mode == "create":
                await topologies.declare_topic(self._consume, topic, self._limit)
            else:
                await topologies.check_topic(self._consume, topic)
            if topic.groups:
                self._with_groups.add(topic.name)
            for group in topic.groups:
                self._declared[topic.name, group.name] = replace(topic, groups=(group,))

    async def open_sender(self) -> RabbitmqSender:
        """See :meth:`anybroker.adapter.Adapter.open_sender`. It has a connection to itself."""
        sender = RabbitmqSender(
            self._publish,
            self._consume,
            self._wire,
            self._with_groups,
            limit=self._settings.max_message_bytes,
            makes_rungs=self._makes,
        )
        await sender.open()
        return sender

    async def open_receiver(self, subscription: SubscriptionSpec, listener: LaneListener, /) -> RabbitmqReceiver:
        """See :meth:`anybroker.adapter.Adapter.open_receiver`. Lanes come afterwards, with their first deliveries, or
        all at once to the only member. There are as many as the group has: ``declare`` refused another number."""
        lanes = await self._lanes_of(subscription)
        receiver = RabbitmqReceiver(
            self._consume,
            self._publish,
            self._wire,
            replace(subscription, lanes=lanes),
            listener,
            self._epochs,
            self._settings.prefetch or subscription.prefetch,
            self._receivers.discard,
        )
        try:
            await receiver.start()
        except BaseException:
            await receiver.close()
            raise
        self._receivers.add(receiver)
        return receiver

    async def _lanes_of(self, subscription: SubscriptionSpec) -> int:
        """How many lanes the group has. Queues that were deleted are made again, if this Bus may make any."""
        topic, name = subscription.topic, subscription.group
        group = GroupSpec(name, subscription.ordered)
        existing = await topologies.find_group(self._consume, topic, group, subscription.lanes, None)
        declared = self._declared.get((topic, name))
        if existing.missing and self._makes and declared is not None:
            await topologies.declare_topic(self._consume, declared, self._limit)
            existing = await topologies.find_group(self._consume, topic, group, existing.lanes, None)
        existing.check()
        return existing.lanes

    async def backlog(self, topic: str, group: str, /) -> Backlog:
        """See :meth:`anybroker.adapter.ReportsBacklog.backlog`. ``in_flight`` is what this Bus has in flight: AMQP
        tells how many messages are ready, but not how many other members hold."""
        declared = self._declared.get((topic, group))
        waiting = await topologies.backlog(
            self._consume, topic, group, declared.lanes if declared is not None else DEFAULT_LANES
        )
        ours = [each for each in self._receivers if (each.spec.topic, each.spec.group) == (topic, group)]
        return Backlog(waiting, sum(receiver.in_flight for receiver in ours))

    async def close(self) -> None:
        """See :meth:`anybroker.adapter.Adapter.close`."""
        await self._publish.close()
        await self._consume.close()
