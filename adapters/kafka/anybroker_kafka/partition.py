"""One partition's queue: one open batch, one outstanding batch, and what a batch's outcome means for each event."""

from __future__ import annotations

import asyncio
from collections import deque
from math import inf
from typing import Any
from zlib import compress

from aiokafka.errors import KafkaError
from aiokafka.record.default_records import DefaultRecordBatchBuilder

from anybroker.adapter import Outbound, Receipt, Report, check_size
from anybroker.errors import BrokerError, EventTooLarge, PublishOutcomeUnknown, Rejected, Unavailable
from anybroker.kit.wording import said

from .closing import ignore_outcome
from .cluster import Cluster
from .failures import CLIENT_ERRORS, is_too_large, named, publish_failure
from .producers import Producers
from .wire import Headers, Wire

__all__ = ["Partition"]

_size: Any = DefaultRecordBatchBuilder.estimate_size_in_bytes  # annotated for headers whose values may be None


class Batch:
    """Records of one partition on their way, and the reports that wait for their outcome."""

    __slots__ = ("born", "builder", "items")

    def __init__(self, builder: Any, born: float) -> None:
        self.builder = builder
        self.born = born
        self.items: list[tuple[Outbound, Report]] = []

    def report(self, error: BrokerError) -> None:
        """The error for each event, each with an exception object of its own: each goes to another caller."""
        for outbound, report in self.items:
            own = type(error)(*error.args)
            own.__cause__ = error.__cause__
            report(outbound, own)


class Partition:
    """The queue of one partition and the task that sends it.

    The next batch waits for the confirmation of the one before: with two of them under way, a retry of the first could
    end up behind the second.
    """

    def __init__(
        self,
        producers: Producers,
        cluster: Cluster,
        wire: Wire,
        topic: str,
        number: int,
        limit: int,
        closed: asyncio.Future[None],
    ) -> None:
        """``limit``: bytes that the broker takes in one batch; ``closed``: done when the sender closes."""
        self._producers = producers
        self._cluster = cluster
        self._wire = wire
        self._limit = limit
        self._deadline = producers.deadline
        self._closed = closed
        self._time = asyncio.get_running_loop().time
        self._topic = topic
        self._number = number
        self._receipt = f"{topic}/{number}/"
        self._open: Batch | None = None
        self._full: deque[Batch] = deque()
        self._sent: Batch | None = None
        self._stuck: str | None = None
        self._wakeup: asyncio.Future[None] | None = None
        self.task = asyncio.create_task(self._run(), name=f"anybroker kafka {topic}/{number}")

    def append(
        self, outbound: Outbound, report: Report, key: bytes | None, value: bytes | None, headers: Headers
    ) -> None:
        """Queue one record, or report at once why it cannot be."""
        batch = self._open
        if batch is not None:
            if batch.builder.append(timestamp=None, key=key, value=value, headers=headers) is not None:
                batch.items.append((outbound, report))
                return
            self._close_batch()
        if self._stuck is not None:
            report(outbound, Unavailable(self._stuck))
            return
        # Only the first record of a batch can be too large: the size that bounds the others is smaller.
        size = _size(key, value, headers)
        limit = self._limit
        if size > limit and outbound.may_change_mode:
            other, other_headers = self._wire.write(outbound, other=True)
            if (other_size := _size(key, other, other_headers)) < size:
                size, value, headers = other_size, other, other_headers
        too_large = check_size(outbound, size, limit, inf)
        if too_large is not None:
            report(outbound, too_large)
            return
        # Only copies of what a topic holds already may be above our limit, perhaps because it came compressed.
        compressed = size > limit and value is not None and len(compress(value, 1)) < 0.9 * len(value)
        self._open = batch = Batch(self._producers.create_batch(compressed), self._time())
        batch.builder.append(timestamp=None, key=key, value=value, headers=headers)
        batch.items.append((outbound, report))
        self.wake()

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
            elif self._closed.done():
                return
            else:
                self._wakeup = asyncio.get_running_loop().create_future()
                await self._wakeup

    def wake(self) -> None:
        """Look at the queue, and at whether the sender closes."""
        if self._wakeup is not None:
            self._wakeup.set_result(None)
            self._wakeup = None

    async def _deliver(self, batch: Batch) -> None:
        producers = self._producers
        left = batch.born + self._deadline - self._time()
        if left <= 0:
            batch.report(Unavailable(f"an event for topic {self._topic!r} had no turn within {self._deadline:.0f} s"))
            return
        try:
            producer = await producers.current()
        except BrokerError as exc:
            self._refuse(batch, exc)
            return
        try:
            sending = producer.send_batch(batch.builder, self._topic, partition=self._number)
            if producer.client.cluster.partitions_for_topic(self._topic) is None:
                future = await producers.while_used(producer, sending)  # asks for metadata first
            else:
                future = await sending
        except BrokerError as exc:
            self._refuse(batch, exc)
            return
        except (KafkaError, AssertionError) as exc:  # a dead producer, a partition that is gone: nothing was sent
            producers.replace(producer)
            self._refuse(batch, Unavailable(f"Kafka's producer failed for topic {self._topic!r}: {said(exc)}"), exc)
            return
        future.add_done_callback(ignore_outcome)
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
        producers.replace(producer)
        await self._fail(batch, error)

    async def _outlive(self, batch: Batch, future: asyncio.Future[Any]) -> None:
        """No answer in time: the outcome is unknown.

        The producer keeps trying to store the batch, and nothing may follow it in this partition until it has, or the
        order would be lost. So what is queued, and what comes meanwhile, is reported as not stored.
        """
        batch.report(
            PublishOutcomeUnknown(
                f"Kafka did not confirm an event for topic {self._topic!r} within {self._deadline:.0f} s"
                f"{self._why()}: it may be stored. Publish it again under the same id"
            )
        )
        batch.items.clear()
        self._stuck = (
            f"Kafka has not confirmed an earlier event for {self._topic}/{self._number}{self._why()}: not stored"
        )
        self._refuse(batch, Unavailable(self._stuck))
        await asyncio.wait({future, self._closed}, return_when=asyncio.FIRST_COMPLETED)
        self._stuck = None

    def _why(self) -> str:
        """Kafka's last answer to the batch, if there was any."""
        refusal = self._producers.refusals.get((self._topic, self._number))
        return "" if refusal is None else f" ({named(refusal)})"

    def _refuse(self, batch: Batch, error: BrokerError, cause: BaseException | None = None) -> None:
        """Nothing of the batch was handed to Kafka: report it, and all behind it, so that nothing overtakes it."""
        error.__cause__ = cause or error.__cause__
        self._close_batch()
        queued = [batch, *self._full]
        self._full.clear()
        for each in queued:
            each.report(error)

    def _confirm(self, batch: Batch, metadata: Any) -> None:
        offset, prefix = metadata.offset, self._receipt
        if offset < 0:  # a retry of what was stored already, so long ago that the broker does not know where
            prefix, offset = f"{prefix}?", 0
        for outbound, report in batch.items:
            report(outbound, Receipt(outbound.topic, f"{prefix}{offset}"))
            offset += 1

    async def _fail(self, batch: Batch, exc: BaseException) -> None:
        error = publish_failure(exc, self._topic)
        if isinstance(error, Rejected):
            if len(batch.items) > 1:
                # Kafka refuses a batch as a whole. One bad event must fail alone: each goes in a batch of its own.
                self._full.extendleft(self._alone(item) for item in reversed(batch.items))
                return
            if is_too_large(exc) and batch.items:
                size = batch.builder.size()
                most = min(await self._largest_batch() or size, size - 1)
                error = EventTooLarge(
                    f"an event for topic {self._topic!r} takes {size} bytes, and the topic takes less. Raise its "
                    "max.message.bytes, or lower the adapter's max_message_bytes to it",
                    size=size,
                    limit=most,
                )
                error.__cause__ = exc
                batch.items[0][1](batch.items[0][0], error)
                return
        batch.report(error)

    def _alone(self, item: tuple[Outbound, Report]) -> Batch:
        batch = Batch(self._producers.create_batch(), self._time())
        key = item[0].key
        value, headers = self._wire.write(item[0])
        batch.builder.append(timestamp=None, key=None if key is None else key.encode(), value=value, headers=headers)
        batch.builder.close()
        batch.items.append(item)
        return batch

    async def _largest_batch(self) -> int | None:
        """Bytes of a batch that the topic takes; None where Kafka does not say."""
        try:
            return await self._cluster.largest_batch(self._topic)
        except CLIENT_ERRORS:
            return None  # this user may not ask; the event's own outcome is reported all the same

    def abandon(self) -> None:
        """The sender's close was cancelled: report what is left."""
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
