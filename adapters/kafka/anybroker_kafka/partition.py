"""One partition's queue: one open batch, one outstanding batch, and what a batch's outcome means for each event."""

from __future__ import annotations

import asyncio
from collections import deque
from math import inf
from typing import TYPE_CHECKING, Any
from zlib import compress

from aiokafka.errors import KafkaError
from aiokafka.record.default_records import DefaultRecordBatchBuilder

from anybroker.adapter import Outbound, Receipt, Report, check_size
from anybroker.errors import BrokerError, EventTooLarge, PublishOutcomeUnknown, Rejected, Unavailable

from .closing import looked_at
from .failures import named, publish_failure, said, too_large
from .wire import Headers

if TYPE_CHECKING:
    from .sender import KafkaSender

__all__ = ["Partition"]

_size: Any = DefaultRecordBatchBuilder.estimate_size_in_bytes  # annotated for headers whose values may be None


class Batch:
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


class Partition:
    """The queue of one partition and the task that sends it.

    The next batch waits for the confirmation of the one before: with two of them under way, a retry of the first could
    end up behind the second.
    """

    def __init__(self, sender: KafkaSender, topic: str, number: int) -> None:
        self._sender = sender
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
        limit = self._sender.limit
        if size > limit and outbound.may_change_mode:
            _, other, beside = self._sender.encode(outbound, other=True)
            if (less := _size(key, other, beside)) < size:
                size, value, headers = less, other, beside
        refused = check_size(outbound, size, limit, inf)
        if refused is not None:
            report(outbound, refused)
            return
        # Over our limit there are only copies of what a topic holds already, perhaps because it came compressed.
        compressed = size > limit and value is not None and len(compress(value, 1)) < 0.9 * len(value)
        self._open = batch = Batch(self._sender.create_batch(compressed), self._sender.time())
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

    async def _deliver(self, batch: Batch) -> None:
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
            sending = producer.send_batch(batch.builder, self._topic, partition=self._number)
            if producer.client.cluster.partitions_for_topic(self._topic) is None:
                future = await sender.while_used(producer, sending)  # it asks first
            else:
                future = await sending
        except BrokerError as exc:
            self._refuse(batch, exc)
            return
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
        await self._fail(batch, error)

    async def _outlive(self, batch: Batch, future: asyncio.Future[Any]) -> None:
        """No answer in time: the outcome is unknown.

        The producer keeps trying to store the batch, and nothing can follow it in this partition until it has, or the
        order would be lost. So what is queued goes back as not stored, and what comes meanwhile too.
        """
        batch.report(
            PublishOutcomeUnknown(
                f"Kafka did not confirm an event for topic {self._topic!r} within {self._sender.deadline:.0f} s"
                f"{self._why()}: it may be stored. Publish it again under the same id"
            )
        )
        batch.items.clear()
        self._stuck = (
            f"Kafka has not confirmed an earlier event for {self._topic}/{self._number}{self._why()}: not stored"
        )
        self._refuse(batch, Unavailable(self._stuck))
        await asyncio.wait({future, self._sender.closed}, return_when=asyncio.FIRST_COMPLETED)
        self._stuck = None

    def _why(self) -> str:
        """What Kafka has said to the batch meanwhile, where it said anything."""
        refusal = self._sender.refusals.get((self._topic, self._number))
        return "" if refusal is None else f" ({named(refusal)})"

    def _refuse(self, batch: Batch, error: BrokerError, cause: BaseException | None = None) -> None:
        """Nothing of the batch was handed to Kafka: report it and all that waits behind it, so that none overtakes."""
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
            if too_large(exc) and batch.items:
                size = batch.builder.size()
                most = min(await self._sender.most(self._topic) or size, size - 1)
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
        batch = Batch(self._sender.create_batch(), self._sender.time())
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
