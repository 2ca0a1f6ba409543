"""Publishing: commands of our own on the client's connection, and one inbox for all confirmations; no task an event."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from random import getrandbits
from time import time
from typing import Any, Final, NamedTuple

from nats.aio.subscription import Subscription

from anybroker.adapter import SLOTS, Outbound, Receipt, Report, check_size, slot_of
from anybroker.errors import BrokerError, ConfigError, EventTooLarge, PublishOutcomeUnknown, Rejected, Unavailable
from anybroker.printable import logger

from .client import RawClient
from .failures import CLIENT_ERRORS, FORBIDDEN, ApiError, Refusal, nats_errors, publish_failure, said
from .link import Link
from .names import inlet, schedule_subject, stream_name
from .wire import Wire

__all__ = ["NatsSender"]

_log = logger("anybroker.nats")

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
_ASK: Final = 0.5
"""Seconds that it has to answer: meanwhile nothing is handed over."""
_SILENT: Final = 2.0
"""Seconds for which a leader has heard nothing of another server that is not there, then; they speak once a second."""
_NOT_FOUND: Final = 404
_ACK: Final = re.compile(
    rb'\{"stream":"([^"]+)",\s*(?:"domain":"[^"]*",\s*)?"seq":(\d+)(,\s*"duplicate":\s*true)?\}'
).fullmatch


class _Waiting(NamedTuple):
    """An event that was written and is not confirmed."""

    outbound: Outbound
    report: Report
    slot: int
    """-1: it is delayed, and stands under a subject of its own."""
    since: float
    """Of the loop's clock."""


class _Stream:
    """What is known of a topic's stream while it does not confirm."""

    __slots__ = ("before", "leader", "reason", "told")

    def __init__(self, leader: str) -> None:
        self.leader = leader
        self.before = 0
        """Confirmations up to this number were to come from a leader that is none any more."""
        self.reason = ""
        """Why nothing comes, as far as the server says."""
        self.told = ""
        """The reason that the log has; empty while all is well."""


class NatsSender:
    """See :class:`anybroker.adapter.Sender`. The last token of the subject is the slot of the event's key, or a random
    one without."""

    def __init__(self, link: Link, wire: Wire, schedules: bool, patience: float = 10.0, key: bytes = b"") -> None:
        """``patience``: seconds after which nobody waits for a confirmation any more. ``key``: of the ids by which the
        server drops copies."""
        self._link = link
        self._key = key
        self._wire = wire
        self._schedules = schedules
        self._client: RawClient | None = None
        self._inbox: Subscription | None = None
        self._prefix = b""
        self._waiting: dict[int, _Waiting] = {}
        self._last = 0
        self._streams: dict[str, _Stream] = {}
        self._routes: dict[tuple[str, str | None], list[bytes]] = {}
        self._room: asyncio.Future[None] | None = None
        self._idle: asyncio.Future[None] | None = None
        self._closed = False
        self._patience = patience
        self._timer: asyncio.TimerHandle | None = None
        self._looking: asyncio.Task[None] | None = None
        link.watchers.add(self)

    async def open(self) -> RawClient:
        """The client, with our inbox on it. Raises ``Unavailable``."""
        client = await self._link.client()
        if client is not self._client:
            inbox = client.new_inbox()
            try:
                self._inbox = await client.listen(f"{inbox}.*", self._confirmed)
            except CLIENT_ERRORS as exc:
                raise Unavailable(f"NATS gives no inbox: {said(exc)}") from exc
            self._client = client
            self._prefix = f"{inbox}.".encode()
            self._routes.clear()  # their commands name the inbox
        return client

    # ----------------------------------------------------------------------------------------------- connection

    def lost(self) -> None:
        """Watcher: whatever waits for a confirmation may be stored, or not."""
        waiting, self._waiting = self._waiting, {}
        for each in waiting.values():
            each.report(each.outbound, _unknown(each.outbound, "the connection to NATS was lost"))
        self._ended()

    def back(self) -> None:
        """Watcher: the inbox is there again."""

    def gone(self) -> None:
        """Watcher: as after a loss; the next submit takes the next client."""
        self.lost()

    def refused(self, refusal: Refusal) -> None:
        """Watcher: the first event that waits under this subject is not stored."""
        if not refusal.publishing:
            return
        for token, each in self._waiting.items():
            if self._subject(each).lower() == refusal.subject:
                del self._waiting[token]
                topic = each.outbound.topic
                each.report(
                    each.outbound,
                    Rejected(
                        f"NATS does not let this user publish to topic {topic!r}: {refusal.text}. Give it the "
                        f"permission to publish to {topic}.>"
                    ),
                )
                self._ended()
                return

    def _subject(self, each: _Waiting) -> str:
        outbound = each.outbound
        if each.slot < 0:
            return f"{schedule_subject(outbound.topic)}.{outbound.deduplication_id(self._key)}"
        return f"{outbound.topic if outbound.group is None else inlet(outbound.topic, outbound.group)}.{each.slot}"

    def _sweep(self) -> None:
        """Look what keeps a confirmation, and give up what will hardly get one. Kept, it would take up the window for
        ever."""
        self._timer = None
        now = asyncio.get_running_loop().time()
        self._give_up([token for token, each in self._waiting.items() if now - each.since >= self._patience])
        slow = {each.outbound.topic for each in self._waiting.values() if now - each.since >= _SLOW}
        if slow and self._looking is None:
            self._looking = asyncio.create_task(self._look(slow), name="anybroker NATS leaders")
        self._watch()

    def _give_up(self, tokens: Iterable[int]) -> None:
        late = [self._waiting.pop(token) for token in tokens]
        for outbound, report, _, since in late:
            seconds = asyncio.get_running_loop().time() - since
            stream = self._streams.get(outbound.topic)
            reason = f" ({stream.reason})" if stream is not None and stream.reason else ""
            report(outbound, _unknown(outbound, f"NATS gave no answer in {seconds:.1f} s{reason}"))
        if late:
            self._ended()

    async def _look(self, topics: Iterable[str]) -> None:
        """Ask the streams that do not confirm. Another leader than before has got what was written before it was there,
        or will never get it: nothing more will be said of it."""
        try:
            await asyncio.gather(*(self._look_at(topic) for topic in topics))
        finally:
            self._looking = None

    async def _look_at(self, topic: str) -> None:
        last = self._last
        stream = self._streams.setdefault(topic, _Stream(""))
        try:
            cluster = await self._cluster(topic)
            leader = str(cluster.get("leader") or "")
        except ApiError as exc:
            if exc.code == FORBIDDEN:
                return
            stream.reason = f"its stream says: {exc}"
        except (BrokerError, *CLIENT_ERRORS) as exc:
            stream.reason = f"JetStream does not answer: {said(exc)}; has it a leader?"
        else:
            if leader and stream.leader and leader != stream.leader:
                stream.before = last
                stream.reason = f"its stream has another leader now: {leader}"
            elif stream.before:
                lost = [
                    token
                    for token, each in self._waiting.items()
                    if token <= stream.before and each.outbound.topic == topic
                ]
                stream.before = 0
                self._give_up(lost)
            else:
                stream.reason = _why_slow(cluster)
            stream.leader = leader or stream.leader
        if stream.told != stream.reason and any(each.outbound.topic == topic for each in self._waiting.values()):
            stream.told = stream.reason
            _log.warning("events for topic %r are not confirmed: %s", topic, stream.reason)

    async def _cluster(self, topic: str) -> dict[str, Any]:
        """Which servers have the topic's stream, and which of them leads; empty where there is no cluster. Raises
        ApiError, and what nats-py raises."""
        info: dict[str, Any] = await self._link.api(f"STREAM.INFO.{stream_name(topic)}", timeout=_ASK)
        return info.get("cluster") or {}

    async def _find(self, topic: str) -> BrokerError | None:
        """Look for the topic's stream; why it takes no event, or None."""
        try:
            with nats_errors(f"looking for the stream of {topic!r} (has JetStream a leader?)"):
                cluster = await self._cluster(topic)
            leader = str(cluster.get("leader") or "")
            if cluster.get("replicas") and not leader:
                return Unavailable(f"topic {topic!r} takes no event now: {_why_slow(cluster)}")
            self._streams[topic] = _Stream(leader)
        except ConfigError as exc:
            cause = exc.__cause__
            if isinstance(cause, ApiError) and cause.code == FORBIDDEN:
                self._streams[topic] = _Stream("")  # it may publish and not ask: the answer tells
                return None
            if isinstance(cause, ApiError) and cause.code == _NOT_FOUND:
                return Rejected(f"NATS has no stream for topic {topic!r}. Declare the topic first")
            return _rejected(f"the stream of topic {topic!r} cannot be found", exc)
        except BrokerError as exc:
            return exc
        return None

    def _ended(self) -> None:
        for future in (self._room, self._idle):
            if future is not None and not future.done() and (future is self._room or not self._waiting):
                future.set_result(None)

    def _confirmed(self, subject: bytes, reply: bytes, data: bytes, headers: bytes | None) -> None:
        """JetStream's answer to one publish."""
        found = self._waiting.pop(int(subject[len(self._prefix) :]), None)
        if found is None:
            return  # a connection was lost in between
        outbound, report, _, _ = found
        topic = outbound.topic
        ack = _ACK(data)
        if ack is not None:
            name, sequence, duplicate = ack.groups()
            report(outbound, Receipt(topic, f"{name.decode()}/{int(sequence)}", duplicate=duplicate is not None))
            if (stream := self._streams.get(topic)) is not None and stream.told:
                stream.told = stream.reason = ""
                _log.info("events for topic %r are confirmed again", topic)
        elif headers is not None and headers.startswith(b"NATS/1.0 503"):
            self._streams.pop(topic, None)  # looked for again before the next event
            report(
                outbound,
                Unavailable(
                    f"no stream takes an event for topic {topic!r} now (no responders): its stream has no leader, or "
                    "was deleted"
                ),
            )
        else:
            report(outbound, self._answer(topic, data))
        if self._room is not None or self._idle is not None:
            self._ended()

    def _answer(self, topic: str, data: bytes) -> Receipt | PublishOutcomeUnknown | Rejected | Unavailable:
        try:
            answer = json.loads(data)
            error = answer.get("error")
            if not error:
                return Receipt(topic, f"{answer['stream']}/{answer['seq']}", duplicate=bool(answer.get("duplicate")))
            failure = publish_failure(topic, ApiError(error))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as exc:
            unknown = PublishOutcomeUnknown(f"NATS answered an event for topic {topic!r} with something else")
            unknown.__cause__ = exc
            return unknown
        assert isinstance(failure, PublishOutcomeUnknown | Rejected | Unavailable)
        return failure

    # --------------------------------------------------------------------------------------------------- submit

    async def submit(self, batch: Sequence[Outbound], report: Report, /) -> None:
        """See :meth:`anybroker.adapter.Sender.submit`."""
        if self._closed:
            raise Unavailable("the NATS sender is closed")
        client = await self.open()
        absent: dict[str, BrokerError] = {}
        if new := [topic for topic in {outbound.topic for outbound in batch} if topic not in self._streams]:
            found = await asyncio.gather(*(self._find(topic) for topic in new))
            absent = {topic: error for topic, error in zip(new, found, strict=True) if error is not None}
        parts: list[bytes] = []
        size = 0
        first = self._last + 1
        now, since = time(), asyncio.get_running_loop().time()
        limit = client.max_payload
        for outbound in batch:
            if outbound.topic in absent:
                report(outbound, absent[outbound.topic])
                continue
            while len(self._waiting) >= _WINDOW or (self._waiting and client.pending_data_size > _BUFFER):
                self._write(client, parts, first)
                parts, size, first = [], 0, self._last + 1
                self._watch()
                self._room = asyncio.get_running_loop().create_future()
                await self._room
                self._room = None
                if not client.is_connected:
                    self.lost()  # what was handed over is not for the exception to speak of
                    raise Unavailable("the connection to NATS was lost")  # for what was not handed over yet
            size += self._add(parts, outbound, report, now, since, limit)
            if size >= _WRITE:
                self._write(client, parts, first)
                parts, size, first = [], 0, self._last + 1
        self._write(client, parts, first)
        self._watch()

    def _watch(self) -> None:
        if self._waiting and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(min(_SLOW, self._patience), self._sweep)

    def _write(self, client: RawClient, parts: list[bytes], first: int) -> None:
        """``first``: the first number of a confirmation that belongs to these commands."""
        if parts and not client.write(b"".join(parts)):
            for token in range(first, self._last + 1):
                self._waiting.pop(token, None)  # not written, so not stored
            self.lost()
            raise Unavailable("the connection to NATS was lost")

    def _add(self, parts: list[bytes], outbound: Outbound, report: Report, now: float, since: float, limit: int) -> int:
        """Add the command of one event, which from now on waits for its confirmation; returns its bytes, about."""
        key = outbound.key
        try:
            slot = getrandbits(_SLOT_BITS) if key is None else slot_of(key)
            copy_id = outbound.deduplication_id(self._key)
        except UnicodeEncodeError as exc:
            report(outbound, _rejected(f"an event for topic {outbound.topic!r} has a key or id that is not text", exc))
            return 0
        control = f"Nats-Msg-Id: {copy_id}\r\n"
        delayed = outbound.not_before is not None and outbound.not_before > now and self._schedules
        where = self._routes.get((outbound.topic, outbound.group)) or self._route(outbound.topic, outbound.group)
        command = where[slot]
        if delayed:
            assert outbound.not_before is not None
            try:
                moment = datetime.fromtimestamp(outbound.not_before, UTC).isoformat(timespec="microseconds")
            except (ValueError, OverflowError, OSError) as exc:
                report(outbound, _rejected(f"an event for topic {outbound.topic!r} is delayed for too long", exc))
                return 0
            target = command.split(b" ")[1].decode()
            # It must not be too old for the stream before its time has come.
            control += f"Nats-TTL: never\r\nNats-Schedule: @at {moment[:-6]}Z\r\nNats-Schedule-Target: {target}\r\n"
            command = f"HPUB {schedule_subject(outbound.topic)}.{copy_id} ".encode() + self._prefix
        try:
            headers, body, refused = self._written(outbound, control, limit)
            if refused is not None and outbound.may_change_mode:
                other = self._written(outbound, control, limit, other=True)
                if other[2] is None or other[2].size - other[2].limit < refused.size - refused.limit:
                    headers, body, refused = other
        except Exception as exc:  # noqa: BLE001 - raised, it would leave what was counted before it unwritten
            what = f"an event for topic {outbound.topic!r} has a header that NATS cannot carry"
            report(outbound, _rejected(what, exc))
            return 0
        size = len(headers) + len(body)
        if refused is not None:
            report(outbound, refused)
            return 0
        self._last = token = self._last + 1
        self._waiting[token] = _Waiting(outbound, report, -1 if delayed else slot, since)
        if headers:
            parts += (b"%b%d %d %d\r\n" % (command, token, len(headers), size), headers, body, b"\r\n")
        else:  # PUB instead of HPUB
            parts += (b"%b%d %d\r\n" % (command[1:], token, size), body, b"\r\n")
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
            if self._looking is not None:
                self._looking.cancel()
            self.lost()


def _why_slow(cluster: dict[str, Any]) -> str:
    """Of a stream that answers, and does not confirm: the server says no more."""
    others = cluster.get("replicas") or ()
    if not cluster.get("leader") and others:  # whoever answered has listed itself, too
        size, there = len(others), sum(bool(each.get("current")) for each in others)
        few = ", too few to elect one" if 2 * there <= size else ""
        return f"its stream has no leader: {there} of {size} servers with it are there{few}"
    size, there = 1 + len(others), 1 + sum(not _is_gone(each) for each in others)
    if 2 * there <= size:
        return f"{there} of {size} servers with its stream are there, too few to store it"
    return "its stream answers, and does not say why: can its server write, or is its disk full?"


def _is_gone(replica: dict[str, Any]) -> bool:
    """Whether a leader hears nothing of this server: ``offline`` comes some 90 s later, ``current`` is wrong for 10."""
    return bool(replica.get("offline")) or float(replica.get("active") or 0) > _SILENT * 1e9


def _unknown(outbound: Outbound, why: str) -> PublishOutcomeUnknown:
    return PublishOutcomeUnknown(
        f"{why} before an event for topic {outbound.topic!r} was confirmed: it may be stored. Publish it again under "
        "the same id"
    )


def _rejected(what: str, cause: Exception) -> Rejected:
    error = Rejected(f"{what}: {cause}")
    error.__cause__ = cause
    return error
