"""Publishing: batches of our own, one open batch a partition, one outstanding batch a partition."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError
from aiokafka.record.default_records import DefaultRecordBatchBuilder

from anybroker.adapter import Outbound, Receipt, Report, check_size, murmur2
from anybroker.errors import BrokerError, EventTooLarge, PublishOutcomeUnknown, Rejected, Unavailable

from .closing import Closing, looked_at
from .cluster import Cluster
from .failures import CLIENT_ERRORS, failure, kafka_errors, publish_failure, said, too_large
from .names import inlet
from .wire import Headers, Wire

__all__ = ["KafkaSender"]

_size: Any = DefaultRecordBatchBuilder.estimate_size_in_bytes  # annotated for headers whose values may be None

_MAX_KEYS = 16_384
_LAST_WORDS = 0.5
"""Seconds that a request under way has for its answer when the sender is closed and Kafka does not answer."""


class _Batch:
    """Records of one partition on their way, and who waits for them."""

    __slots__ = ("born", "builder", "items")

    def __init__(self, builder: Any, born: float) -> None:
        self.builder = builder
        self.born = born
        self.items: list[tuple[Outbound, Report]] = []

    def report(self, error: BrokerError) -> None:
        """One error for every event, each with an exception object of its own: each goes to another caller."""
        for outbound, report in self.items:
            own = type(error)(*error.args)
            own.__cause__ = error.__cause__
            report(outbound, own)


class _Partition:
    """The queue of one partition and the task that sends it.

    The next batch waits for the confirmation of the one before: with two of them under way, a retry of the first could
    end up behind the second.
    """

    def __init__(self, sender: KafkaSender, topic: str, number: int) -> None:
        self._sender = sender
        self._topic = topic
        self._number = number
        self._receipt = f"{topic}/{number}/"
        self._open: _Batch | None = None
        self._full: deque[_Batch] = deque()
        self._sent: _Batch | None = None
        self._stuck: str | None = None
        self._wakeup: asyncio.Future[None] | None = None
        self.task = asyncio.create_task(self._run(), name=f"anybroker kafka {topic}/{number}")

    def append(
        self, outbound: Outbound, report: Report, key: bytes | None, value: bytes | None, headers: Headers
    ) -> None:
        """Queue one record, or report at once why not."""
        batch = self._open
        if batch is not None:
            if batch.builder.append(timestamp=None, key=key, value=value, headers=headers) is not None:
                batch.items.append((outbound, report))
                return
            self._close_batch()
        if self._stuck is not None:
            report(outbound, Unavailable(self._stuck))
            return
        # Only the first record of a batch can be too large: a batch takes no further one beyond its own, smaller size.
        size = _size(key, value, headers)
        refused = check_size(outbound, size, self._sender.limit)
        if refused is not None:
            report(outbound, refused)
            return
        self._open = batch = _Batch(self._sender.create_batch(), self._sender.time())
        batch.builder.append(timestamp=None, key=key, value=value, headers=headers)
        batch.items.append((outbound, report))
        if self._wakeup is not None:
            self._wakeup.set_result(None)
            self._wakeup = None

    def _close_batch(self) -> None:
        if self._open is not None:
            self._open.builder.close()
            self._full.append(self._open)
            self._open = None

    async def _run(self) -> None:
        """The partition's one task, for the life of the sender; ends when the sender closes and all is sent."""
        while True:
            if not self._full:
                self._close_batch()
            if self._full:
                self._sent = self._full.popleft()
                await self._deliver(self._sent)
                self._sent = None
            elif self._sender.closing:
                return
            else:
                self._wakeup = asyncio.get_running_loop().create_future()
                await self._wakeup

    def wake(self) -> None:
        """Look at the queue, and at whether the sender closes."""
        if self._wakeup is not None:
            self._wakeup.set_result(None)
            self._wakeup = None

    async def _deliver(self, batch: _Batch) -> None:
        sender = self._sender
        left = batch.born + sender.deadline - sender.time()
        if left <= 0:
            batch.report(Unavailable(f"an event for topic {self._topic!r} had no turn within {sender.deadline:.0f} s"))
            return
        try:
            producer = await sender.producer()
        except BrokerError as exc:
            self._refuse(batch, exc)
            return
        try:
            future = await producer.send_batch(batch.builder, self._topic, partition=self._number)
        except (KafkaError, AssertionError) as exc:  # a dead producer, a partition that is gone: nothing was sent
            sender.replace(producer)
            self._refuse(batch, Unavailable(f"Kafka's producer failed for topic {self._topic!r}: {said(exc)}"), exc)
            return
        future.add_done_callback(looked_at)
        await asyncio.wait({future}, timeout=left)
        if not future.done():
            await self._outlive(batch, future)
            if not future.done():
                return
        error = future.exception()
        if error is None:
            self._confirm(batch, future.result())
            return
        # Whatever was refused has left a hole in the producer's sequence: the next batch needs another producer.
        sender.replace(producer)
        self._fail(batch, error)

    async def _outlive(self, batch: _Batch, future: asyncio.Future[Any]) -> None:
        """No answer in time: the outcome is unknown.

        The producer keeps trying to store the batch, and nothing can follow it in this partition until it has, or the
        order would be lost. So what is queued goes back as not stored, and what comes meanwhile too.
        """
        batch.report(
            PublishOutcomeUnknown(
                f"Kafka did not confirm an event for topic {self._topic!r} within {self._sender.deadline:.0f} s: it "
                "may be stored. Publish it again under the same id"
            )
        )
        batch.items.clear()
        self._stuck = f"Kafka has not confirmed an earlier event for {self._topic}/{self._number}: not stored"
        self._refuse(batch, Unavailable(self._stuck))
        await asyncio.wait({future, self._sender.closed}, return_when=asyncio.FIRST_COMPLETED)
        self._stuck = None

    def _refuse(self, batch: _Batch, error: BrokerError, cause: BaseException | None = None) -> None:
        """Nothing of the batch was handed to Kafka: report it and all that waits behind it, so that none overtakes."""
        error.__cause__ = cause or error.__cause__
        self._close_batch()
        queued = [batch, *self._full]
        self._full.clear()
        for each in queued:
            each.report(error)

    def _confirm(self, batch: _Batch, metadata: Any) -> None:
        offset, prefix = metadata.offset, self._receipt
        if offset < 0:  # a retry of what was stored already, so long ago that the broker does not know where
            prefix, offset = f"{prefix}?", 0
        for outbound, report in batch.items:
            report(outbound, Receipt(outbound.topic, f"{prefix}{offset}"))
            offset += 1

    def _fail(self, batch: _Batch, exc: BaseException) -> None:
        error = publish_failure(exc, self._topic)
        if isinstance(error, Rejected):
            if len(batch.items) > 1:
                # Kafka refuses a batch as a whole. One bad event must fail alone: each goes in a batch of its own.
                self._full.extendleft(self._alone(item) for item in reversed(batch.items))
                return
            if too_large(exc) and batch.items:
                size = batch.builder.size()
                error = EventTooLarge(
                    f"an event for topic {self._topic!r} takes {size} bytes, and the topic takes less. Raise its "
                    "max.message.bytes, or lower the adapter's max_message_bytes to it",
                    size=size,
                    limit=size - 1,
                )
                error.__cause__ = exc
                batch.items[0][1](batch.items[0][0], error)
                return
        batch.report(error)

    def _alone(self, item: tuple[Outbound, Report]) -> _Batch:
        batch = _Batch(self._sender.create_batch(), self._sender.time())
        key, value, headers = self._sender.encode(item[0])
        batch.builder.append(timestamp=None, key=key, value=value, headers=headers)
        batch.builder.close()
        batch.items.append(item)
        return batch

    def abandon(self) -> None:
        """The sender was cut short: say what is left."""
        self._close_batch()
        if self._sent is not None:
            self._sent.report(
                PublishOutcomeUnknown(
                    f"the sender was closed before Kafka confirmed an event for topic {self._topic!r}: it may be stored"
                )
            )
            self._sent = None
        while self._full:
            self._full.popleft().report(
                Unavailable("the sender was closed before the event was handed over: not stored")
            )


class _Topic:
    """A topic's partitions, and the one that events without a key go to now."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.there = False
        self.partitions: list[_Partition] = []
        self.turn = 0

    def next(self) -> _Partition:
        """Another partition for events without a key, in turn."""
        self.turn = (self.turn + 1) % len(self.partitions)
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
        self._old: set[AIOKafkaProducer] = set()
        self._topics: dict[tuple[str, str | None], _Topic] = {}
        self._keys: dict[str, tuple[bytes, int]] = {}

    async def submit(self, batch: Sequence[Outbound], report: Report, /) -> None:
        """See :meth:`anybroker.adapter.Sender.submit`. Raises before anything is handed over, or not at all."""
        if self.closing:
            raise Unavailable("the Kafka sender is closed")
        producer = await self.producer()
        for name in {(outbound.topic, outbound.group) for outbound in batch}:
            await self._find(producer, *name)
        topics, keys, write = self._topics, self._keys, self._wire.write
        sticky: dict[_Topic, _Partition] = {}
        for outbound in batch:
            topic = topics[outbound.topic, outbound.group]
            partitions = topic.partitions
            if not topic.there:
                report(outbound, Rejected(f"Kafka has no topic {topic.name!r}. Declare it first"))
                continue
            value, headers = write(outbound)
            text = outbound.key
            if text is None:
                partition = sticky.get(topic) or sticky.setdefault(topic, topic.next())
                partition.append(outbound, report, None, value, headers)
            else:
                key, number = keys.get(text) or self._learn(text)
                partitions[number % len(partitions)].append(outbound, report, key, value, headers)

    def encode(self, outbound: Outbound) -> tuple[bytes | None, bytes | None, Headers]:
        """Key, value and headers of the record."""
        value, headers = self._wire.write(outbound)
        text = outbound.key
        return (None if text is None else text.encode()), value, headers

    def _learn(self, text: str) -> tuple[bytes, int]:
        key = text.encode()
        if len(self._keys) >= _MAX_KEYS:
            self._keys.clear()
        self._keys[text] = found = key, murmur2(key) & 0x7FFFFFFF
        return found

    async def _find(self, producer: AIOKafkaProducer, topic: str, group: str | None) -> None:
        """Know the topic's partitions; none where it does not exist."""
        found = self._topics.get((topic, group))
        if found is None:
            found = self._topics[topic, group] = _Topic(topic if group is None else inlet(topic, group))
        known = producer.client.cluster.partitions_for_topic(found.name)
        if known is None:
            # Ask first: aiokafka would wait for a topic that is not there, and make it on a broker that allows that.
            with kafka_errors(f"looking for the topic {found.name!r}"):
                there = await self._cluster.partitions([found.name])
                known = await producer.partitions_for(found.name) if there else ()
        found.there = bool(known)
        while len(found.partitions) < len(known):
            found.partitions.append(_Partition(self, found.name, len(found.partitions)))

    # ------------------------------------------------------------------------------------------------- producer

    def create_batch(self) -> Any:
        """An empty batch; one producer's is as good as another's."""
        return self._batches.create_batch()

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
            self._producer = self._batches = producer
            return producer

    def replace(self, producer: AIOKafkaProducer) -> None:
        """Use this one no more; batches of other partitions that it has under way are finished by it."""
        if self._producer is producer:
            self._producer = None
            self._old.add(producer)
            self._closing.leave(self._retire(producer))

    async def _retire(self, producer: AIOKafkaProducer) -> None:
        await producer.flush()
        self._old.discard(producer)
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
        routine = asyncio.ensure_future(producer._sender.close())
        await asyncio.wait({routine}, timeout=_LAST_WORDS)
        routine.cancel()
        await asyncio.wait({routine})
        looked_at(routine)
        await producer.client.close()
