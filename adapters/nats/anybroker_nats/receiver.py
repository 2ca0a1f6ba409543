"""A member of a group: one pull at a time for each lane, all of them answered into one inbox."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterator, Sequence
from typing import Final

from nats.aio.subscription import Subscription

from anybroker.adapter import Inbound, Lane, LaneListener, Settlement, SubscriptionSpec
from anybroker.errors import BrokerError, LeaseLost, Unavailable

from .balance import Balance
from .client import RawClient
from .commands import NAK, pull_request
from .consumer import ASK_AGAIN, Arrived, Consumer
from .durations import nanoseconds
from .failures import CLIENT_ERRORS, nats_errors, said
from .giving_back import GivingBack
from .leases import Leases
from .link import Link
from .member import Member
from .presence import Presence
from .refusals import Refusal
from .settling import Settling
from .take_over import TakeOver
from .wire import Wire

__all__ = ["NatsReceiver"]

_MEMBERS: Final = b"members"
"""Where otherwise the number of a lane is: the end of the pull by which members are counted."""
_MAX_BYTES: Final = 8 * 1024 * 1024
"""Bytes of one pull; a server ends a connection that has 64 MiB unread."""


class NatsReceiver:
    """See :class:`anybroker.adapter.Receiver`.

    Ordered: a consumer with a pinned client for each lane. Unordered: one consumer shared by all members, and each
    delivery can be given back by itself.
    """

    def __init__(
        self,
        link: Link,
        client: RawClient,
        wire: Wire,
        spec: SubscriptionSpec,
        listener: LaneListener,
        epochs: Iterator[int],
        lanes: int,
        lease: float,
        confirm_acks: bool,
    ) -> None:
        """``lanes``: of the group; 0 where it is unordered."""
        self.spec = spec
        self._read = wire.read
        member = self._member = Member(link, client, spec, listener, epochs, lanes)
        self._consumers = member.consumers
        self._wake = member.waker.wake
        self._giving_back = GivingBack(member)
        self._leases = Leases(member, self._giving_back, lease)
        self._take_over = TakeOver(member, self._giving_back, self._leases)
        self._settling = Settling(member, confirm_acks)
        self._presence = (
            Presence(link, client, spec.topic, spec.group, member.prefix + _MEMBERS) if spec.ordered else None
        )
        self._balance = Balance(member, self._take_over, self._leases, self._presence)
        self._by_name = {consumer.name.encode(): consumer for consumer in self._consumers}
        self._batch = max(1, spec.prefetch // len(self._consumers))
        self._deliveries: Subscription | None = None
        self._turn = 0

    async def start(self) -> None:
        """Open the inbox. The first ``receive`` pulls."""
        member = self._member
        with nats_errors(f"joining the group {self.spec.group!r} of {self.spec.topic!r}"):
            await member.answers.listen()
            self._deliveries = await member.client.listen(f"{member.prefix.decode()}>", self._arrived)
        member.link.watchers.add(self)
        self._leases.start()
        if self._presence is not None:
            await self._presence.join()
        else:
            member.assign(self._consumers[0])

    @property
    def hindrance(self) -> str | None:
        """See :class:`anybroker.adapter.TellsHindrance`."""
        return self._member.link.hindrance

    # -------------------------------------------------------------------------------------------------- arriving

    def _arrived(self, subject: bytes, reply: bytes, data: bytes, headers: bytes | None) -> None:
        """A delivery, under the subject that it was published to, or the end of a pull, under the inbox's."""
        if reply:
            fields = reply.split(b".")
            at = 4 if len(fields) == 9 else 6
            consumer = self._by_name[fields[at - 1]]
            item = Arrived(int(fields[at]), subject, reply, data, headers)
            if answer := consumer.arrived(item, int(fields[at + 1])):
                self._member.write(answer)
        elif headers is not None:
            where, *rest = subject[len(self._member.prefix) :].split(b".")
            if where == _MEMBERS:
                if self._presence is not None:
                    self._presence.ended(headers[9:])
                return
            generation, *touched = rest
            consumer = self._consumers[int(where)]
            if int(generation) == consumer.generation:
                self._pull_ended(consumer, headers, bool(touched))
        self._wake()

    def _pull_ended(self, consumer: Consumer, headers: bytes, touched: bool) -> None:
        """The server's word that a pull is over; ``touched``: one that only kept the pin."""
        code, _, text = headers[9:].partition(b"\r\n")[0].partition(b" ")
        if code == b"423":
            self._giving_back.lose_pin(consumer)
        elif touched:
            pass  # the answer that no message fits
        elif code == b"503":
            self._pull_later(consumer)
        elif code in (b"408", b"404", b"409"):
            consumer.outstanding = 0
            if b"Leadership" in text:  # what we sent to the old leader may have been lost with it
                self._member.acknowledge_again(consumer)
                if consumer.asking is not None:
                    consumer.asking.cancel()  # what was asked before gets no answer
            if b"Exceeded" in text or b"Deleted" in text or b"Shutdown" in text or b"Leadership" in text:
                self._pull_later(consumer)
        else:
            why = headers[9:].decode().strip()
            self._member.fail(Unavailable(f"NATS refuses to deliver from {consumer.name!r}: {why}"))

    @staticmethod
    def _pull_later(consumer: Consumer) -> None:
        consumer.outstanding = 0
        consumer.retry_at = asyncio.get_running_loop().time() + ASK_AGAIN
        consumer.may_be_gone = True

    # ------------------------------------------------------------------------------------------------- receiving

    async def receive(self, limit: int, /, *, lanes: Collection[Lane] | None, timeout: float) -> Sequence[Inbound]:
        """See :meth:`anybroker.adapter.Receiver.receive`."""
        member = self._member
        loop = asyncio.get_running_loop()
        end = loop.time() + timeout
        while not member.stopped:
            self._take_over.ask_where_needed(loop.time())
            if member.failure is not None:
                raise member.failure
            batch = self._take(limit, lanes)
            now = loop.time()
            member.write(b"".join([self._pull(consumer, now, limit) for consumer in self._consumers]))
            if batch:
                return batch
            if now >= end:
                break
            await member.waker.wait(min(end, *(consumer.due(now) for consumer in self._consumers)))
        return ()

    def _take(self, limit: int, lanes: Collection[Lane] | None) -> list[Inbound]:
        """What the buffers have, up to the limit; each call begins with another lane."""
        batch: list[Inbound] = []
        client = self._member.client
        count = len(self._consumers)
        self._turn += 1
        for at in range(count):
            consumer = self._consumers[(self._turn + at) % count]
            buffer, lane = consumer.buffer, consumer.lane
            if not buffer or lane is None or not consumer.synced or consumer.notes_due or consumer.asking is not None:
                continue
            if lanes is not None and lane not in lanes:
                continue
            for sequence in list(buffer)[: limit - len(batch)]:
                item = buffer.pop(sequence)
                consumer.unsettled[sequence] = item.reply
                inbound = self._read(client, *item[1:], lane, sequence)
                inbound.token = consumer
                if item.deliveries > 1:
                    inbound.deliveries = item.deliveries
                    inbound.attempts = consumer.starts.pop(sequence, 0)
                batch.append(inbound)
            if len(batch) == limit:
                break
        return batch

    def _pull(self, consumer: Consumer, now: float, limit: int) -> bytes:
        """The command to pull what there is room for, or nothing while a pull is under way."""
        if consumer.outstanding and now > consumer.expires_at:
            consumer.outstanding = 0  # its end was lost
        if consumer.outstanding or consumer.leaving or self._member.stopped or now < consumer.retry_at:
            return b""
        if consumer.asking is not None or (consumer.pin and not consumer.verified):
            return b""
        batch = self._batch if consumer.ordered else min(self._batch, limit)
        if consumer.synced:
            waiting = len(consumer.buffer)
            batch = batch - waiting if waiting * 2 <= batch else 0
        elif consumer.pin:
            batch, consumer.wanted = consumer.wanted, 0
        if not batch:
            return b""
        wait = self._leases.pull_wait
        consumer.outstanding = batch
        consumer.expires_at = now + wait + 1.0
        max_bytes = max(_MAX_BYTES, 2 * self._member.client.max_payload)
        pin = consumer.pin if consumer.ordered else None
        return self._member.pull(consumer, pull_request(batch, nanoseconds(wait), max_bytes, pin))

    # ------------------------------------------------------------------------------------- settling and extending

    async def settle(self, batch: Sequence[Settlement], /) -> Sequence[BrokerError | None]:
        """See :meth:`anybroker.adapter.Receiver.settle`. None means handed over; with ``confirm_acks``, confirmed."""
        return await self._settling.settle(batch)

    async def extend(self, batch: Sequence[Inbound], /) -> Sequence[BrokerError | None]:
        """See :meth:`anybroker.adapter.ExtendsLease.extend`. What waits in our own buffers is extended too."""
        self._leases.extend()
        lost = LeaseLost("the lease ran out, or the lane is no longer ours")
        return [
            None if inbound.position in inbound.token.unsettled and inbound.token.lane is inbound.lane else lost
            for inbound in batch
        ]

    # -------------------------------------------------------------------------------------------------- balancing

    @property
    def lanes(self) -> int:
        """See :class:`anybroker.adapter.BalancesLanes`."""
        return len(self._consumers)

    async def members(self) -> int:
        """See :meth:`anybroker.adapter.BalancesLanes.members`. Never more than there are, and for a moment perhaps
        fewer."""
        return await self._balance.members()

    async def give_back(self, lane: Lane, /) -> None:
        """See :meth:`anybroker.adapter.Receiver.give_back`."""
        consumer = next((each for each in self._consumers if each.lane is lane), None)
        if consumer is not None and not self._member.closed and consumer.handing_over is None:
            await self._giving_back.leave(consumer)

    # ------------------------------------------------------------------------------------------------- connection

    def lost(self) -> None:
        """Watcher: nats-py connects again; what is unacknowledged stays ours for the lease."""
        for consumer in self._consumers:
            unknown = consumer.ordered and consumer.lane is not None and not consumer.pin
            consumer.unpin_first = consumer.unpin_first or unknown
            consumer.unsync()
            consumer.doubt_pin()
        self._member.answers.give_up()

    def back(self) -> None:
        """Watcher: acknowledgements may have been lost on the way, so they go again before anything else. Each lane's
        pin is checked before anything of it is extended or started."""
        for consumer in self._consumers:
            self._member.acknowledge_again(consumer)
        self._leases.extend()
        for consumer in self._consumers:
            consumer.unsync()
            consumer.retry_at = 0.0
        self._wake()

    def refused(self, refusal: Refusal) -> None:
        """Watcher: without pulls this receiver has nothing to do; without acknowledgements everything comes again."""
        if not refusal.publishing:
            return
        stream = self._member.stream
        pulls = {f"$js.api.consumer.msg.next.{stream}.{consumer.name}" for consumer in self._consumers}
        if refusal.subject in pulls:
            self._member.fail(Unavailable(f"NATS does not let this user consume: {refusal.text}"))
        elif refusal.subject.startswith("$js.ack.") and f".{stream}." in refusal.subject:
            self._settling.refuse(f"NATS does not let this user acknowledge, so events come again: {refusal.text}")

    def gone(self) -> None:
        """Watcher: nats-py does not connect again."""
        self._member.fail(Unavailable("the connection to NATS is closed"))

    # -------------------------------------------------------------------------------------------------------- end

    async def stop(self) -> None:
        """See :meth:`anybroker.adapter.Receiver.stop`. Unordered, what the core does not have goes back at once."""
        member = self._member
        if member.stopped:
            return
        member.stopped = True
        self._wake()
        await self._unlisten(self._deliveries)  # what was on its way is in the buffers now
        if not self.spec.ordered:
            (consumer,) = self._consumers
            member.answer(consumer.drop_buffer(), NAK)

    async def _unlisten(self, subscription: Subscription | None) -> None:
        """Close one of the inboxes, so that the server sends nothing more there. Also flushes what was written."""
        member = self._member
        if subscription is not None:
            try:
                await member.client.unlisten(subscription, member.link.timeout)
            except CLIENT_ERRORS as exc:
                member.fail(Unavailable(f"the connection to NATS was lost while leaving: {said(exc)}"))

    async def close(self) -> None:
        """See :meth:`anybroker.adapter.Receiver.close`."""
        await self.stop()
        member = self._member
        if member.closed:
            return
        member.closed = True
        member.link.watchers.discard(self)
        self._leases.stop()
        asking = [each.asking for each in self._consumers if each.asking is not None]
        for task in asking:
            task.cancel()
        if asking:
            await asyncio.wait(asking)
        if member.failure is None:
            draining = [each.handing_over for each in self._consumers if each.handing_over is not None]
            if draining:  # the core has forgotten these lanes by now
                await asyncio.wait(draining)
            await asyncio.gather(*(self._giving_back.leave(consumer) for consumer in self._consumers))
        await self._unlisten(member.answers.subscription)
