"""Publishing: batches of up to ten, one under way for each message group, no task an event."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from time import time
from typing import Any, Final, TypeAlias

from botocore.exceptions import ClientError

from anybroker.adapter import Outbound, Receipt, Report, check_size, unwritable
from anybroker.errors import BrokerError, ConfigError, Rejected, Unavailable

from .aws import Aws
from .failures import CLIENT_ERRORS, entry_failure, is_missing, is_passing, most_bytes, publish_failure
from .names import HASHED, message_group
from .settings import MOST_BYTES, TOPIC_BYTES
from .topology import Destination, Places
from .wire import Message, Wire

__all__ = ["SqsSender"]

_ENTRIES: Final = 10
"""The most that one request takes."""
_MOST_DELAY: Final = 900
"""Seconds that a standard queue delays a message; the rest of a longer delay is waited out by its receiver."""

_Where: TypeAlias = tuple[str, str | None]


class _Entry:
    """One event on its way: what is sent of it, how many bytes that are, and its message group on a FIFO."""

    __slots__ = ("fields", "group", "outbound", "report", "size")

    def __init__(
        self, outbound: Outbound, report: Report, fields: dict[str, Any], size: int, group: str | None
    ) -> None:
        self.outbound = outbound
        self.report = report
        self.fields = fields
        self.size = size
        self.group = group


class _Way:
    """What waits for one destination. The events of one message group go in one request at a time; without groups, any
    number of requests."""

    __slots__ = ("_ready", "_waiting", "destination", "where")

    def __init__(self, where: _Where, destination: Destination) -> None:
        self.where = where
        self.destination = destination
        self._waiting: dict[str | None, deque[_Entry]] = {}
        """By message group. A group that is here and not ready is under way."""
        self._ready: deque[str | None] = deque()

    def put(self, entry: _Entry) -> None:
        """One more."""
        waiting = self._waiting.get(entry.group)
        if waiting is None:
            self._waiting[entry.group] = deque((entry,))
            self._ready.append(entry.group)
        else:
            waiting.append(entry)

    def take(self, limit: int) -> list[_Entry]:
        """The next batch, of up to ten entries and ``limit`` bytes; empty if nothing may go now."""
        batch: list[_Entry] = []
        ready = self._ready
        while ready and len(batch) < _ENTRIES:
            group = ready[0]
            waiting = self._waiting[group]
            before = len(batch)
            while waiting and len(batch) < _ENTRIES and (not batch or limit >= waiting[0].size):
                entry = waiting.popleft()
                limit -= entry.size
                batch.append(entry)
            if group is None:
                if waiting:
                    break
                del self._waiting[None]
            elif len(batch) == before:
                break  # no room for its first one
            ready.popleft()
        return batch

    def done(self, groups: set[str]) -> None:
        """These groups are not under way any more."""
        for group in groups:
            if self._waiting[group]:
                self._ready.append(group)
            else:
                del self._waiting[group]

    def drop(self, group: str) -> deque[_Entry]:
        """Take out all that waits behind a batch of this group."""
        dropped, self._waiting[group] = self._waiting[group], deque()
        return dropped

    def drop_all(self) -> list[_Entry]:
        """Take out all that waits, for good."""
        dropped = [entry for waiting in self._waiting.values() for entry in waiting]
        self._ready.clear()
        for waiting in self._waiting.values():
            waiting.clear()
        return dropped


def _size(message: Message) -> int:
    return message.size


def _too_large(way: _Way, entry: _Entry, most: int) -> BrokerError:
    """AWS has refused it for its size: it takes ``most`` bytes, or fewer than this, whatever it said when we asked."""
    if not 0 < most < entry.size:
        most = TOPIC_BYTES if entry.size > TOPIC_BYTES else entry.size - 1
    way.destination = replace(way.destination, limit=min(most, way.destination.limit))
    refused = check_size(entry.outbound, entry.size, most, most)
    return refused or Rejected(f"AWS takes no message of {entry.size} bytes")


class SqsSender:
    """See :class:`anybroker.adapter.Sender`."""

    def __init__(
        self, aws: Aws, places: Places, wire: Wire, *, requests: int, limit: int | None, key: bytes = b""
    ) -> None:
        """``key``: of the ids by which SQS and SNS drop copies."""
        self._aws = aws
        self._key = key
        self._places = places
        self._write = wire.write
        self._requests = requests
        self._limit = MOST_BYTES if limit is None else limit
        self._ways: dict[_Where, _Way] = {}
        self._turns: deque[_Way] = deque()
        self._under_way = 0
        self._idle: asyncio.Future[None] | None = None
        self._closed = False

    async def submit(self, batch: Sequence[Outbound], report: Report, /) -> None:
        """See :meth:`anybroker.adapter.Sender.submit`."""
        if self._closed:
            raise Unavailable("the SQS sender is closed")
        ready: list[tuple[Outbound, _Way]] = []
        failed: dict[_Where, BrokerError] = {}
        for outbound in batch:
            where = outbound.topic, outbound.group
            way = self._ways.get(where)
            if way is None and where not in failed:
                try:
                    way = self._ways[where] = _Way(where, await self._places.destination(*where))
                except BrokerError as exc:
                    failed[where] = exc
                except ConfigError as exc:
                    failed[where] = Unavailable(str(exc)) if is_passing(exc.__cause__) else Rejected(str(exc))
                    failed[where].__cause__ = exc.__cause__
            if way is None:
                report(outbound, failed[where])
            else:
                ready.append((outbound, way))
        for outbound, way in ready:
            self._add(way, outbound, report)
        self._go_on()

    def _add(self, way: _Way, outbound: Outbound, report: Report) -> None:
        most = way.destination.limit
        limit = min(most, self._limit)
        try:
            message = self._write(outbound)
            refused = check_size(outbound, message.size, limit, most)
            if refused is not None and outbound.may_change_mode:
                message = min(message, self._write(outbound, other=True), key=_size)
                refused = check_size(outbound, message.size, limit, most)
        except Rejected as exc:
            report(outbound, exc)
            return
        except Exception as exc:  # noqa: BLE001 - whatever it is, it is this event's, and must not be the others'
            report(outbound, unwritable(outbound, exc, "message"))
            return
        if refused is not None:
            report(outbound, refused)
            return
        destination = way.destination
        body = "Message" if destination.is_topic else "MessageBody"
        fields: dict[str, Any] = {body: message.body, "MessageAttributes": message.attributes}
        delay = 0 if outbound.not_before is None else int(outbound.not_before - time())
        group: str | None = None
        if destination.fifo:
            copy = outbound.deduplication_id(self._key)
            key = outbound.key
            # What is delayed must hold up nothing: a message that is put off closes its group. Nor must a dead letter
            # hide those of its key behind it: of a group that is out, SQS shows ten at most.
            alone = key is None or delay > 0 or outbound.is_dead_letter
            group = HASHED + copy if key is None or alone else message_group(key)
            fields["MessageGroupId"] = group
            fields["MessageDeduplicationId"] = copy
        elif delay > 0 and not destination.is_topic:
            fields["DelaySeconds"] = min(delay, _MOST_DELAY)
        way.put(_Entry(outbound, report, fields, message.size, group))
        if way not in self._turns:
            self._turns.append(way)

    def _go_on(self) -> None:
        """Begin as many requests as may be under way at once; each destination in its turn."""
        loop = asyncio.get_running_loop()
        turns = self._turns
        while turns and self._under_way < self._requests:
            way = turns.popleft()
            batch = way.take(min(way.destination.limit, self._limit))
            if batch:
                turns.append(way)
                self._under_way += 1
                sending = loop.run_in_executor(self._aws.pool, self._request, way.destination, batch)
                sending.add_done_callback(partial(self._answered, way, batch))
        if not turns and not self._under_way and self._idle is not None and not self._idle.done():
            self._idle.set_result(None)

    def _request(self, destination: Destination, batch: list[_Entry]) -> Any:
        """One request; in a thread. Returns AWS's answer, or its exception."""
        entries: Any = [{"Id": str(at), **entry.fields} for at, entry in enumerate(batch)]
        try:
            if destination.is_topic:
                return self._aws.to_sns.publish_batch(TopicArn=destination.address, PublishBatchRequestEntries=entries)
            return self._aws.to_sqs.send_message_batch(QueueUrl=destination.address, Entries=entries)
        except CLIENT_ERRORS as exc:
            return exc

    def _answered(self, way: _Way, batch: list[_Entry], sending: asyncio.Future[Any]) -> None:
        self._under_way -= 1
        answer = None if sending.cancelled() else sending.exception() or sending.result()
        topic = way.where[0]
        results: list[Receipt | BrokerError]
        if isinstance(answer, dict):
            results = [publish_failure(None, topic) for _ in batch]
            for stored in answer.get("Successful", ()):
                results[int(stored["Id"])] = Receipt(topic, stored["MessageId"])
            for failed in answer.get("Failed", ()):
                at = int(failed["Id"])
                most = most_bytes(failed.get("Code"), failed.get("Message"))
                results[at] = entry_failure(failed, topic) if most is None else _too_large(way, batch[at], most)
        else:
            most = None if not isinstance(answer, ClientError) else most_bytes("", answer)
            if most is not None and len(batch) == 1:
                results = [_too_large(way, batch[0], most)]
            elif most is not None:  # all of it together: in smaller batches from now on
                most = most or min(TOPIC_BYTES, sum(entry.size for entry in batch) - 1)
                way.destination = replace(way.destination, limit=min(most, way.destination.limit))
                results = [Unavailable(f"AWS takes {most} bytes at once, and none of this batch") for _ in batch]
            else:
                results = [publish_failure(answer, topic) for _ in batch]
            if answer is not None and is_missing(answer):
                self._ways.pop(way.where, None)
        groups: set[str] = set()
        for entry, result in zip(batch, results, strict=True):
            if entry.group is not None:
                groups.add(entry.group)
                if isinstance(result, Unavailable):  # what follows must not overtake it
                    for behind in way.drop(entry.group):
                        behind.report(behind.outbound, result)
            entry.report(entry.outbound, result)
        way.done(groups)
        if way not in self._turns:
            self._turns.append(way)
        self._go_on()

    async def close(self) -> None:
        """See :meth:`anybroker.adapter.Sender.close`."""
        self._closed = True
        if self._turns or self._under_way:
            self._idle = asyncio.get_running_loop().create_future()
            self._go_on()
            try:
                await self._idle
            except asyncio.CancelledError:
                self._give_up()
                raise

    def _give_up(self) -> None:
        """Report what was never sent: the time to close is over, and there will be no threads to send it."""
        ways = {*self._ways.values(), *self._turns}
        self._turns.clear()
        for entry in [entry for way in ways for entry in way.drop_all()]:
            entry.report(entry.outbound, Unavailable("the SQS sender was closed before it could send an event"))
