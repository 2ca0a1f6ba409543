"""The adapter: SQS and SNS of one AWS account and region."""

from __future__ import annotations

import functools
import itertools
import math
import secrets
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any, ClassVar, Literal

from anybroker.adapter import (
    AdapterContext,
    AdapterSettings,
    Backlog,
    BrokerUrl,
    Lane,
    LaneListener,
    SubscriptionSpec,
    Topology,
)
from anybroker.capabilities import Acknowledgement, Capabilities, Support
from anybroker.errors import Unavailable

from .link import Link
from .names import notes_name
from .notes import Notes
from .queue import Queue
from .receiver import SqsReceiver
from .sender import SqsSender
from .settings import TOPIC_BYTES, SqsSettings
from .topology import Places
from .wire import Wire

__all__ = ["SqsAdapter"]

_DEFAULT = SqsSettings()


class SqsAdapter:
    """See :class:`anybroker.adapter.Adapter`, and the README for the mapping to AWS."""

    Settings: ClassVar[type[AdapterSettings]] = SqsSettings
    capabilities = Capabilities(
        adapter="sqs",
        messaging_system="aws_sqs",
        acknowledgement=Acknowledgement.PER_MESSAGE,
        durable=Support.NATIVE,
        processes=Support.NATIVE,
        release=Support.EMULATED,
        delay=Support.NATIVE,
        deduplication=Support.NATIVE,
        lease_extension=Support.NATIVE,
        backlog=Support.NATIVE,
        max_event_bytes=TOPIC_BYTES,
        max_delay=43_200.0,
        poll=float(_DEFAULT.wait),
    )

    def __init__(self, url: BrokerUrl, settings: SqsSettings, context: AdapterContext) -> None:
        settings.check(url)
        self._settings = settings
        self._context = context
        self._wire = Wire(settings.content_mode)
        self._link = Link(url, settings, context)
        self._places = Places(self._link, settings)
        self._epochs = itertools.count(1)
        self.capabilities = replace(
            type(self).capabilities,
            max_event_bytes=settings.max_message_bytes or TOPIC_BYTES,
            poll=float(settings.wait),
        )

    @property
    def native(self) -> Any:
        """boto3's SQS client, for what this library does not cover. It blocks: call it in a thread."""
        if not self._link.connected:
            raise Unavailable("the SQS adapter is not connected")
        return self._link.sqs

    async def connect(self) -> None:
        """See :meth:`anybroker.adapter.Adapter.connect`. By STS's GetCallerIdentity, which needs no permission."""
        await self._link.connect()

    async def declare(self, topology: Topology, mode: Literal["create", "verify"], /) -> None:
        """See :meth:`anybroker.adapter.Adapter.declare`. Topics, queues, their policies and subscriptions."""
        await self._places.declare(topology, mode)

    async def open_sender(self) -> SqsSender:
        """See :meth:`anybroker.adapter.Adapter.open_sender`."""
        settings = self._settings
        return SqsSender(
            self._link,
            self._places,
            self._wire,
            requests=settings.threads,
            limit=settings.max_message_bytes,
            key=self._context.deduplication_key,
        )

    async def open_receiver(self, subscription: SubscriptionSpec, listener: LaneListener, /) -> SqsReceiver:
        """See :meth:`anybroker.adapter.Adapter.open_receiver`."""
        topic, group = subscription.topic, subscription.group
        url = await self._places.queue(topic, group, subscription.ordered)
        lane = Lane(f"{topic}/{secrets.token_hex(4)}", next(self._epochs))
        lease = math.ceil(self._context.lease)
        queue = Queue(self._link, url, Notes(self._link, notes_name(topic, group)), self._wire, lane, lease)
        return SqsReceiver(
            queue,
            lane,
            listener,
            self._link.pool,
            wait=self._settings.wait,
            pollers=self._settings.pollers,
            keep=functools.partial(self._places.keep, topic, group),
        )

    async def backlog(self, topic: str, group: str, /) -> Backlog:
        """See :meth:`anybroker.adapter.ReportsBacklog.backlog`."""
        return await self._places.backlog(topic, group)

    async def groups(self) -> Mapping[str, Collection[str]]:
        """See :meth:`anybroker.adapter.ListsGroups.groups`."""
        return await self._places.groups()

    async def close(self) -> None:
        """See :meth:`anybroker.adapter.Adapter.close`."""
        await self._link.close()
