"""The adapter: one Kafka cluster."""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import replace
from typing import Any, ClassVar, Literal

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.client import AIOKafkaClient
from aiokafka.conn import create_conn
from aiokafka.coordinator.assignors.range import RangePartitionAssignor
from anybroker.adapter import (
    AdapterContext,
    AdapterSettings,
    Backlog,
    BrokerUrl,
    LaneListener,
    Start,
    SubscriptionSpec,
    Topology,
)
from anybroker.capabilities import Acknowledgement, Capabilities, Support
from anybroker.errors import ConfigError, Unavailable

from . import topology as topologies
from .closing import Closing
from .cluster import Cluster
from .failures import CLIENT_ERRORS, failure, kafka_errors, said
from .names import group_id, inlet
from .receiver import KafkaReceiver
from .sender import KafkaSender
from .settings import KafkaSettings, client_options, servers
from .wire import Wire

__all__ = ["KafkaAdapter"]

_BATCH_OVERHEAD = 61
"""Bytes of a record batch's header (Kafka's message format v2), which count for max.message.bytes."""
_SETTLING = 10.0
"""Seconds that the core may take for the last commit of a revoked lane, after the drain."""
_FOREVER_MS = 2**31 - 1


class KafkaAdapter:
    """See :class:`anybroker.adapter.Adapter`, and the README for what is what in Kafka."""

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
        max_event_bytes=KafkaSettings().max_message_bytes,
        settle_interval=0.05,
    )

    def __init__(self, url: BrokerUrl, settings: KafkaSettings, context: AdapterContext) -> None:
        self._url = url
        self._settings = settings
        self._context = context
        self._servers = servers(url)
        self._options = client_options(url, settings, context)
        self._wire = Wire(settings.content_mode)
        self._closing: Closing | None = None
        self._cluster: Cluster | None = None
        self._epochs = itertools.count(1)
        if settings.batch_bytes > settings.max_message_bytes // 2:
            raise ConfigError(
                "batch_bytes",
                f"{settings.batch_bytes} is more than half of max_message_bytes ({settings.max_message_bytes})",
                "Lower it: a batch has to fit with room to spare.",
            )
        self.capabilities = replace(type(self).capabilities, max_event_bytes=settings.max_message_bytes)
