"""A member of a group: one pull at a time for each lane, all of them answered into one inbox."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Collection, Iterator, Sequence
from typing import Any, Final

from nats.aio.subscription import Subscription

from anybroker.adapter import Ack, Inbound, Lane, LaneListener, Release, Settlement, SubscriptionSpec
from anybroker.errors import AnybrokerError, BrokerError, ConfigError, LeaseLost, Unavailable
from anybroker.printable import logger

from .answers import Answers
from .client import RawClient
from .consumer import ACK, NAK, PATIENCE, PROGRESS, Arrived, Consumer
from .failures import CLIENT_ERRORS, FORBIDDEN, ApiError, Refusal, nats_errors, said
from .link import Link
from .names import PRIORITY_GROUP, consumer_name, note_subject, stream_name
from .notes import note, read_notes
from .presence import Presence
from .topology import ack_wait, lease_of, nanoseconds
from .wire import Wire

__all__ = ["NatsReceiver"]

_log = logger("anybroker.nats")

_PULL: Final = 5.0
"""Seconds that a pull waits at most; less where the lease is short, because each one keeps the pin."""
_AGAIN: Final = 0.2
"""Seconds until what the server could not answer, or what was not complete, is looked at again."""
_CLAIM: Final = 1.0
"""Seconds between two looks at whether this is the only member, while some lane has nothing to tell by whose it is."""
_FREE: Final = 0.5
"""Seconds between two looks at whose a lane is that no member has at the moment."""
_QUIET: Final = 5.0
"""Seconds beyond a pull's end for which a lane with waiting messages may deliver none: then this member starts anew."""
_TELL: Final = 60.0
"""Seconds between two warnings about a lane that waits for another member."""
_MEMBERS: Final = b"members"
"""Where a lane's number stands otherwise: the end of the pull by which members are counted."""
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
        wire: Wire,
        spec: SubscriptionSpec,
        listener: LaneListener,
        epochs: Iterator[int],
        lanes: int,
        lease: float,
        confirm_acks: bool,
    ) -> None:
        self.spec = spec
        self._link = link
        self._read = wire.read
        self._listener = listener
        self._epochs = epochs
        self._lease = lease
        self._wait = ack_wait(lease, spec.ordered)
        self._expires = _expires(lease, spec.ordered)
        self._confirm_acks = confirm_acks
        self._stream = stream_name(spec.topic)
        numbers: list[int | None] = list(range(lanes)) if lanes else [None]
        self._consumers = [
            Consumer(index, consumer_name(spec.group, number), number is not None)
            for index, number in enumerate(numbers)
        ]
        self._by_name = {consumer.name.encode(): consumer for consumer in self._consumers}
        self._batch = max(1, spec.prefetch // len(self._consumers))
        self._client: RawClient | None = None
        self._deliveries: Subscription | None = None
        self._answers: Answers | None = None
        self._presence: Presence | None = None
        self._prefix = b""
        self._turn = 0
        self._timer: asyncio.TimerHandle | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._failure: BrokerError | None = None
        self._mute: str | None = None
        """Why acknowledgements do not count: the user may not publish them."""
        self._stopped = False
        self._closed = False

    async def start(self) -> None:
        """Open the inbox. The first ``receive`` pulls."""
        client = await self._link.client()
        inbox = client.new_inbox()
        with nats_errors(f"joining the group {self.spec.group!r} of {self.spec.topic!r}"):
            answers = Answers(client, inbox, self._link.timeout)
            await answers.listen()
            self._deliveries = await client.listen(f"{inbox}.d.>", self._arrived)
        self._client, self._answers = client, answers
        self._prefix = f"{inbox}.".encode()
        self._link.watchers.add(self)
        now = asyncio.get_running_loop().time()
        for consumer in self._consumers:
            consumer.extended = now
        self._rearm()
        if self.spec.ordered:
            self._presence = Presence(
                self._link, client, self.spec.topic, self.spec.group, self._prefix + b"d." + _MEMBERS
            )
            await self._presence.join()
        else:
            self._assign(self._consumers[0])

    def _write(self, commands: bytes) -> bool:
        return self._client is not None and bool(commands) and self._client.write(commands)

    def _ask(self, consumer: Consumer, body: bytes, suffix: bytes) -> bytes:
        return b"PUB $JS.API.CONSUMER.MSG.NEXT.%b.%b %bd.%d.%d%b %d\r\n%b\r\n" % (
            self._stream.encode(),
            consumer.name.encode(),
            self._prefix,
            consumer.index,
            consumer.generation,
            suffix,
            len(body),
            body,
        )

    # -------------------------------------------------------------------------------------------------- arriving

    def _arrived(self, subject: bytes, reply: bytes, data: bytes, headers: bytes | None) -> None:
        """A delivery, under the subject that it was published to, or the end of a pull, under the inbox's."""
        if reply:
            fields = reply.split(b".")
            at = 4 if len(fields) == 9 else 6
            consumer = self._by_name[fields[at - 1]]
            item = Arrived(int(fields[at]), subject, reply, data, headers)
            if answer := consumer.arrived(item, int(fields[at + 1])):
                self._write(answer)
        elif headers is not None:
            where, *rest = subject[len(self._prefix) + 2 :].split(b".")
            if where == _MEMBERS:
                if self._presence is not None:
                    self._presence.ended(headers[9:])
                return
            generation, *touched = rest
            consumer = self._consumers[int(where)]
            if int(generation) == consumer.generation:
                self._status(consumer, headers, bool(touched))
        self._wake()

    def _status(self, consumer: Consumer, headers: bytes, touched: bool) -> None:
        code, _, text = headers[9:].partition(b"\r\n")[0].partition(b" ")
        if code == b"423":
            self._lose_pin(consumer)
        elif touched:
            pass  # the answer that no message fits
        elif code == b"503":
            consumer.outstanding = 0
            consumer.retry_at = asyncio.get_running_loop().time() + _AGAIN
            consumer.doubted = True
        elif code in (b"408", b"404", b"409"):
            consumer.outstanding = 0
            if b"Leadership" in text:  # the new leader's word: the old one may have kept what we told it to itself
                self._acknowledge_again(consumer)
                if consumer.looking is not None:
                    consumer.looking.cancel()  # nobody answers what was asked before
            if b"Exceeded" in text or b"Deleted" in text or b"Shutdown" in text or b"Leadership" in text:
                consumer.retry_at = asyncio.get_running_loop().time() + _AGAIN
                consumer.doubted = True
        else:
            self._fail(Unavailable(f"NATS refuses to deliver from {consumer.name!r}: {headers[9:].decode().strip()}"))

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    # ------------------------------------------------------------------------------------------------- receiving

    async def receive(self, limit: int, /, *, lanes: Collection[Lane] | None, timeout: float) -> Sequence[Inbound]:
        """See :meth:`anybroker.adapter.Receiver.receive`."""
        loop = asyncio.get_running_loop()
        end = loop.time() + timeout
        while not self._stopped:
            self._look(loop.time())
            if self._failure is not None:
                raise self._failure
            batch = self._take(limit, lanes)
            now = loop.time()
            self._write(b"".join([self._pull(consumer, now, limit) for consumer in self._consumers]))
            if batch:
                return batch
            if now >= end or self._stopped:  # stopped while something was asked of the server
                break
            waiter = self._waiter = loop.create_future()
            timer = loop.call_at(min(end, *(self._due(each, now) for each in self._consumers)), self._wake)
            try:
                await waiter
            finally:
                timer.cancel()
        return ()

    def _look(self, now: float) -> None:
        """Ask what has to be asked, for each lane by itself: one without a leader is not answered, and holds up no
        other. What a lane has waits meanwhile."""
        for consumer in self._consumers:
            looking = consumer.looking
            if looking is not None:
                if not looking.done():
                    continue
                consumer.looking = None
                if not looking.cancelled():
                    looking.result()  # an exception that was not expected is the receiver's
            if not consumer.leaving and self._unsure(consumer, now):
                name = f"anybroker {self.spec.topic}/{consumer.index}: asking"
                consumer.looking = asyncio.create_task(self._prepare(consumer, now), name=name)
                consumer.looking.add_done_callback(self._looked)

    def _looked(self, _: asyncio.Task[None]) -> None:
        self._wake()

    @staticmethod
    def _unsure(consumer: Consumer, now: float) -> bool:
        """Whether :meth:`_prepare` has something to ask."""
        if consumer.doubted and now >= consumer.retry_at:
            return True
        if not consumer.verified and now >= consumer.verify_at:
            return True
        return now >= consumer.sync_at and consumer.waits

    async def _prepare(self, consumer: Consumer, now: float) -> None:
        """What has to be asked of the server before the consumer's messages may go to the core."""
        try:
            if consumer.doubted and now >= consumer.retry_at:
                consumer.doubted = False
                await self._info(consumer)
            if not consumer.verified:
                if now >= consumer.verify_at:
                    await self._verify(consumer)
            elif consumer.pin and not consumer.synced and now >= consumer.sync_at:
                await self._sync(consumer)
            elif consumer.lane is None and not consumer.pin and now >= consumer.sync_at:
                await self._claim(consumer)
            if consumer.synced and consumer.look:
                consumer.starts |= await read_notes(self._link, self.spec.topic, self.spec.group)
                consumer.look = False
        except ApiError as exc:
            what = "shows this user no consumer" if exc.code == FORBIDDEN else "has no consumer"
            error = Unavailable(f"NATS {what} {consumer.name!r} any more: {exc}")
            error.__cause__ = exc
            if exc.code in (404, FORBIDDEN):
                self._fail(error)
            consumer.sync_at = consumer.retry_at = consumer.verify_at = now + _AGAIN
        except (BrokerError, *CLIENT_ERRORS):
            consumer.sync_at = consumer.retry_at = consumer.verify_at = (
                now + _AGAIN
            )  # nats-py is repairing the connection

    async def _info(self, consumer: Consumer) -> dict[str, Any]:
        operation = f"CONSUMER.INFO.{self._stream}.{consumer.name}"
        try:
            info = await self._link.api(operation, timeout=min(consumer.patience, self._link.timeout))
        except TimeoutError:
            consumer.patience *= 2  # no leader, or a slow server
            raise
        consumer.patience = PATIENCE
        lease = lease_of(info)
        if lease < self._lease:  # a member that came later has given the group a shorter one
            self._lease, self._expires = lease, _expires(lease, self.spec.ordered)
            self._wait = ack_wait(lease, self.spec.ordered)
            self._rearm()
        return info

    async def _verify(self, consumer: Consumer) -> None:
        """Ask the server whose the lane is, after what may have cost us the pin."""
        pin = consumer.pin
        info = await self._info(consumer)
        self._acknowledge_again(consumer)  # at the reconnect there was perhaps no leader to take them
        consumer.verify_at = asyncio.get_running_loop().time() + _AGAIN
        if consumer.unpin and not consumer.pin:
            consumer.unpin = False
            if _pinned(
                info
            ):  # another member that has it all the same gives back what it has, and this one waits for it
                await self._unpin(consumer)
                return
        if consumer.pin == pin and not consumer.leaving and not consumer.verified:
            self._compare(consumer, _pinned(info))

    def _compare(self, consumer: Consumer, pinned: bytes) -> None:
        """The server's word whose the lane is, against ours."""
        if pinned and pinned == consumer.pin:
            consumer.verified = True
            self._extend()
        elif pinned and (consumer.pin or pinned == consumer.other_pin):
            # Without a pin of our own: twice. The message that would tell us that it is ours is here by now.
            self._hand_over(consumer)
        elif pinned:
            consumer.free = False
            consumer.other_pin = pinned
        else:  # a server that was started again, a pin that ran out: whose pull is first gets the lane
            if consumer.pin:
                self._lose_pin(consumer)
            consumer.free = True
            consumer.other_pin = b""
            consumer.verified = not consumer.has_out
            consumer.verify_at = asyncio.get_running_loop().time() + _FREE
            self._extend()

    def _lose_pin(self, consumer: Consumer) -> None:
        """Give back what the core has not got: the member that is pinned next, perhaps this one again, waits for it."""
        if consumer.pin:
            consumer.left_pin = consumer.pin  # what is on its way under it goes back, too
        consumer.lose_pin()
        self._write(b"".join([b"PUB " + reply + NAK for reply in consumer.drop_buffer()]))
        consumer.doubt()

    def _hand_over(self, consumer: Consumer) -> None:
        """Another member has the lane, and waits for what we have: give back what is not begun, and end what is."""
        self._lose_pin(consumer)
        if consumer.lane is not None:
            _log.info("%s: the lane has gone to another member", consumer.lane.name)
        self._begin_nothing_more(consumer)

    def _begin_nothing_more(self, consumer: Consumer) -> None:
        """Let the core end what runs of the lane and give the rest back."""
        consumer.buffer.clear()
        if consumer.lane is None:
            consumer.forget()
            return
        consumer.leaving = True
        consumer.handing_over = asyncio.create_task(
            self._drain(consumer, consumer.lane), name=f"anybroker lane {consumer.lane.name}"
        )

    async def _drain(self, consumer: Consumer, lane: Lane) -> None:
        """Until the handlers that run have ended."""
        try:
            await self._listener.revoked([lane])
            if consumer.lane is not lane:
                pass  # its lease has run out meanwhile
            elif consumer.pin and not consumer.verified:  # it may be ours still: the server is asked before it goes on
                self._write(b"".join([b"PUB " + reply + NAK for reply in consumer.out()]))
                consumer.forget()
            else:
                await self._leave(consumer)
        finally:
            consumer.leaving = False
            consumer.handing_over = None
            self._wake()

    async def _sync(self, consumer: Consumer) -> None:
        """Compare with the server: whether we have all that is out. See :class:`Consumer`."""
        pin = consumer.pin
        self._extend()
        info = await self._info(consumer)
        if consumer.pin != pin or consumer.leaving:
            return
        delivered = info["delivered"]
        missing = info["num_ack_pending"] - consumer.ours(delivered["consumer_seq"], delivered["stream_seq"])
        if missing > 0:
            # What was lost with another member comes again when its lease ends, before anything new. What another one
            # is finishing does not come: then this gets one newer message each time, and no more.
            consumer.wanted = missing if consumer.redelivering else 1
            consumer.sync_at = asyncio.get_running_loop().time() + _AGAIN
            return
        consumer.synced = True
        consumer.buffer = dict(sorted(consumer.buffer.items()))
        if consumer.lane is None:
            self._assign(consumer)

    async def _claim(self, consumer: Consumer) -> None:
        """The only member has every lane, also those from which nothing has come: the server tells nobody."""
        waiting = bool(consumer.outstanding)
        info = await self._info(consumer)
        if consumer.pin or consumer.leaving or consumer.lane is not None:
            return
        if info["num_waiting"] <= waiting and not info["num_ack_pending"] and not _pinned(info):
            self._assign(consumer)
        else:
            consumer.sync_at = asyncio.get_running_loop().time() + _CLAIM

    def _assign(self, consumer: Consumer) -> None:
        consumer.lane = Lane(f"{self.spec.topic}/{consumer.index}", next(self._epochs))
        self._listener.assigned(consumer.lane)

    def _take(self, limit: int, lanes: Collection[Lane] | None) -> list[Inbound]:
        """What the buffers have, up to the limit; each call begins with another lane."""
        batch: list[Inbound] = []
        count = len(self._consumers)
        self._turn += 1
        for at in range(count):
            consumer = self._consumers[(self._turn + at) % count]
            buffer, lane = consumer.buffer, consumer.lane
            if not buffer or lane is None or not consumer.synced or consumer.look or consumer.looking is not None:
                continue
            if lanes is not None and lane not in lanes:
                continue
            for sequence in list(buffer)[: limit - len(batch)]:
                item = buffer.pop(sequence)
                consumer.unsettled[sequence] = item.reply
                inbound = self._read(self._client, *item[1:], lane, sequence)
                inbound.token = consumer
                if item.deliveries > 1:
                    inbound.deliveries = item.deliveries
                    inbound.attempts = consumer.starts.pop(sequence, 0)
                batch.append(inbound)
            if len(batch) == limit:
                break
        return batch

    def _pull(self, consumer: Consumer, now: float, limit: int) -> bytes:
        """The command to pull what there is room for, or nothing while the last pull is out."""
        if consumer.outstanding and now > consumer.expires_at:
            consumer.outstanding = 0  # its end was lost
        if consumer.outstanding or consumer.leaving or self._stopped or now < consumer.retry_at:
            return b""
        if consumer.looking is not None or (consumer.pin and not consumer.verified):
            return b""
        batch = self._batch if consumer.ordered else min(self._batch, limit)
        if consumer.synced:
            waiting = len(consumer.buffer)
            batch = batch - waiting if waiting * 2 <= batch else 0
        elif consumer.pin:
            batch, consumer.wanted = consumer.wanted, 0
        if not batch:
            return b""
        consumer.outstanding = batch
        consumer.expires_at = now + self._expires + 1.0
        max_bytes = max(_MAX_BYTES, 2 * self._client.max_payload) if self._client is not None else _MAX_BYTES
        return self._ask(consumer, consumer.request(batch, nanoseconds(self._expires), max_bytes), b"")

    def _due(self, consumer: Consumer, now: float) -> float:
        """When the consumer is to be looked at again without anything having arrived."""
        if consumer.leaving or consumer.looking is not None:
            return math.inf
        due = consumer.expires_at if consumer.outstanding else math.inf
        if not consumer.outstanding and consumer.retry_at > now:
            due = consumer.retry_at
        if not consumer.verified:
            due = min(due, consumer.verify_at)
        elif consumer.waits:
            due = min(due, consumer.sync_at)
        return due

    # -------------------------------------------------------------------------------------------------- settling

    async def settle(self, batch: Sequence[Settlement], /) -> Sequence[BrokerError | None]:
        """See :meth:`anybroker.adapter.Receiver.settle`. None means handed over; with ``confirm_acks``, confirmed."""
        results: list[BrokerError | None] = []
        acks: list[tuple[int, Inbound, bytes]] = []
        naks: list[bytes] = []
        noted: dict[int, int] = {}
        confirm = self._confirm_acks or self._mute is not None
        for at, item in enumerate(batch):
            if not isinstance(item, Ack | Release):
                raise TypeError("NATS settles each message by itself")
            inbound = item.inbound
            consumer: Consumer = inbound.token
            sequence = inbound.position
            reply = consumer.unsettled.get(sequence) if consumer.lane is inbound.lane else None
            if reply is None:
                results.append(LeaseLost(f"a delivery of {inbound.lane.name} is settled, or not ours any more"))
                continue
            results.append(None)
            if isinstance(item, Ack):
                acks.append((at, inbound, reply))
                consumer.remember_ack(sequence, reply)
                if not confirm:
                    del consumer.unsettled[sequence]
                continue
            del consumer.unsettled[sequence]
            if item.attempts:
                noted[sequence] = consumer.starts[sequence] = item.attempts
            if consumer.ordered and consumer.handing_over is None:
                consumer.released[sequence] = reply
            else:
                naks.append(reply)
        if naks:
            await self._note(noted)
        commands = [b"PUB " + reply + NAK for reply in naks]
        if not confirm:
            commands += [b"PUB " + reply + ACK for _, _, reply in acks]
        if commands and not self._write(b"".join(commands)):
            lost = Unavailable("the connection to NATS is lost: what was done is acknowledged when it is back")
            results = [lost if result is None else result for result in results]
        elif confirm and self._answers is not None:
            unanswered = set(await self._answers.ask([(b"PUB " + reply, ACK) for _, _, reply in acks]))
            for number, (at, inbound, _) in enumerate(acks):
                if number in unanswered:  # it stays ours, to be settled again
                    results[at] = Unavailable(self._mute or "NATS did not confirm an acknowledgement in time")
                elif inbound.token.lane is inbound.lane:
                    inbound.token.unsettled.pop(inbound.position, None)
            if acks and not unanswered:
                self._mute = None
        return results

    async def _note(self, starts: dict[int, int]) -> None:
        """Note how often handlers were started, for whoever gets the events; without a note attempts start again."""
        if starts and self._answers is not None:
            subject = note_subject(self.spec.topic, self.spec.group)
            await self._answers.ask([note(subject, sequence, count) for sequence, count in starts.items()])

    # ---------------------------------------------------------------------------------------------------- leases

    async def extend(self, batch: Sequence[Inbound], /) -> Sequence[BrokerError | None]:
        """See :meth:`anybroker.adapter.ExtendsLease.extend`. What waits in our own buffers is extended too."""
        self._extend()
        lost = LeaseLost("the lease ran out, or the lane is not ours any more")
        return [
            None if inbound.position in inbound.token.unsettled and inbound.token.lane is inbound.lane else lost
            for inbound in batch
        ]

    def _tick(self) -> None:
        """Three times an ``ack_wait``: the core extends only what it has, and only while it has something."""
        self._extend()
        self._rearm()

    def _rearm(self) -> None:
        """Set the timer for the next look: a third of the time for which the server waits, and when a lease ends."""
        loop = asyncio.get_running_loop()
        if self._timer is not None:
            self._timer.cancel()
        now = loop.time()
        ends = [each.extended + seconds + 0.01 for each in self._consumers for seconds in (self._wait, self._lease)]
        self._timer = loop.call_at(min(now + self._wait / 3, *(end for end in ends if end > now), math.inf), self._tick)

    def _extend(self) -> None:
        """Extend what is out, of the lanes that are ours; at most six times while the server waits."""
        now = asyncio.get_running_loop().time()
        client = self._client
        if client is None or self._failure is not None:
            return
        for consumer in self._consumers:
            if now - consumer.extended > (self._lease if consumer.ordered else self._wait):
                self._expired(consumer, now)  # without a connection too: nothing of it may begin here any more
            elif consumer.ordered and now - consumer.extended > self._wait and consumer.handing_over is None:
                if client.is_connected and consumer.verified:
                    consumer.doubt()  # this process stood still
                elif consumer.lane is not None or consumer.buffer:
                    # A server that was started again keeps no pins: it may give what we have to another member now.
                    self._begin_nothing_more(consumer)
        if not client.is_connected:
            return
        self._write(b"".join([command for consumer in self._consumers for command in self._renewal(consumer, now)]))

    def _renewal(self, consumer: Consumer, now: float) -> list[bytes]:
        """The commands that extend what is out of a lane, and its pin; none where it is not ours, or too early."""
        if now - consumer.extended <= self._wait / 6 or not consumer.keeps:
            return []
        consumer.extended = now
        commands = [b"PUB " + reply + PROGRESS for reply in consumer.leased()]
        if consumer.pin and consumer.verified and not consumer.leaving:
            commands.append(self._ask(consumer, consumer.touch(), b".t"))
        return commands

    def _expired(self, consumer: Consumer, now: float) -> None:
        """This process, or its connection, stood still for a lease: what it had is with others, or comes again."""
        consumer.extended = now
        if not consumer.has_out and (not consumer.ordered or consumer.lane is None):
            return
        if consumer.lane is not None:
            _log.warning("%s: the lease ran out", consumer.lane.name)
            self._listener.lost([consumer.lane])
        consumer.forget()
        if not consumer.ordered:
            self._assign(consumer)

    # -------------------------------------------------------------------------------------------------- balancing

    @property
    def lanes(self) -> int:
        """See :class:`anybroker.adapter.BalancesLanes`."""
        return len(self._consumers)

    async def members(self) -> int:
        """See :meth:`anybroker.adapter.BalancesLanes.members`. Never more than there are, and for a moment perhaps
        fewer. Looks, too, whether a lane has gone to another member, or stands still."""
        for consumer in self._consumers:
            pin = consumer.pin
            try:
                with nats_errors(f"looking at the lanes of {self.spec.group!r} of {self.spec.topic!r}"):
                    info = await self._info(consumer)
            except AnybrokerError as exc:
                raise (exc if isinstance(exc, BrokerError) else Unavailable(str(exc))) from exc.__cause__
            if consumer.leaving or consumer.pin != pin or self._stopped:
                continue
            if consumer.lane is not None or consumer.has_out:  # also while the core asks for nothing
                pinned = _pinned(info)
                if pinned or consumer.pin:
                    self._compare(consumer, pinned)
            self._watch(consumer, info)
        try:
            return 1 if self._presence is None else await self._presence.count()
        except ConfigError as exc:
            raise Unavailable(str(exc)) from exc.__cause__

    def _watch(self, consumer: Consumer, info: dict[str, Any]) -> None:
        """A lane that has messages and delivers none is not left standing in silence."""
        now = asyncio.get_running_loop().time()
        pinned = _pinned(info)
        moved, consumer.arrivals = consumer.arrivals, 0
        ours = not consumer.ordered or pinned == consumer.pin
        unanswered = consumer.outstanding and info["num_pending"] and not consumer.buffer and not info.get("paused")
        waits = consumer.pin and not consumer.synced
        if moved or not ours or not (unanswered or waits):
            consumer.quiet_since = now
        elif unanswered and not waits and now - consumer.quiet_since > self._expires + _QUIET:
            self._fail(
                Unavailable(
                    f"NATS delivers nothing from {consumer.name!r} though {info['num_pending']} messages wait: "
                    "joining the group again"
                )
            )
        elif waits and now - consumer.quiet_since > self._lease + _QUIET and now - consumer.told_at > _TELL:
            consumer.told_at = now
            _log.warning(
                "%s/%d: the lane waits for what another member has not finished: %d unacknowledged, %d here, %.0f s",
                self.spec.topic,
                consumer.index,
                info["num_ack_pending"],
                len(consumer.buffer) + len(consumer.unsettled),
                now - consumer.quiet_since,
            )

    async def give_back(self, lane: Lane, /) -> None:
        """See :meth:`anybroker.adapter.Receiver.give_back`."""
        consumer = next((each for each in self._consumers if each.lane is lane), None)
        if consumer is not None and not self._closed and consumer.handing_over is None:
            await self._leave(consumer)

    async def _unpin(self, consumer: Consumer) -> None:
        await self._link.api(f"CONSUMER.UNPIN.{self._stream}.{consumer.name}", {"group": PRIORITY_GROUP})

    async def _leave(self, consumer: Consumer) -> None:
        """Let the lane go, then give back what is out, in order. The member that is pinned next waits for all of it."""
        consumer.leaving = True
        try:
            started = {sequence: count for sequence, count in consumer.starts.items() if sequence in consumer.released}
            await self._note(started)
            if consumer.pin and consumer.verified:
                try:
                    await self._unpin(consumer)
                except (BrokerError, ApiError, *CLIENT_ERRORS):
                    pass  # the pin runs out by itself: this member pulls no more with it
            self._write(b"".join([b"PUB " + reply + NAK for reply in consumer.out()]))
            consumer.left_pin = consumer.pin
            consumer.lose_pin()
            consumer.forget()
        finally:
            consumer.leaving = consumer.handing_over is not None
            self._wake()

    # ------------------------------------------------------------------------------------------------------- end

    def lost(self) -> None:
        """Watcher: nats-py connects again; what is out stays ours for the lease."""
        for consumer in self._consumers:
            consumer.unpin = consumer.unpin or (consumer.ordered and consumer.lane is not None and not consumer.pin)
            consumer.unsync()
            consumer.doubt()
        if self._answers is not None:
            self._answers.give_up()

    def back(self) -> None:
        """Watcher: acknowledgements may have been lost on the way, so they go again before anything else. Each lane's
        pin is looked at before anything of it is extended or begun."""
        for consumer in self._consumers:
            self._acknowledge_again(consumer)
        self._extend()
        for consumer in self._consumers:
            consumer.unsync()
            consumer.retry_at = 0.0
        self._wake()

    def _acknowledge_again(self, consumer: Consumer) -> None:
        """Those that were handed over last: where one is lost, the next member of the lane handles its event again."""
        self._write(b"".join([b"PUB " + reply + ACK for reply in consumer.acked.values()]))

    def refused(self, refusal: Refusal) -> None:
        """Watcher: without pulls there is nothing to do here; without acknowledgements everything comes again."""
        if not refusal.publishing:
            return
        pulls = {f"$js.api.consumer.msg.next.{self._stream}.{consumer.name}" for consumer in self._consumers}
        if refusal.subject in pulls:
            self._fail(Unavailable(f"NATS does not let this user consume: {refusal.text}"))
        elif refusal.subject.startswith("$js.ack.") and f".{self._stream}." in refusal.subject:
            self._mute = f"NATS does not let this user acknowledge, so events come again: {refusal.text}"
            if self._answers is not None:
                self._answers.give_up()

    def gone(self) -> None:
        """Watcher: nats-py does not connect again."""
        self._fail(Unavailable("the connection to NATS is closed"))

    def _fail(self, error: BrokerError) -> None:
        """This member is dead: what it has comes again when its lease ends."""
        if self._failure is None and not self._closed:
            self._failure = error
            lanes = [each.lane for each in self._consumers if each.lane is not None]
            if lanes:
                self._listener.lost(lanes)
            if self._answers is not None:
                self._answers.give_up()
            self._wake()

    async def stop(self) -> None:
        """See :meth:`anybroker.adapter.Receiver.stop`. Unordered, what the core has not got goes back at once."""
        if self._stopped:
            return
        self._stopped = True
        self._wake()
        await self._unlisten(self._deliveries)  # what was on its way is in the buffers now
        if not self.spec.ordered:
            (consumer,) = self._consumers
            self._write(b"".join([b"PUB " + item.reply + NAK for item in consumer.buffer.values()]))
            consumer.buffer.clear()

    async def _unlisten(self, subscription: Subscription | None) -> None:
        """End one of the inboxes, and with it what the server would still send there. Also flushes what was written."""
        client = self._client
        if subscription is not None and client is not None:
            try:
                await client.unlisten(subscription, self._link.timeout)
            except CLIENT_ERRORS as exc:
                self._fail(Unavailable(f"the connection to NATS was lost while leaving: {said(exc)}"))

    async def close(self) -> None:
        """See :meth:`anybroker.adapter.Receiver.close`."""
        await self.stop()
        if self._closed:
            return
        self._closed = True
        self._link.watchers.discard(self)
        if self._timer is not None:
            self._timer.cancel()
        looking = [each.looking for each in self._consumers if each.looking is not None]
        for task in looking:
            task.cancel()
        if looking:
            await asyncio.wait(looking)
        if self._failure is None and self._client is not None:
            going = [each.handing_over for each in self._consumers if each.handing_over is not None]
            if going:  # the core has forgotten these lanes by now
                await asyncio.wait(going)
            await asyncio.gather(*(self._leave(consumer) for consumer in self._consumers))
        if self._answers is not None:
            await self._unlisten(self._answers.subscription)


def _expires(lease: float, ordered: bool) -> float:
    """Seconds that a pull waits: so long it may swallow messages after its connection vanished without a word."""
    return min(_PULL, lease / (3 if ordered else 10))


def _pinned(info: dict[str, Any]) -> bytes:
    """The pin of the member that has the lane; empty if none has it."""
    return next((str(each.get("pinned_client_id", "")).encode() for each in info.get("priority_groups", ())), b"")
