"""Publishing: which partition each event goes to."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from aiokafka import AIOKafkaProducer

from anybroker.adapter import Outbound, Report, murmur2, unwritable
from anybroker.errors import BrokerError, Rejected, Unavailable

from .cluster import Cluster
from .failures import CLIENT_ERRORS, failure
from .names import inlet
from .partition import Partition
from .producers import Producers
from .wire import Wire

__all__ = ["KafkaSender"]

_MAX_KEYS = 16_384
_LONGEST_KEY = 128
"""UTF-8 bytes of a key that is remembered: all of them together take 8 MB at most."""


class _Topic:
    """A topic's partitions, and the one that events without a key go to now."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.problem: str | None = None
        self.partitions: list[Partition] = []
        self.lanes = 0
        """How many of them the topic has now: one that was made again may have fewer."""
        self.turn = 0

    def next(self) -> Partition:
        """Another partition for events without a key, in turn."""
        self.turn = (self.turn + 1) % self.lanes
        return self.partitions[self.turn]


class KafkaSender:
    """See :class:`anybroker.adapter.Sender`.

    Keys go to partitions as with Kafka's Java client (murmur2 of the UTF-8 bytes), so producers in other languages
    agree. Events without a key go to one partition after another, batch by batch.
    """

    def __init__(self, producers: Producers, cluster: Cluster, wire: Wire, limit: int) -> None:
        """``limit``: bytes that the broker takes in one batch."""
        self._producers = producers
        self._cluster = cluster
        self._wire = wire
        self._limit = limit
        self._closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._topics: dict[tuple[str, str | None], _Topic] = {}
        self._keys: dict[str, tuple[bytes, int]] = {}

    async def submit(self, batch: Sequence[Outbound], report: Report, /) -> None:
        """See :meth:`anybroker.adapter.Sender.submit`. Raises before anything is handed over, or not at all."""
        if self._closed.done():
            raise Unavailable("the Kafka sender is closed")
        producer = await self._producers.current()
        for name in {(outbound.topic, outbound.group) for outbound in batch}:
            await self._find(producer, *name)
        topics, keys, write = self._topics, self._keys, self._wire.write
        sticky: dict[_Topic, Partition] = {}
        for outbound in batch:
            topic = topics[outbound.topic, outbound.group]
            if topic.problem is not None:
                report(outbound, Rejected(topic.problem))
                continue
            try:
                value, headers = write(outbound)
                text = outbound.key
                if text is None:
                    partition = sticky.get(topic) or sticky.setdefault(topic, topic.next())
                    partition.append(outbound, report, None, value, headers)
                else:
                    key, number = keys.get(text) or self._learn(text)
                    topic.partitions[number % topic.lanes].append(outbound, report, key, value, headers)
            except Exception as exc:  # noqa: BLE001 - whatever it is, it is this event's, and must not be the others'
                report(outbound, unwritable(outbound, exc, "record"))

    def _learn(self, text: str) -> tuple[bytes, int]:
        key = text.encode()
        learned = key, murmur2(key) & 0x7FFFFFFF
        if len(key) <= _LONGEST_KEY:
            if len(self._keys) >= _MAX_KEYS:
                self._keys.clear()
            self._keys[text] = learned
        return learned

    async def _find(self, producer: AIOKafkaProducer, name: str, group: str | None) -> None:
        """Know the topic's partitions, or why there are none. Raises ``Unavailable``."""
        topic = self._topics.get((name, group))
        if topic is None:
            topic = self._topics[name, group] = _Topic(name if group is None else inlet(name, group))
        numbers = producer.client.cluster.partitions_for_topic(topic.name)
        if numbers is None:
            # Ask first: aiokafka would wait for a topic that is not there, and make it on a broker that allows that.
            try:
                exists = await self._cluster.partitions([topic.name])
                call = self._producers.while_used
                numbers = await call(producer, producer.partitions_for(topic.name)) if exists else ()
                topic.problem = None if exists else f"Kafka has no topic {topic.name!r}. Declare it first"
            except CLIENT_ERRORS as exc:
                error = failure(exc, f"looking for the topic {topic.name!r}")
                if isinstance(error, BrokerError):
                    raise error from exc
                numbers, topic.problem = (), str(error)
        else:
            topic.problem = None  # it may have been made again
        if numbers:
            topic.lanes = len(numbers)
        while len(topic.partitions) < len(numbers):
            topic.partitions.append(self._partition(topic.name, len(topic.partitions)))

    def _partition(self, topic: str, number: int) -> Partition:
        return Partition(self._producers, self._cluster, self._wire, topic, number, self._limit, self._closed)

    async def close(self) -> None:
        """See :meth:`anybroker.adapter.Sender.close`. If it is cancelled, it reports what is left, and cuts the
        connections."""
        if self._closed.done():
            return
        self._closed.set_result(None)
        partitions = [partition for topic in self._topics.values() for partition in topic.partitions]
        try:
            for partition in partitions:
                partition.wake()
            if partitions:
                await asyncio.wait({partition.task for partition in partitions})
        finally:
            for partition in partitions:
                partition.task.cancel()
                partition.abandon()
            ends = self._producers.close()
        if ends:
            await asyncio.wait(ends)
