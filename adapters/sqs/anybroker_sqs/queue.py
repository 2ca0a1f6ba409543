"""A group's queue, as its receiver's threads use it: every method here blocks."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from anybroker.adapter import Inbound, Lane
from anybroker.errors import BrokerError

from .failures import CLIENT_ERRORS, settle_failed, settle_failure
from .link import Link
from .notes import Notes
from .wire import Wire

__all__ = ["ENTRIES", "Queue"]

ENTRIES: Final = 10
"""The most messages of one request."""
_LONGEST: Final = 43_000
"""Seconds for which a message is hidden at once, a little below SQS's 12 hours."""


class Queue:
    """The queue of one group."""

    def __init__(self, link: Link, url: str, notes: Notes, wire: Wire, lane: Lane, lease: int) -> None:
        self._link = link
        self._url = url
        self.notes = notes
        self._name = url.rsplit("/", 1)[-1].removesuffix(".fifo")
        self._read = wire.read
        self._lane = lane
        self.lease = lease

    def poll(self, limit: int, wait: int) -> tuple[float, list[Inbound]]:
        """Up to ``limit`` (ten at most) deliveries, hidden from others for the lease; empty after ``wait`` seconds.
        Also the time, on the monotonic clock, from which the lease counts: the event loop may see them late.

        Messages that must not be handled yet are hidden until then, and left out. Raises our errors."""
        with self._link.errors("receiving"):
            began = time.monotonic()
            answer: Any = self._link.polling.receive_message(
                QueueUrl=self._url,
                MaxNumberOfMessages=limit,
                WaitTimeSeconds=wait,
                VisibilityTimeout=self.lease,
                MessageAttributeNames=["All"],
                MessageSystemAttributeNames=["ApproximateReceiveCount", "MessageGroupId"],
            )
            since = min(time.monotonic(), began + wait)  # SQS answers by then, even if this process sees it later
            batch = [self._read(message, self._lane, self._name) for message in answer.get("Messages", ())]
            again = {inbound.raw["MessageId"]: inbound for inbound in batch if inbound.deliveries > 1}
            if again:
                self.notes.recall(again)
                if time.monotonic() - since > self.lease / 6:  # reading the notes has cost too much of the lease
                    now = time.monotonic()
                    if not any(self.hide(dict.fromkeys(batch, self.lease))):
                        since = now
            early = {inbound: seconds for inbound in batch if (seconds := _seconds_left(inbound)) > 0}
            if early:
                self.hide(early)
            return since, [inbound for inbound in batch if inbound not in early] if early else batch

    def delete(self, batch: Iterable[Inbound]) -> list[BrokerError | None]:
        """Up to ten messages are done. One result for each."""
        entries = [{"ReceiptHandle": inbound.raw["ReceiptHandle"]} for inbound in batch]
        return self._settle(self._link.sqs.delete_message_batch, entries)

    def hide(self, batch: Mapping[Inbound, int]) -> list[BrokerError | None]:
        """Hide up to ten messages from all members for these seconds from now: 0 gives them back. One result for
        each."""
        entries: list[dict[str, Any]] = [
            {"ReceiptHandle": inbound.raw["ReceiptHandle"], "VisibilityTimeout": min(seconds, _LONGEST)}
            for inbound, seconds in batch.items()
        ]
        return self._settle(self._link.sqs.change_message_visibility_batch, entries)

    def _settle(self, request: Any, entries: Sequence[dict[str, Any]]) -> list[BrokerError | None]:
        for at, entry in enumerate(entries):
            entry["Id"] = str(at)
        results: list[BrokerError | None] = [None] * len(entries)
        try:
            answer = request(QueueUrl=self._url, Entries=entries)
        except CLIENT_ERRORS as exc:
            return [settle_failed(exc, self._link.where)] * len(entries)
        for failed in answer.get("Failed", ()):
            results[int(failed["Id"])] = settle_failure(failed)
        return results


def _seconds_left(inbound: Inbound) -> int:
    """Whole seconds until it may be handled; the core waits for the rest of the last one."""
    return 0 if inbound.not_before is None else int(inbound.not_before - time.time())
