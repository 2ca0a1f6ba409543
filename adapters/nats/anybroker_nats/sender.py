"""Publishing: commands of our own on the client's connection, and one inbox for all confirmations; no task an event."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from random import getrandbits
from time import time
from typing import Final, NamedTuple

from nats.aio.subscription import Subscription

from anybroker.adapter import SLOTS, Outbound, Receipt, Report, check_size, slot_of, unwritable
from anybroker.errors import BrokerError, EventTooLarge, PublishOutcomeUnknown, Rejected, Unavailable

from .client import RawClient
from .failures import CLIENT_ERRORS, ApiError, publish_failure, said, unconfirmed
from .link import Link
from .names import inlet, schedule_subject
from .refusals import Refusal
from .streams import Streams
from .wire import Wire

__all__ = ["NatsSender"]

_SLOT_BITS: Final = SLOTS.bit_length() - 1
_WINDOW: Final = 4096
"""Events that wait for a confirmation at once; a stream refuses what is over its own queue of 10,000."""
_BUFFER: Final = 8 * 1024 * 1024
"""Bytes that wait for the socket before more is handed over."""
_HEADERS: Final = 65_535
"""Bytes of headers that JetStream takes."""
_WRITE: Final = 65_536
"""Bytes that are handed to the client together."""
_SLOW: Final = 0.25
"""Seconds without a confirmation after which the stream is asked whether it has a leader, and another one."""
_ACK: Final = re.compile(
    rb'\{"stream":"([^"]+)",\s*(?:"domain":"[^"]*",\s*)?"seq":(\d+)(,\s*"duplicate":\s*true)?\}'
).fullmatch


class _Waiting(NamedTuple):
    """An event that was written and is not confirmed."""

    outbound: Outbound
    report: Report
    slot: int
    """-1: it is delayed, and has a subject of its own."""
    since: float
    """By the loop's clock."""


class NatsSender:
    """See :class:`anybroker.adapter.Sender`. The last token of the subject is the slot of the event's key, or a random
    one without a key."""

    def __init__(self, link: Link, wire: Wire, schedules: bool, patience: float = 10.0, key: bytes = b"") -> None:
        """``patience``: seconds after which a confirmation is no longer waited for. ``key``: of the ids by which the
        server drops copies."""
        self._link = link
        self._key = key
        self._wire = wire
        self._schedules = schedules
        self._client: RawClient | None = None
        self._inbox: Subscription | None = None
        self._prefix = b""
        self._waiting: dict[int, _Waiting] = {}
        """By the number of the confirmation, which is the last token of its subject."""
        self._last = 0
        self._streams = Streams(link)
        self._known_streams = self._streams.known
        self._routes: dict[tuple[str, str | None], list[bytes]] = {}
        self._room: asyncio.Future[None] | None = None
        """What ``submit`` waits for while the window is full."""
        self._idle: asyncio.Future[None] | None = None
        """What ``close`` waits for."""
        self._closed = False
        self._patience = patience
        self._timer: asyncio.TimerHandle | None = None
        self._checking: asyncio.Task[None] | None = None
        link.watchers.add(self)

    async def open(self) -> RawClient:
        """The client, with our inbox on it. Raises ``Unavailable``."""
        client = await self._link.client()
        if client is not self._client:
            inbox = client.new_inbox()
            try:
                self._inbox = await client.listen(f"{inbox}.*", self._confirmed)
            except CLIENT_ERRORS as exc:
                raise Unavailable(f"no inbox can be opened on NATS: {said(exc)}") from exc
            self._client = client
            self._prefix = f"{inbox}.".encode()
            self._routes.clear()  # their commands name the inbox
        return client

    @property
    def hindrance(self) -> str | None:
        """See :class:`anybroker.adapter.TellsHindrance`."""
        return self._link.hindrance

    # ----------------------------------------------------------------------------------------------- connection

    def lost(self) -> None:
        """Watcher: everything that waits for a confirmation may be stored, or not."""
        waiting, self._waiting = self._waiting, {}
        for each in waiting.values():
            each.report(each.outbound, unconfirmed(each.outbound, "the connection to NATS was lost"))
        self._made_room()

    def back(self) -> None:
        """Watcher: the inbox exists again."""

    def gone(self) -> None:
        """Watcher: as after a loss; the next submit takes the next client."""
        self.lost()

    def refused(self, refusal: Refusal) -> None:
        """Watcher: the first event that waits under this subject is not stored."""
        if not refusal.publishing:
            return
        for number, each in self._waiting.items():
            if self._subject(each).lower() == refusal.subject:
                del self._waiting[number]
                topic = each.outbound.topic
                each.report(
                    each.outbound,
                    Rejected(
                        f"NATS does not let this user publish to topic {topic!r}: {refusal.text}. Give it the "
                        f"permission to publish to {topic}.>"
                    ),
                )
                self._made_room()
                return

    def _subject(self, each: _Waiting) -> str:
        outbound = each.outbound
        if each.slot < 0:
            return f"{schedule_subject(outbound.topic)}.{outbound.deduplication_id(self._key)}"
        return f"{outbound.topic if outbound.group is None else inlet(outbound.topic, outbound.group)}.{each.slot}"

    # -------------------------------------------------------------------------------------------- confirmations

    def _confirmed(self, subject: bytes, reply: bytes, data: bytes, headers: bytes | None) -> None:
        """JetStream's answer to one publish."""
        waiting = self._waiting.pop(int(subject[len(self._prefix) :]), None)
        if waiting is None:
            return  # a connection was lost in between
        outbound, report, _, _ = waiting
        topic = outbound.topic
        ack = _ACK(data)
        if ack is not None:
            name, sequence, duplicate = ack.groups()
            report(outbound, Receipt(topic, f"{name.decode()}/{int(sequence)}", duplicate=duplicate is not None))
            if (stream := self._known_streams.get(topic)) is not None and stream.warned_of:
                self._streams.confirms_again(topic)
        elif headers is not None and headers.startswith(b"NATS/1.0 503"):
            self._known_streams.pop(topic, None)  # looked for again before the next event
            report(
                outbound,
                Unavailable(
                    f"no stream takes an event for topic {topic!r} now (no responders): its stream has no leader, or "
                    "was deleted"
                ),
            )
        else:
            report(outbound, _result(topic, data))
        if self._room is not None or self._idle is not None:
            self._made_room()

    def _made_room(self) -> None:
        """Fewer events wait for a confirmation."""
        for future in (self._room, self._idle):
            if future is not None and not future.done() and (future is self._room or not self._waiting):
                future.set_result(None)

    def _set_timer(self) -> None:
        if self._waiting and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(min(_SLOW, self._patience), self._sweep)

    def _sweep(self) -> None:
        """Find out what delays confirmations, and give up those that will hardly come: they would take up the window
        for ever."""
        self._timer = None
        now = asyncio.get_running_loop().time()
        self._give_up([number for number, each in self._waiting.items() if now - each.since >= self._patience])
        slow = {each.outbound.topic for each in self._waiting.values() if now - each.since >= _SLOW}
        if slow and self._checking is None:
            self._checking = asyncio.create_task(self._check(slow), name="anybroker NATS leaders")
        self._set_timer()

    async def _check(self, topics: Iterable[str]) -> None:
        """Ask the streams of these topics why they do not confirm."""
        try:
            await asyncio.gather(*(self._check_stream(topic) for topic in topics))
        finally:
            self._checking = None

    async def _check_stream(self, topic: str) -> None:
        if lost_up_to := await self._streams.check(topic, self._last):
            waiting = self._waiting.items()
            self._give_up([number for number, each in waiting if number <= lost_up_to and each.outbound.topic == topic])
        if any(each.outbound.topic == topic for each in self._waiting.values()):
            self._streams.warn(topic)

    def _give_up(self, numbers: Sequence[int]) -> None:
        now = asyncio.get_running_loop().time()
        for outbound, report, _, since in [self._waiting.pop(number) for number in numbers]:
            reason = self._streams.reason(outbound.topic)
            why = f"NATS gave no answer in {now - since:.1f} s" + (f" ({reason})" if reason else "")
            report(outbound, unconfirmed(outbound, why))
        if numbers:
            self._made_room()

    # --------------------------------------------------------------------------------------------------- submit

    async def submit(self, batch: Sequence[Outbound], report: Report, /) -> None:
        """See :meth:`anybroker.adapter.Sender.submit`."""
        if self._closed:
            raise Unavailable("the NATS sender is closed")
        client = await self.open()
        refusing: dict[str, BrokerError] = {}
        if new := [topic for topic in {outbound.topic for outbound in batch} if topic not in self._known_streams]:
            errors = await asyncio.gather(*(self._streams.find(topic) for topic in new))
            refusing = {topic: error for topic, error in zip(new, errors, strict=True) if error is not None}
        parts: list[bytes] = []
        size = 0
        first = self._last + 1
        now, since = time(), asyncio.get_running_loop().time()
        limit = client.max_payload
        for outbound in batch:
            if outbound.topic in refusing:
                report(outbound, refusing[outbound.topic])
                continue
            while len(self._waiting) >= _WINDOW or (self._waiting and client.pending_data_size > _BUFFER):
                self._write(client, parts, first)
                parts, size, first = [], 0, self._last + 1
                await self._wait_for_room(client)
            size += self._add(parts, outbound, report, now, since, limit)
            if size >= _WRITE:
                self._write(client, parts, first)
                parts, size, first = [], 0, self._last + 1
        self._write(client, parts, first)
        self._set_timer()

    async def _wait_for_room(self, client: RawClient) -> None:
        self._set_timer()
        self._room = asyncio.get_running_loop().create_future()
        await self._room
        self._room = None
        if not client.is_connected:
            self.lost()  # the exception is only for what was not handed over yet
            raise Unavailable("the connection to NATS was lost")

    def _write(self, client: RawClient, parts: list[bytes], first: int) -> None:
        """``first``: the first number of a confirmation that belongs to these commands."""
        if parts and not client.write(b"".join(parts)):
            for number in range(first, self._last + 1):
                self._waiting.pop(number, None)  # not written, so not stored
            self.lost()
            raise Unavailable("the connection to NATS was lost")

    def _add(self, parts: list[bytes], outbound: Outbound, report: Report, now: float, since: float, limit: int) -> int:
        """Add the command of one event, which from now on waits for its confirmation. Returns its bytes, about."""
        try:
            key = outbound.key
            slot = getrandbits(_SLOT_BITS) if key is None else slot_of(key)
            copy_id = outbound.deduplication_id(self._key)
            control = f"Nats-Msg-Id: {copy_id}\r\n"
            route = self._routes.get((outbound.topic, outbound.group)) or self._route(outbound.topic, outbound.group)
            command = route[slot]
            if outbound.not_before is not None and outbound.not_before > now and self._schedules:
                slot = -1
                control += _schedule(outbound.not_before, target=command.split(b" ")[1].decode())
                command = f"HPUB {schedule_subject(outbound.topic)}.{copy_id} ".encode() + self._prefix
            headers, body, refused = self._written(outbound, control, limit)
            if refused is not None and outbound.may_change_mode:
                other = self._written(outbound, control, limit, other=True)
                if other[2] is None or other[2].size - other[2].limit < refused.size - refused.limit:
                    headers, body, refused = other
        except Exception as exc:  # noqa: BLE001 - it is this event's, and must not keep others of the batch unwritten
            report(outbound, unwritable(outbound, exc, "message"))
            return 0
        if refused is not None:
            report(outbound, refused)
            return 0
        size = len(headers) + len(body)
        self._last = number = self._last + 1
        self._waiting[number] = _Waiting(outbound, report, slot, since)
        if headers:
            parts += (b"%b%d %d %d\r\n" % (command, number, len(headers), size), headers, body, b"\r\n")
        else:  # PUB instead of HPUB
            parts += (b"%b%d %d\r\n" % (command[1:], number, size), body, b"\r\n")
        return size

    def _written(
        self, outbound: Outbound, control: str, limit: int, other: bool = False
    ) -> tuple[bytes, bytes, EventTooLarge | None]:
        """Headers, body, and why they are too large, or None."""
        headers, body = self._wire.write(outbound, control, other)
        size = len(headers)
        return headers, body, check_size(outbound, size + len(body), limit) or check_size(outbound, size, _HEADERS)

    def _route(self, topic: str, group: str | None) -> list[bytes]:
        """How the command of a publish begins, for each slot."""
        subject = topic if group is None else inlet(topic, group)
        route = [f"HPUB {subject}.{slot} ".encode() + self._prefix for slot in range(SLOTS)]
        self._routes[topic, group] = route
        return route

    # ---------------------------------------------------------------------------------------------------- close

    async def close(self) -> None:
        """See :meth:`anybroker.adapter.Sender.close`."""
        if self._closed:
            return
        self._closed = True
        try:
            if self._waiting:
                self._idle = asyncio.get_running_loop().create_future()
                await self._idle
        finally:
            self._link.watchers.discard(self)
            if self._timer is not None:
                self._timer.cancel()
            if self._checking is not None:
                self._checking.cancel()
            self.lost()


def _schedule(moment: float, target: str) -> str:
    """The lines that have the server hold a message until ``moment``, in seconds since the epoch, and then store it
    under ``target``. Raises ValueError for a moment that is too far away."""
    try:
        text = datetime.fromtimestamp(moment, UTC).isoformat(timespec="microseconds")[:-6]
    except (ValueError, OverflowError, OSError) as exc:
        raise ValueError(f"it is delayed for too long: {exc}") from exc
    # It must not become too old for the stream before its time has come.
    return f"Nats-TTL: never\r\nNats-Schedule: @at {text}Z\r\nNats-Schedule-Target: {target}\r\n"


def _result(topic: str, data: bytes) -> Receipt | BrokerError:
    """What an answer says that is not the usual one."""
    try:
        answer = json.loads(data)
        error = answer.get("error")
        if not error:
            return Receipt(topic, f"{answer['stream']}/{answer['seq']}", duplicate=bool(answer.get("duplicate")))
        return publish_failure(topic, ApiError(error))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as exc:
        unknown = PublishOutcomeUnknown(f"NATS answered an event for topic {topic!r} with something else")
        unknown.__cause__ = exc
        return unknown
