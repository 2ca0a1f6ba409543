"""Publishing: batches of up to ten, one under way for each message group, no task an event."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from time import time
from typing import Any, Final

from botocore.exceptions import ClientError

from anybroker.adapter import Outbound, Receipt, Report, check_size, unwritable
from anybroker.errors import BrokerError, ConfigError, Rejected, Unavailable

from .failures import CLIENT_ERRORS, entry_failure, is_missing, is_passing, most_bytes, publish_failure
from .link import Link
from .names import HASHED, message_group
from .outgoing import Entry, Outgoing, Where
from .settings import MOST_BYTES, TOPIC_BYTES
from .topology import Destination, Places
from .wire import Message, Wire

__all__ = ["SqsSender"]

_MOST_DELAY: Final = 900
"""Seconds that a standard queue delays a message; the rest of a longer delay is waited out by its receiver."""


def _size(message: Message) -> int:
    return message.size


def _too_large(outgoing: Outgoing, entry: Entry, most: int) -> BrokerError:
    """AWS refused the event for its size. It takes ``most`` bytes, or fewer than the event has where ``most`` is 0,
    whatever limit it gave when asked."""
    if not 0 < most < entry.size:
        most = TOPIC_BYTES if entry.size > TOPIC_BYTES else entry.size - 1
    outgoing.destination = replace(outgoing.destination, limit=min(most, outgoing.destination.limit))
    refused = check_size(entry.outbound, entry.size, most, most)
    return refused or Rejected(f"AWS takes no message of {entry.size} bytes")


class SqsSender:
    """See :class:`anybroker.adapter.Sender`."""

    def __init__(
        self, link: Link, places: Places, wire: Wire, *, requests: int, limit: int | None, key: bytes = b""
    ) -> None:
        """``key``: of the ids by which SQS and SNS drop copies."""
        self._link = link
        self._key = key
        self._places = places
        self._write = wire.write
        self._requests = requests
        self._limit = MOST_BYTES if limit is None else limit
        self._outgoing: dict[Where, Outgoing] = {}
        self._turns: deque[Outgoing] = deque()
        self._under_way = 0
        self._idle: asyncio.Future[None] | None = None
        self._closed = False

    async def submit(self, batch: Sequence[Outbound], report: Report, /) -> None:
        """See :meth:`anybroker.adapter.Sender.submit`."""
        if self._closed:
            raise Unavailable("the SQS sender is closed")
        ready: list[tuple[Outbound, Outgoing]] = []
        failed: dict[Where, BrokerError] = {}
        for outbound in batch:
            where = outbound.topic, outbound.group
            outgoing = self._outgoing.get(where)
            if outgoing is None and where not in failed:
                try:
                    outgoing = self._outgoing[where] = Outgoing(where, await self._places.destination(*where))
                except BrokerError as exc:
                    failed[where] = exc
                except ConfigError as exc:
                    failed[where] = Unavailable(str(exc)) if is_passing(exc.__cause__) else Rejected(str(exc))
                    failed[where].__cause__ = exc.__cause__
            if outgoing is None:
                report(outbound, failed[where])
            else:
                ready.append((outbound, outgoing))
        for outbound, outgoing in ready:
            self._add(outgoing, outbound, report)
        self._go_on()

    def _add(self, outgoing: Outgoing, outbound: Outbound, report: Report) -> None:
        most = outgoing.destination.limit
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
        except Exception as exc:  # noqa: BLE001 - it is this event's failure, and must not become that of the others
            report(outbound, unwritable(outbound, exc, "message"))
            return
        if refused is not None:
            report(outbound, refused)
            return
        destination = outgoing.destination
        body = "Message" if destination.is_topic else "MessageBody"
        fields: dict[str, Any] = {body: message.body, "MessageAttributes": message.attributes}
        delay = 0 if outbound.not_before is None else int(outbound.not_before - time())
        group: str | None = None
        if destination.fifo:
            copy = outbound.deduplication_id(self._key)
            key = outbound.key
            # A delayed message closes its message group, so it must be alone in it. So must a dead letter, which would
            # hide those of its key behind it: SQS hands over at most ten of a group at once.
            alone = key is None or delay > 0 or outbound.is_dead_letter
            group = HASHED + copy if key is None or alone else message_group(key)
            fields["MessageGroupId"] = group
            fields["MessageDeduplicationId"] = copy
        elif delay > 0 and not destination.is_topic:
            fields["DelaySeconds"] = min(delay, _MOST_DELAY)
        outgoing.put(Entry(outbound, report, fields, message.size, group))
        if outgoing not in self._turns:
            self._turns.append(outgoing)

    def _go_on(self) -> None:
        """Begin as many requests as may be under way at once; each destination in its turn."""
        loop = asyncio.get_running_loop()
        turns = self._turns
        while turns and self._under_way < self._requests:
            outgoing = turns.popleft()
            batch = outgoing.take(min(outgoing.destination.limit, self._limit))
            if batch:
                turns.append(outgoing)
                self._under_way += 1
                sending = loop.run_in_executor(self._link.pool, self._request, outgoing.destination, batch)
                sending.add_done_callback(partial(self._answered, outgoing, batch))
        if not turns and not self._under_way and self._idle is not None and not self._idle.done():
            self._idle.set_result(None)

    def _request(self, destination: Destination, batch: list[Entry]) -> Any:
        """One request; in a thread. Returns AWS's answer, or its exception."""
        entries: Any = [{"Id": str(at), **entry.fields} for at, entry in enumerate(batch)]
        try:
            if destination.is_topic:
                return self._link.to_sns.publish_batch(TopicArn=destination.address, PublishBatchRequestEntries=entries)
            return self._link.to_sqs.send_message_batch(QueueUrl=destination.address, Entries=entries)
        except CLIENT_ERRORS as exc:
            return exc

    def _answered(self, outgoing: Outgoing, batch: list[Entry], sending: asyncio.Future[Any]) -> None:
        self._under_way -= 1
        answer = None if sending.cancelled() else sending.exception() or sending.result()
        groups: set[str] = set()
        for entry, result in zip(batch, self._results(outgoing, batch, answer), strict=True):
            if entry.group is not None:
                groups.add(entry.group)
                if isinstance(result, Unavailable):  # what follows must not overtake it
                    for behind in outgoing.drop(entry.group):
                        behind.report(behind.outbound, result)
            entry.report(entry.outbound, result)
        outgoing.done(groups)
        if outgoing not in self._turns:
            self._turns.append(outgoing)
        self._go_on()

    def _results(self, outgoing: Outgoing, batch: Sequence[Entry], answer: Any) -> Sequence[Receipt | BrokerError]:
        """The result of each entry of a batch, from AWS's answer, or its exception; None: it was given up."""
        topic = outgoing.where[0]
        results: list[Receipt | BrokerError]
        if isinstance(answer, dict):
            results = [publish_failure(None, topic) for _ in batch]
            for stored in answer.get("Successful", ()):
                results[int(stored["Id"])] = Receipt(topic, stored["MessageId"])
            for failed in answer.get("Failed", ()):
                at = int(failed["Id"])
                most = most_bytes(failed.get("Code"), failed.get("Message"))
                results[at] = entry_failure(failed, topic) if most is None else _too_large(outgoing, batch[at], most)
            return results
        most = None if not isinstance(answer, ClientError) else most_bytes("", answer)
        if most is None:
            if answer is not None and is_missing(answer):
                self._outgoing.pop(outgoing.where, None)
            return [publish_failure(answer, topic) for _ in batch]
        if len(batch) == 1:
            return [_too_large(outgoing, batch[0], most)]
        # All of it together is too large: in smaller batches from now on.
        most = most or min(TOPIC_BYTES, sum(entry.size for entry in batch) - 1)
        outgoing.destination = replace(outgoing.destination, limit=min(most, outgoing.destination.limit))
        return [Unavailable(f"AWS takes {most} bytes at once, and none of this batch") for _ in batch]

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
        """Report what was never sent: the time for closing is over, and the threads that would send it end."""
        everything = {*self._outgoing.values(), *self._turns}
        self._turns.clear()
        for entry in [entry for outgoing in everything for entry in outgoing.drop_all()]:
            entry.report(entry.outbound, Unavailable("the SQS sender was closed before it could send an event"))
