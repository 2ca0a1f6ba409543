"""A member of a group: one channel a lane, so that closing it gives the lane back in order."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence

from aiormq.abc import ChannelFrame, DeliveredMessage
from aiormq.channel import Channel

from anybroker.adapter import Ack, Inbound, Lane, LaneListener, Release, Settlement, SubscriptionSpec
from anybroker.errors import AnybrokerError, BrokerError, LeaseLost, Unavailable
from anybroker.kit.waker import Waker
from anybroker.printable import logger

from .failures import amqp_errors, closing_reason, said
from .frames import ACK, NACK, REJECT, settle_frame
from .link import Link, end_channel
from .names import lane_queue, members_queue, notes_queue
from .notes import note_key, read_notes, write_note
from .wire import Wire

__all__ = ["RabbitmqReceiver"]

_log = logger("anybroker.rabbitmq")

_CLAIM = 1.0
"""Seconds between two checks whether this is the only member, while a lane without a delivery may be anybody's."""


class _Consumer:
    """One lane's queue, consumed on its own channel. A lane that was given back gets another consumer."""

    __slots__ = ("begun", "buffer", "channel", "lane", "leaving", "notes", "number", "tag", "unsettled")

    def __init__(self, number: int, channel: Channel) -> None:
        self.number = number
        self.channel = channel
        self.tag = ""
        self.lane: Lane | None = None
        """None until the lane is known to be ours: by its first delivery, or because there is no other member."""
        self.begun = False
        """Whether the last member's notes are read, so that the first delivery may be handed out."""
        self.buffer: deque[DeliveredMessage] = deque()
        self.unsettled: dict[int, bool] = {}
        """Tags of the deliveries that the core has, in order. False: released, goes back when the channel is closed."""
        self.notes: dict[str, int] = {}
        """Handler starts of events that are not finished: those that the last member noted, and those to note."""
        self.leaving = False


class RabbitmqReceiver:
    """See :class:`anybroker.adapter.Receiver`.

    Ordered: a queue with a single active consumer for each lane, which is ours until the channel is closed. A delivery
    is never given back alone, which would put it behind newer ones. Unordered: one queue shared by all members; each
    delivery can be given back.
    """

    def __init__(
        self,
        link: Link,
        publish: Link,
        wire: Wire,
        spec: SubscriptionSpec,
        listener: LaneListener,
        epochs: Iterator[int],
        prefetch: int,
        closed: Callable[[RabbitmqReceiver], None],
    ) -> None:
        self.spec = spec
        self._link = link
        self._publish = publish
        self._read = wire.read
        self._listener = listener
        self._epochs = epochs
        self._prefetch = min(prefetch, 65_535)
        self._on_closed = closed
        self._consumers: dict[int, _Consumer] = {}
        self._members: Channel | None = None
        self._turn = 0
        self._claim_at = 0.0
        self._waker = Waker()
        self._failure: BrokerError | None = None
        self._stopped = False
        self._closed = False

    async def start(self) -> None:
        """Consume all lanes, and the group's list of members."""
        with amqp_errors(f"joining the group {self.spec.group!r} of {self.spec.topic!r}"):
            self._members = members = await self._link.channel()
            members.closing.add_done_callback(self._closed_by)
            # First, so that members that join at the same time know of each other before they share the lanes.
            await members.basic_consume(
                members_queue(self.spec.topic, self.spec.group), _nothing, no_ack=True, timeout=self._link.timeout
            )
            for number in range(self.spec.lanes):
                await self._consume(number)

    async def _consume(self, number: int) -> None:
        """Queue up for a lane, behind the members that have it or wait for it."""
        timeout = self._link.timeout
        channel = await self._link.channel()
        consumer = self._consumers[number] = _Consumer(number, channel)
        wake = self._waker.wake
        channel.closing.add_done_callback(lambda closing: None if consumer.leaving else self._closed_by(closing))
        channel.on_consumer_cancel_callbacks.add(lambda _: self._fail(Unavailable("RabbitMQ has cancelled a consumer")))

        async def deliver(message: DeliveredMessage) -> None:
            consumer.buffer.append(message)
            wake()

        await channel.basic_qos(prefetch_count=self._prefetch, timeout=timeout)
        queue = lane_queue(self.spec.topic, self.spec.group, number)
        consumed = await channel.basic_consume(queue, deliver, timeout=timeout)
        consumer.tag = consumed.consumer_tag or ""

    # ------------------------------------------------------------------------------------------------- receiving

    async def receive(self, limit: int, /, *, lanes: Collection[Lane] | None, timeout: float) -> Sequence[Inbound]:
        """See :meth:`anybroker.adapter.Receiver.receive`."""
        loop = asyncio.get_running_loop()
        end = loop.time() + timeout
        while not self._stopped:
            for consumer in list(self._consumers.values()):
                if consumer.buffer and not consumer.begun and self._failure is None:
                    await self._begin(consumer)
            if batch := self._take(limit, lanes):
                return batch
            now = loop.time()
            if now >= self._claim_at and any(each.lane is None for each in self._consumers.values()):
                self._claim_at = now + _CLAIM
                await self._claim()
                continue
            if now >= end:
                break
            await self._waker.wait(end)
        return ()

    async def _begin(self, consumer: _Consumer) -> None:
        """The broker has sent the lane's first delivery: the lane is ours, and no other member has an older one."""
        topic, group = self.spec.topic, self.spec.group
        if not self.spec.ordered or consumer.buffer[0].redelivered:  # in order, what was given back comes first
            try:
                consumer.notes = await read_notes(self._link, notes_queue(topic, group, consumer.number))
            except AnybrokerError as exc:
                raise self._fail(exc) from exc.__cause__
        consumer.begun = True
        self._assign(consumer)

    async def _claim(self) -> None:
        """The only member has every lane, even those from which nothing has come: the broker does not tell."""
        if not self.spec.ordered or await self.members() == 1:
            for consumer in self._consumers.values():
                self._assign(consumer)

    def _assign(self, consumer: _Consumer) -> None:
        if consumer.lane is None and self._failure is None:
            consumer.lane = Lane(f"{self.spec.topic}/{consumer.number}", next(self._epochs))
            self._listener.assigned(consumer.lane)

    def _take(self, limit: int, lanes: Collection[Lane] | None) -> list[Inbound]:
        """What the lanes' buffers have, up to the limit; each call begins with another lane."""
        if self._failure is not None:
            raise self._failure
        batch: list[Inbound] = []
        if self._stopped:
            return batch
        consumers = list(self._consumers.values())
        self._turn += 1
        for at in range(len(consumers)):
            consumer = consumers[(self._turn + at) % len(consumers)]
            buffer = consumer.buffer
            lane = consumer.lane
            if not buffer or lane is None or not consumer.begun or (lanes is not None and lane not in lanes):
                continue
            unsettled = consumer.unsettled
            for _ in range(min(len(buffer), limit - len(batch))):
                message = buffer.popleft()
                tag = message.delivery_tag or 0  # what is consumed has one
                unsettled[tag] = True
                inbound = self._read(message, lane, tag, consumer)
                if consumer.notes and (key := note_key(inbound)) is not None:
                    inbound.attempts = consumer.notes.pop(key, 0)
                batch.append(inbound)
            if len(batch) == limit:
                break
        return batch

    # -------------------------------------------------------------------------------------------------- settling

    async def settle(self, batch: Sequence[Settlement], /) -> Sequence[BrokerError | None]:
        """See :meth:`anybroker.adapter.Receiver.settle`. AMQP does not answer acknowledgements: None means sent."""
        results: list[BrokerError | None] = []
        acks: dict[_Consumer, list[int]] = {}
        frames: dict[_Consumer, list[bytes]] = {}
        for item in batch:
            if not isinstance(item, Ack | Release):
                raise TypeError("RabbitMQ settles each message by itself")
            consumer: _Consumer = item.inbound.token
            tag = item.inbound.position
            unsettled = consumer.unsettled
            if unsettled.get(tag) is not True or consumer.leaving or consumer.channel.is_closed:
                results.append(LeaseLost(f"a delivery of {item.inbound.lane.name} is settled, or no longer ours"))
                continue
            results.append(None)
            if isinstance(item, Release) and item.attempts and (key := note_key(item.inbound)) is not None:
                consumer.notes[key] = item.attempts
            if isinstance(item, Ack):
                del unsettled[tag]
                acks.setdefault(consumer, []).append(tag)
            elif self.spec.ordered:
                unsettled[tag] = False
            else:
                del unsettled[tag]
                frames.setdefault(consumer, []).append(_give_back(consumer, tag, item.failed))
        for consumer, tags in acks.items():
            frames.setdefault(consumer, []).extend(_acks(consumer, tags))
        for consumer, parts in frames.items():
            await _write(consumer.channel, parts)
        return results

    # -------------------------------------------------------------------------------------------------- balancing

    @property
    def window(self) -> int | None:
        """See :class:`anybroker.adapter.BoundsLanes`."""
        return self._prefetch

    @property
    def lanes(self) -> int:
        """See :class:`anybroker.adapter.BalancesLanes`."""
        return self.spec.lanes

    async def members(self) -> int:
        """See :meth:`anybroker.adapter.BalancesLanes.members`."""
        topic, group = self.spec.topic, self.spec.group
        try:
            with amqp_errors(f"counting the members of {group!r} of {topic!r}"):
                if self._members is None:
                    raise Unavailable("not a member")
                declared = await self._members.queue_declare(
                    members_queue(topic, group), passive=True, timeout=self._link.timeout
                )
        except AnybrokerError as exc:
            raise self._fail(exc) from exc.__cause__
        return max(declared.consumer_count or 1, 1)

    async def give_back(self, lane: Lane, /) -> None:
        """See :meth:`anybroker.adapter.Receiver.give_back`. Without other members the lane comes back, as a new one."""
        consumer = next((each for each in self._consumers.values() if each.lane is lane), None)
        if consumer is None or self._closed:
            return
        try:
            with amqp_errors(f"giving back {lane.name}"):
                await self._leave(consumer)
                await self._consume(consumer.number)
        except AnybrokerError as exc:
            self._fail(exc)

    # ------------------------------------------------------------------------------------------------------- end

    def _closed_by(self, closing: asyncio.Future[object]) -> None:
        reason = closing_reason(closing)
        topic, group = self.spec.topic, self.spec.group
        error = Unavailable(f"a channel of the group {group!r} of {topic!r} was closed: {said(reason)}")
        error.__cause__ = reason
        self._fail(error)

    def _fail(self, error: AnybrokerError) -> BrokerError:
        """This member is dead: every lane goes to another member, or to the next receiver of this Bus."""
        failure = error if isinstance(error, BrokerError) else Unavailable(str(error))
        if self._failure is None and not self._closed:
            self._failure = failure
            self._failure.__cause__ = error.__cause__
            lanes = [consumer.lane for consumer in self._consumers.values() if consumer.lane is not None]
            if lanes:
                self._listener.lost(lanes)
            self._waker.wake()
        return failure

    async def _leave(self, consumer: _Consumer) -> None:
        """Give back what is not acknowledged, in order; returns when the broker has it."""
        consumer.leaving = True
        try:
            if consumer.notes and not consumer.channel.is_closed:
                queue = notes_queue(self.spec.topic, self.spec.group, consumer.number)
                await write_note(self._publish, queue, consumer.notes)
        except AnybrokerError as exc:  # attempts start again then; the lane must not wait for that
            _log.warning("%s/%s: handler starts are forgotten: %s", self.spec.topic, self.spec.group, exc)
        await end_channel(consumer.channel)

    @property
    def in_flight(self) -> int:
        """What was delivered to this member and is not settled."""
        return sum(len(consumer.unsettled) + len(consumer.buffer) for consumer in self._consumers.values())

    async def stop(self) -> None:
        """See :meth:`anybroker.adapter.Receiver.stop`. What an unordered group's buffer holds goes back at once."""
        if self._stopped:
            return
        self._stopped = True
        self._waker.wake()
        if self.spec.ordered or self._failure is not None:
            return  # lanes stay with their channels: another member would overtake what is unsettled here
        for consumer in self._consumers.values():
            try:
                with amqp_errors("leaving"):
                    await consumer.channel.basic_cancel(consumer.tag, timeout=self._link.timeout)
                    tags = [message.delivery_tag or 0 for message in consumer.buffer]
                    consumer.buffer.clear()
                    await _write(consumer.channel, [_give_back(consumer, tag, False) for tag in tags])
            except AnybrokerError as exc:
                self._fail(exc)

    async def close(self) -> None:
        """See :meth:`anybroker.adapter.Receiver.close`."""
        await self.stop()
        if self._closed:
            return
        self._closed = True
        self._on_closed(self)
        await asyncio.gather(*map(self._leave, self._consumers.values()))
        if self._members is not None:
            await end_channel(self._members)  # last: a member that is no longer counted must not hold a lane


async def _nothing(message: DeliveredMessage) -> None:
    """The queue of members never has a message."""


async def _write(channel: Channel, frames: list[bytes]) -> None:
    """All in one write, behind what the channel was asked before."""
    if frames:
        await channel.write_queue.put(ChannelFrame(b"".join(frames), should_close=False))


def _give_back(consumer: _Consumer, tag: int, failed: bool) -> bytes:
    """Reject after a failure, else nack: the newest servers count only rejects towards a delivery limit."""
    if failed:
        return settle_frame(REJECT, consumer.channel.number, tag, 1)
    return settle_frame(NACK, consumer.channel.number, tag, 2)


def _acks(consumer: _Consumer, tags: list[int]) -> list[bytes]:
    """One frame for all tags below the first unsettled one, and one for each tag above it."""
    number = consumer.channel.number
    first = next(iter(consumer.unsettled), None)
    below = [tag for tag in tags if first is None or tag < first]
    frames = [settle_frame(ACK, number, tag, 0) for tag in tags if first is not None and tag > first]
    if below:
        frames.append(settle_frame(ACK, number, max(below), 1))
    return frames
