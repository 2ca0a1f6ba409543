"""Publishing: events to partitions, and the producer under them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError
from aiokafka.producer.message_accumulator import BatchBuilder

from anybroker.adapter import Outbound, Report, murmur2, unwritable
from anybroker.errors import BrokerError, Rejected, Unavailable

from .closing import Closing, looked_at
from .cluster import Cluster
from .failures import CLIENT_ERRORS, failure
from .names import inlet
from .partition import Partition
from .refusals import note_refusals
from .wire import Headers, Wire

__all__ = ["KafkaSender"]

_T = TypeVar("_T")
_MAX_KEYS = 16_384
_LONGEST_KEY = 128
"""UTF-8 bytes of a key that is remembered: all of them together take 8 MB at most."""
_GZIP = 1
"""In a record batch's attributes: the one compression that needs no library."""
_LAST_WORDS = 0.5
"""Seconds that a request under way has for its answer when the sender is closed and Kafka does not answer."""


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

    def __init__(
        self,
        make_producer: Callable[[], AIOKafkaProducer],
        cluster: Cluster,
        wire: Wire,
        closing: Closing,
        *,
        limit: int,
        deadline: float,
        connect_timeout: float,
    ) -> None:
        self._make_producer = make_producer
        self._cluster = cluster
        self._wire = wire
        self._closing = closing
        self.limit = limit
        self.deadline = deadline
        self._connect_timeout = connect_timeout
        loop = asyncio.get_running_loop()
        self.time = loop.time
        self.closed: asyncio.Future[None] = loop.create_future()
        self.closing = False
        self._lock = asyncio.Lock()
        self._producer: AIOKafkaProducer | None = None
        self._batches: Any = None
        self._old: dict[AIOKafkaProducer, asyncio.Task[None]] = {}
        self._topics: dict[tuple[str, str | None], _Topic] = {}
        self._keys: dict[str, tuple[bytes, int]] = {}
        self._replaced: dict[AIOKafkaProducer, asyncio.Future[None]] = {}
        """Of each producer that is used: done when another takes its place."""
        self.refusals: dict[tuple[str, int], type[KafkaError]] = {}
        """By topic and partition: what Kafka has answered to a batch that the client tries again."""

    async def submit(self, batch: Sequence[Outbound], report: Report, /) -> None:
        """See :meth:`anybroker.adapter.Sender.submit`. Raises before anything is handed over, or not at all."""
        if self.closing:
            raise Unavailable("the Kafka sender is closed")
        producer = await self.producer()
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

    def encode(self, outbound: Outbound, other: bool = False) -> tuple[bytes | None, bytes | None, Headers]:
        """Key, value and headers of the record; ``other``: in the content mode that is not set."""
        value, headers = self._wire.write(outbound, other)
        text = outbound.key
        return (None if text is None else text.encode()), value, headers

    def _learn(self, text: str) -> tuple[bytes, int]:
        key = text.encode()
        found = key, murmur2(key) & 0x7FFFFFFF
        if len(key) <= _LONGEST_KEY:
            if len(self._keys) >= _MAX_KEYS:
                self._keys.clear()
            self._keys[text] = found
        return found

    async def _find(self, producer: AIOKafkaProducer, topic: str, group: str | None) -> None:
        """Know the topic's partitions, or why there are none. Raises ``Unavailable``."""
        found = self._topics.get((topic, group))
        if found is None:
            found = self._topics[topic, group] = _Topic(topic if group is None else inlet(topic, group))
        known = producer.client.cluster.partitions_for_topic(found.name)
        if known is None:
            # Ask first: aiokafka would wait for a topic that is not there, and make it on a broker that allows that.
            try:
                there = await self._cluster.partitions([found.name])
                known = await self.while_used(producer, producer.partitions_for(found.name)) if there else ()
                found.problem = None if there else f"Kafka has no topic {found.name!r}. Declare it first"
            except CLIENT_ERRORS as exc:
                error = failure(exc, f"looking for the topic {found.name!r}")
                if isinstance(error, BrokerError):
                    raise error from exc
                known, found.problem = (), str(error)
        else:
            found.problem = None  # it may have been made again
        if known:
            found.lanes = len(known)
        while len(found.partitions) < len(known):
            found.partitions.append(Partition(self, found.name, len(found.partitions)))

    # ------------------------------------------------------------------------------------------------- producer

    def create_batch(self, compressed: bool = False) -> Any:
        """An empty batch; one producer's is as good as another's. ``compressed``: in any case."""
        batch = self._batches.create_batch()
        if compressed and not self._batches._message_accumulator._compression_type:  # no public way for one batch
            batch = BatchBuilder(1, _GZIP)
        return batch

    async def most(self, topic: str) -> int | None:
        """Bytes of a batch that the topic takes; None where Kafka does not say."""
        try:
            return await self._cluster.largest_batch(topic)
        except CLIENT_ERRORS:
            return None  # this user may not ask; the event's own outcome is reported all the same

    async def producer(self) -> AIOKafkaProducer:
        """The producer, connected anew if the last one failed. Raises ``Unavailable``."""
        if self._producer is not None:
            return self._producer
        async with self._lock:
            if self._producer is not None:
                return self._producer
            producer = self._make_producer()
            try:
                async with asyncio.timeout(self._connect_timeout):
                    await producer.start()
            except BaseException as exc:
                self._closing.leave(producer.stop())
                if not isinstance(exc, CLIENT_ERRORS):
                    raise
                error = failure(exc, "connecting the producer")
                raise (error if isinstance(error, BrokerError) else Unavailable(str(error))) from exc
            # A batch whose partition has no leader would be given up after the request time-out, its outcome unknown,
            # though a broker needs longer to come back. No public setting parts the two; without this line it is so.
            producer._message_accumulator._batch_ttl = self.deadline
            note_refusals(producer.client, self.refusals)
            self._producer = self._batches = producer
            self._replaced[producer] = asyncio.get_running_loop().create_future()
            return producer

    async def while_used(self, producer: AIOKafkaProducer, call: Coroutine[Any, Any, _T]) -> _T:
        """The result of a producer's call that asks for metadata: once the producer is closed, it would never come.
        Raises ``Unavailable`` when another has taken its place; nothing was sent then."""
        replaced = self._replaced.get(producer)
        if replaced is None:
            call.close()
            raise Unavailable("the producer was replaced")
        asking = asyncio.ensure_future(call)
        either: set[asyncio.Future[Any]] = {asking, replaced}
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not asking.done():
                asking.cancel()
        if asking.cancelled() or not asking.done():
            raise Unavailable("the producer was replaced while it looked for the topic")
        return asking.result()

    def replace(self, producer: AIOKafkaProducer) -> None:
        """Use this one no more; batches of other partitions that it has under way are finished by it."""
        if (replaced := self._replaced.pop(producer, None)) is not None:
            replaced.set_result(None)
        if self._producer is producer:
            self._producer = None
            self._old[producer] = self._closing.leave(self._retire(producer))

    async def _retire(self, producer: AIOKafkaProducer) -> None:
        await producer.flush()
        del self._old[producer]
        await self._cut(producer)

    async def close(self) -> None:
        """See :meth:`anybroker.adapter.Sender.close`. Broken off, it reports what is left, and cuts the connections."""
        if self.closing:
            return
        self.closing = True
        partitions = [partition for topic in self._topics.values() for partition in topic.partitions]
        self.closed.set_result(None)
        try:
            for partition in partitions:
                partition.wake()
            if partitions:
                await asyncio.wait({partition.task for partition in partitions})
        finally:
            for partition in partitions:
                partition.task.cancel()
                partition.abandon()
            for task in self._old.values():
                task.cancel()
            ends = [self._closing.leave(self._cut(each)) for each in (*self._old, self._producer) if each is not None]
            self._producer = None
        if ends:
            await asyncio.wait(ends)

    async def _cut(self, producer: AIOKafkaProducer) -> None:
        """End a producer that may have something under way which Kafka does not take.

        There is no public way: ``stop()`` waits for it, and an idempotent producer tries for ever. Should these two
        names go, the tasks of a producer whose broker is away would outlive the Bus.
        """
        producer._closed = True
        routine = asyncio.create_task(producer._sender.close())
        await asyncio.wait({routine}, timeout=_LAST_WORDS)
        routine.cancel()
        await asyncio.wait({routine})
        looked_at(routine)
        async with asyncio.timeout(_LAST_WORDS):
            await producer.client.close()
