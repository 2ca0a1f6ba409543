"""Publishing: frames of our own on one confirming channel, no task an event."""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter
from collections.abc import Collection, Sequence
from math import inf
from random import getrandbits
from time import time
from typing import Any, Final, NamedTuple

from aiormq.abc import ChannelFrame
from aiormq.channel import Channel
from aiormq.exceptions import ChannelAccessRefused, PublishError

from anybroker.adapter import SLOTS, Outbound, Receipt, Report, check_size, slot_of, unwritable
from anybroker.errors import BrokerError, ConfigError, EventTooLarge, Rejected, Unavailable
from anybroker.printable import logger

from .failures import closing_reason, lost_before_confirmed, nacked, not_permitted, said, unrouted
from .frames import body_frames, header_frame, publish_frame
from .ladder import Ladder, rung_exchange, rungs_of
from .link import Link
from .names import group_exchange
from .permissions import Permissions
from .topology import is_there
from .wire import Wire

__all__ = ["RabbitmqSender"]

_log = logger("anybroker.rabbitmq")

_SLOT_BITS: Final = SLOTS.bit_length() - 1
_FRAME: Final = 131_072
"""Bytes in a frame, where the broker sets no limit."""
_AROUND: Final = 8
"""Bytes of a frame that are not its payload."""
_CONTENT_HEADER: Final = 14
"""Bytes of a content header before the properties, which all travel in one frame with it."""
_WRITE: Final = 65_536
"""Bytes that are written before the socket has to take them: the high-water mark of asyncio's transports."""


class _Confirmation:
    """What aiormq calls when the broker has answered, instead of a future of its own: one future less an event."""

    __slots__ = ("message_id", "outbound", "report", "sender")

    def __init__(self, sender: RabbitmqSender, message_id: str, outbound: Outbound, report: Report) -> None:
        self.sender = sender
        self.message_id = message_id
        self.outbound = outbound
        self.report = report

    def done(self) -> bool:
        return False

    def set_result(self, frame: object) -> None:
        self.end(Receipt(self.outbound.topic, self.message_id))

    def set_exception(self, exc: BaseException) -> None:
        topic, group = self.outbound.topic, self.outbound.group
        if not isinstance(exc, PublishError):
            self.end(nacked(topic, exc))
        elif getattr(exc.frame, "exchange", "") == topic not in self.sender.with_groups:
            self.set_result(None)  # returned by the topic itself, which has no group: nobody waits for it
        else:
            self.sender.forget(topic, group)
            self.end(unrouted(topic, group, exc))

    def end(self, result: Receipt | BrokerError) -> None:
        self.sender.ended(self.message_id)
        self.report(self.outbound, result)


class _Message(NamedTuple):
    """A message with its id."""

    flags: int
    properties: bytes
    body: bytes
    size: int
    refused: EventTooLarge | None
    """Why it is not sent."""

    def excess(self) -> tuple[int, int]:
        """By how much it is too large, and its size."""
        return 0 if self.refused is None else self.refused.size - self.refused.limit, self.size


class _Route:
    """An exchange, with the frame that begins each publish to it; there are only 64 slots."""

    __slots__ = ("exchange", "frames", "sent")

    def __init__(self, exchange: str) -> None:
        self.exchange = exchange
        self.frames: dict[int, bytes] = {}
        self.sent = 0


class RabbitmqSender:
    """See :class:`anybroker.adapter.Sender`. The routing key is the slot of the event's key, or a random one without.

    Instead of one ``basic_publish`` an event, each a task that waits, it uses the parts of aiormq's channel that this
    method is made of, all public: ``write_queue``, ``delivery_tag``, ``confirmations``, ``message_id_delivery_tag``.
    If a release of aiormq is without them, publishing fails at the first event, not silently.
    """

    def __init__(
        self,
        link: Link,
        control: Link,
        wire: Wire,
        with_groups: Collection[str],
        *,
        limit: int,
        makes_rungs: bool,
    ) -> None:
        self._link = link
        self._control = control
        self._wire = wire
        self.with_groups = with_groups
        self._limit = limit
        self._ladder = Ladder(control, makes_rungs=makes_rungs)
        self._permissions = Permissions(link)
        self._channel: Channel | None = None
        self._prefix = ""
        self._routes: dict[tuple[str, str | None], _Route] = {}
        self._frame = 0
        self._unwritten = 0
        self._idle: asyncio.Future[None] | None = None
        self._closed = False

    @property
    def hindrance(self) -> str | None:
        """See :class:`anybroker.adapter.TellsHindrance`."""
        return self._link.hindrance

    # ----------------------------------------------------------------------------------------------- connection

    async def open(self) -> Channel:
        """The channel, opened anew if the last one is closed. Raises ``Unavailable``."""
        channel = self._channel
        if channel is None or channel.is_closed:
            if channel is not None:
                self._lost(channel, closing_reason(channel.closing))
            channel = self._channel = await self._link.channel(confirms=True)
            self._prefix = f"{secrets.token_hex(6)}-"
            self._frame = (channel.connection.connection_tune.frame_max or _FRAME) - _AROUND
            self._unwritten = 0
            self._routes.clear()  # their frames name the channel, and an exchange may be gone
            self._ladder.forget()  # so may its queues
            opened = channel
            channel.closing.add_done_callback(lambda closing: self._lost(opened, closing_reason(closing)))
        return channel

    def _lost(self, channel: Channel, reason: BaseException | None) -> None:
        """The channel is closed: what waits for a confirmation may be stored, or not."""
        confirmations: list[Any] = list(channel.confirmations.values())
        waiting = [each for each in confirmations if isinstance(each, _Confirmation)]
        channel.confirmations.clear()
        refused = self._refused(waiting, reason) if isinstance(reason, ChannelAccessRefused) else ()
        for confirmation in waiting:
            topic, group = confirmation.outbound.topic, confirmation.outbound.group
            if reason is not None and (topic, group) in refused:
                confirmation.end(not_permitted(topic, group, reason))
            else:
                confirmation.end(lost_before_confirmed(topic, reason))

    def _refused(
        self, waiting: Sequence[_Confirmation], reason: ChannelAccessRefused
    ) -> Collection[tuple[str, str | None]]:
        """Where this user may not publish: no event to these places is stored, as none has had an answer."""
        self._permissions.wanted = True
        _log.warning("RabbitMQ refuses events: %s", said(reason))
        counts = Counter((each.outbound.topic, each.outbound.group) for each in waiting)
        return [
            place
            for place, count in counts.items()
            if (route := self._routes.get(place)) is not None
            and route.sent == count
            and f"exchange '{route.exchange}'" in said(reason)
        ]

    def ended(self, message_id: str) -> None:
        """A publish has its answer."""
        channel = self._channel
        if channel is not None:
            channel.message_id_delivery_tag.pop(message_id, None)
            if self._idle is not None and not channel.message_id_delivery_tag and not self._idle.done():
                self._idle.set_result(None)

    def forget(self, topic: str, group: str | None) -> None:
        """Something on the way there was deleted: look again before the next publish, and make the ladder again."""
        self._routes.pop((topic, group), None)
        self._ladder.forget()

    # --------------------------------------------------------------------------------------------------- submit

    async def submit(self, batch: Sequence[Outbound], report: Report, /) -> None:
        """See :meth:`anybroker.adapter.Sender.submit`."""
        if self._closed:
            raise Unavailable("the RabbitMQ sender is closed")
        if self._link.hindrance is not None:
            raise Unavailable(self._link.hindrance)
        channel = await self.open()
        routes = self._routes
        now = time()
        ready: list[tuple[Outbound, _Route, int]] = []
        for outbound in batch:
            route = routes.get((outbound.topic, outbound.group))
            seconds = 0 if outbound.not_before is None else int(outbound.not_before - now)
            if route is None or (seconds > 0 and not self._ladder.reaches(route.exchange, seconds)):
                try:
                    route = await self._prepare(outbound.topic, outbound.group, seconds)
                except (Rejected, ConfigError) as exc:
                    error = Rejected(str(exc))
                    error.__cause__ = exc.__cause__
                    report(outbound, error)
                    continue
            ready.append((outbound, route, seconds))
        parts: list[bytes] = []
        size = 0
        first = channel.delivery_tag + 1
        for outbound, route, seconds in ready:
            size += self._add(parts, channel, route, outbound, report, seconds)
            if size >= _WRITE:
                await self._write(channel, parts, size, first)
                parts, size, first = [], 0, channel.delivery_tag + 1
        if parts:
            await self._write(channel, parts, size, first)

    async def _prepare(self, topic: str, group: str | None, seconds: int) -> _Route:
        """Check that the exchange exists: publishing to one that does not closes the channel, and the outcome of all
        that is under way on it would be unknown. For a delay, prepare the ladder."""
        route = self._routes.get((topic, group))
        if route is None:
            exchange = topic if group is None else group_exchange(topic, group)
            if not await is_there(self._control, "exchange", exchange):
                raise Rejected(f"RabbitMQ has no exchange {exchange!r}. Declare the topic and its groups first")
            if self._permissions.wanted:
                await self._permissions.check(exchange, topic, group)
            route = self._routes[topic, group] = _Route(exchange)
        if seconds > 0:
            try:
                await self._ladder.prepare(route.exchange, seconds)
            except ConfigError:
                self.forget(topic, group)  # it may have been deleted
                raise
        return route

    def _add(
        self, parts: list[bytes], channel: Channel, route: _Route, outbound: Outbound, report: Report, seconds: int
    ) -> int:
        """Add the frames of one event, which waits for its confirmation from now on; returns their bytes, about."""
        key = outbound.key
        tag = channel.delivery_tag + 1
        message_id = f"{self._prefix}{tag}"
        try:
            message = self._message(outbound, message_id)
            if outbound.may_change_mode and (message.refused is not None or message.size > self._limit):
                message = min(message, self._message(outbound, message_id, other=True), key=_Message.excess)
            slot = getrandbits(_SLOT_BITS) if key is None else slot_of(key)
        except Exception as exc:  # noqa: BLE001 - raised, it would leave what was counted before it unwritten
            report(outbound, unwritable(outbound, exc, "message"))
            return 0
        if message.refused is not None:
            report(outbound, message.refused)
            return 0
        body, properties = message.body, message.properties
        number = channel.number
        if seconds > 0:
            rung, way = rungs_of(seconds)
            begin = publish_frame(number, rung_exchange(rung), f"{way}{route.exchange}.{slot}")
        else:
            begin = route.frames.get(slot) or route.frames.setdefault(
                slot, publish_frame(number, route.exchange, str(slot))
            )
        channel.delivery_tag = tag
        route.sent += 1
        confirmation: Any = _Confirmation(self, message_id, outbound, report)
        channel.confirmations[tag] = confirmation
        channel.message_id_delivery_tag[message_id] = tag
        parts += (begin, header_frame(number, len(body), message.flags, properties))
        if body:
            parts += body_frames(number, body, self._frame)
        return len(begin) + message.size

    def _message(self, outbound: Outbound, message_id: str, other: bool = False) -> _Message:
        """``other``: in the content mode that is not set."""
        flags, properties, body = self._wire.write(outbound, message_id, other)
        size = len(properties) + len(body)
        # What RabbitMQ has stored once may be over our limit, which it does not tell; its own counts the body alone.
        refused = check_size(outbound, size, self._limit, inf) or check_size(
            outbound, len(properties) + _CONTENT_HEADER, self._frame
        )
        return _Message(flags, properties, body, size, refused)

    async def _write(self, channel: Channel, parts: list[bytes], size: int, first: int) -> None:
        """Hand the frames to aiormq's writer; wait where the socket takes no more. ``first``: the first tag in them."""
        if channel.is_closed:
            for tag in range(first, channel.delivery_tag + 1):
                channel.confirmations.pop(tag, None)  # not written, so not stored
        else:
            self._unwritten += size
            drained = channel.create_future() if self._unwritten >= _WRITE else None
            await channel.write_queue.put(ChannelFrame(b"".join(parts), should_close=False, drain_future=drained))
            if drained is not None:
                self._unwritten = 0
                await asyncio.wait({drained})
        if channel.is_closed:
            reason = closing_reason(channel.closing)
            self._lost(channel, reason)  # now, or what is raised here would count for what was written, too
            raise Unavailable(f"the channel to RabbitMQ was lost ({said(reason)})") from reason

    # ---------------------------------------------------------------------------------------------------- close

    async def close(self) -> None:
        """See :meth:`anybroker.adapter.Sender.close`."""
        if self._closed:
            return
        self._closed = True
        channel = self._channel
        try:
            if channel is not None and not channel.is_closed and channel.message_id_delivery_tag:
                self._idle = asyncio.get_running_loop().create_future()
                await self._idle
        finally:
            if channel is not None:
                self._lost(channel, None)
            await self._link.close()
