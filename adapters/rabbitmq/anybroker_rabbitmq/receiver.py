"""A member of a group: one channel a lane, so that closing it gives the lane back in order."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence

from aiormq.abc import ChannelFrame, DeliveredMessage
from aiormq.channel import Channel
from anybroker.adapter import Ack, Inbound, Lane, LaneListener, Release, Settlement, SubscriptionSpec
from anybroker.errors import AnybrokerError, BrokerError, LeaseLost, Unavailable

from .failures import amqp_errors, closing_reason, said
from .frames import ACK, NACK, REJECT, settle_frame
from .link import Link
from .names import lane_queue, members_queue
from .wire import Wire

__all__ = ["RabbitmqReceiver"]

_REQUEUE = {REJECT: 1, NACK: 2}


class _Consumer:
    """One lane's queue, consumed on a channel of its own. Given back, the lane gets another consumer."""

    __slots__ = ("buffer", "channel", "lane", "leaving", "number", "tag", "unsettled")

    def __init__(self, number: int, channel: Channel) -> None:
        self.number = number
        self.channel = channel
        self.tag = ""
        self.lane: Lane | None = None
        """None until the first delivery: before it nobody knows whether the lane is ours."""
        self.buffer: deque[DeliveredMessage] = deque()
        self.unsettled: dict[int, bool] = {}
        """Delivery tags that the core has, in order. False: released, and goes back when the channel is closed."""
        self.leaving = False

    async def close(self, timeout: float) -> None:
        """Give back what is not acknowledged, in order, and wait until the broker has it."""
        self.leaving = True
        await self.channel.close(timeout=timeout)


class RabbitmqReceiver:
    """See :class:`anybroker.adapter.Receiver`.

    Ordered: a queue with a single active consumer for each lane. The lane is ours with its first delivery, and until
    the channel is closed. A delivery is never given back by itself, which would put it behind newer ones. Unordered:
    one queue shared by all members, and each delivery can be given back.
    """

    def __init__(
        self,
        link: Link,
        wire: Wire,
        spec: SubscriptionSpec,
        listener: LaneListener,
        epochs: Iterator[int],
        prefetch: int,
        closed: Callable[[RabbitmqReceiver], None],
    ) -> None:
        self.spec = spec
        self._link = link
        self._read = wire.read
        self._listener = listener
        self._epochs = epochs
        self._prefetch = min(prefetch, 65_535)
        self._on_closed = closed
        self._consumers: dict[int, _Consumer] = {}
        self._members: Channel | None = None
        self._turn = 0
        self._waiter: asyncio.Future[None] | None = None
        self._failure: BrokerError | None = None
        self._stopped = False
        self._closed = False

    async def start(self) -> None:
        """Consume all lanes, and the group's list of members."""
        with amqp_errors(f"joining the group {self.spec.group!r} of {self.spec.topic!r}"):
            self._members = members = await self._link.channel()
            members.closing.add_done_callback(self._on_channel_closed)
            # First, so that members that join together know of each other before they share out the lanes.
            await members.basic_consume(
                members_queue(self.spec.topic, self.spec.group), _nothing, no_ack=True, timeout=self._link.timeout
            )
            for number in range(self.spec.lanes if self.spec.ordered else 1):
                await self._consume(number)

    async def _consume(self, number: int) -> None:
        """Queue up for a lane, behind the members that have or want it already."""
        timeout = self._link.timeout
        channel = await self._link.channel()
        consumer = self._consumers[number] = _Consumer(number, channel)
        channel.closing.add_done_callback(lambda closing: consumer.leaving or self._on_channel_closed(closing))
        channel.on_consumer_cancel_callbacks.add(lambda _: self._fail(Unavailable("RabbitMQ has cancelled a consumer")))

        async def deliver(message: DeliveredMessage) -> None:
            consumer.buffer.append(message)
            self._wake()

        await channel.basic_qos(prefetch_count=self._prefetch, timeout=timeout)
        queue = lane_queue(self.spec.topic, self.spec.group, number)
        consumed = await channel.basic_consume(queue, deliver, timeout=timeout)
        consumer.tag = consumed.consumer_tag or ""

    # ------------------------------------------------------------------------------------------------- receiving

    async def receive(
        self, limit: int, /, *, lanes: Collection[Lane] | None, timeout: float
    ) -> Sequence[Inbound]:
        """See :meth:`anybroker.adapter.Receiver.receive`."""
        if batch := self._take(limit, lanes):
            return batch
        loop = asyncio.get_running_loop()
        end = loop.time() + timeout
        while not self._stopped and (left := end - loop.time()) > 0:
            waiter = self._waiter = loop.create_future()
            timer = loop.call_later(left, self._wake)
            try:
                await waiter
            finally:
                timer.cancel()
            if batch := self._take(limit, lanes):
                return batch
        return ()

    def _take(self, limit: int, lanes: Collection[Lane] | None) -> list[Inbound]:
        """What the lanes' buffers have, up to the limit; each call begins with another lane."""
        if self._failure is not None:
            raise self._failure
        batch: list[Inbound] = []
        if self._stopped:
            return batch
        read = self._read
        consumers = list(self._consumers.values())
        self._turn += 1
        for at in range(len(consumers)):
            consumer = consumers[(self._turn + at) % len(consumers)]
            buffer = consumer.buffer
            if not buffer or (lanes is not None and consumer.lane is not None and consumer.lane not in lanes):
                continue
            lane = consumer.lane
            if lane is None:
                name = f"{self.spec.topic}/{consumer.number}"
                lane = consumer.lane = Lane(name, next(self._epochs))
                self._listener.assigned(lane)
            unsettled = consumer.unsettled
            for _ in range(min(len(buffer), limit - len(batch))):
                message = buffer.popleft()
                tag = message.delivery.delivery_tag  # type: ignore[union-attr] # what is consumed has a tag
                unsettled[tag] = True
                batch.append(self._read(message, lane, tag, consumer))
            if len(batch) == limit:
                break
        return batch

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    # -------------------------------------------------------------------------------------------------- settling

    async def settle(self, batch: Sequence[Settlement], /) -> Sequence[BrokerError | None]:
        """See :meth:`anybroker.adapter.Receiver.settle`. AMQP answers no acknowledgement: None means handed over."""
        results: list[BrokerError | None] = []
        acks: dict[_Consumer, list[int]] = {}
        parts: list[bytes] = []
        for item in batch:
            if not isinstance(item, Ack | Release):
                raise TypeError("RabbitMQ settles each message by itself")
            consumer: _Consumer = item.inbound.token
            tag = item.inbound.position
            if consumer.unsettled.get(tag) is not True or consumer.channel.is_closed:
                results.append(LeaseLost(f"a delivery of {item.inbound.lane.name} is settled, or another member has it"))
                continue
            results.append(None)
            if isinstance(item, Ack):
                del consumer.unsettled[tag]
                acks.setdefault(consumer, []).append(tag)
            elif self.spec.ordered:
                consumer.unsettled[tag] = False
            else:
                del consumer.unsettled[tag]
                method = REJECT if item.failed else NACK
                parts.append(settle_frame(method, consumer.channel.number, tag, _REQUEUE[method]))
        for consumer, tags in acks.items():
            parts += _acks(consumer, tags)
        if parts:
            # One write for all lanes, which share the connection; in the order of what each channel was asked before.
            await self._link_write(b"".join(parts))
        return results

    async def _link_write(self, frames: bytes) -> None:
        await (await self._link.transport()).write_queue.put(ChannelFrame(frames, should_close=False))
