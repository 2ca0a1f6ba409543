"""A group's queue, as its receiver's threads use it: every method here blocks.

Notes: SQS keeps nothing beside a message that was handed over, so the handler starts of what a leaving member gives
back go into a small queue of the group, where whoever is handed a message again looks them up.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from pydantic_core import from_json

from anybroker.adapter import Inbound, Lane, count_of
from anybroker.errors import BrokerError
from anybroker.printable import logger

from .aws import Aws
from .failures import CLIENT_ERRORS, is_missing, settle_failed, settle_failure
from .wire import Wire

__all__ = ["ENTRIES", "Queue", "starts_noted"]

_log = logger("anybroker.sqs")

ENTRIES: Final = 10
"""The most messages of one request."""
_LONGEST: Final = 43_000
"""Seconds for which a message is hidden at once, a little below SQS's 12 hours."""
_NOTED: Final = 4_000
"""Messages in one note: their ids and counts stay below 256 KiB."""
_NOTES_READ: Final = 100
_NOTES_RETENTION: Final = 86_400


class Queue:
    """The queue of one group."""

    def __init__(self, aws: Aws, url: str, notes: str, wire: Wire, lane: Lane, lease: int) -> None:
        self._aws = aws
        self._url = url
        self._notes = notes
        """The name of the queue for notes, made when there is one to write."""
        self._notes_url = ""
        self._told = False
        """Whether it was logged that somebody else writes there."""
        self._name = url.rsplit("/", 1)[-1].removesuffix(".fifo")
        self._read = wire.read
        self._lane = lane
        self.lease = lease

    def poll(self, limit: int, wait: int) -> tuple[float, list[Inbound]]:
        """Up to ``limit`` (ten at most) deliveries, hidden from others for the lease; empty after ``wait`` seconds.
        With them the time, on the monotonic clock, from which the lease counts: the event loop may see them late.

        What must not be handled yet is hidden until then, and left out. Raises our errors."""
        with self._aws.errors("receiving"):
            began = time.monotonic()
            answer: Any = self._aws.polling.receive_message(
                QueueUrl=self._url,
                MaxNumberOfMessages=limit,
                WaitTimeSeconds=wait,
                VisibilityTimeout=self.lease,
                MessageAttributeNames=["All"],
                MessageSystemAttributeNames=["ApproximateReceiveCount", "MessageGroupId"],
            )
            since = min(time.monotonic(), began + wait)  # SQS has answered by then, whenever we were awake to see it
            batch = [self._read(message, self._lane, self._name) for message in answer.get("Messages", ())]
            again = {inbound.raw["MessageId"]: inbound for inbound in batch if inbound.deliveries > 1}
            if again:
                self._recall(again)
                if time.monotonic() - since > self.lease / 6:  # looking for notes has cost too much of the lease
                    now = time.monotonic()
                    if not any(self.hide(dict.fromkeys(batch, self.lease))):
                        since = now
            early = {inbound: seconds for inbound in batch if (seconds := _seconds_left(inbound)) > 0}
            if early:
                self.hide(early)
            return since, [inbound for inbound in batch if inbound not in early] if early else batch

    def delete(self, batch: Iterable[Inbound]) -> list[BrokerError | None]:
        """Up to ten are done. One result for each."""
        entries = [{"ReceiptHandle": inbound.raw["ReceiptHandle"]} for inbound in batch]
        return self._settle(self._aws.sqs.delete_message_batch, entries)

    def hide(self, batch: Mapping[Inbound, int]) -> list[BrokerError | None]:
        """Up to ten are nobody's for so many seconds from now: 0 gives them back. One result for each."""
        entries: list[dict[str, Any]] = [
            {"ReceiptHandle": inbound.raw["ReceiptHandle"], "VisibilityTimeout": min(seconds, _LONGEST)}
            for inbound, seconds in batch.items()
        ]
        return self._settle(self._aws.sqs.change_message_visibility_batch, entries)

    def _settle(self, request: Any, entries: Sequence[dict[str, Any]]) -> list[BrokerError | None]:
        for at, entry in enumerate(entries):
            entry["Id"] = str(at)
        results: list[BrokerError | None] = [None] * len(entries)
        try:
            answer = request(QueueUrl=self._url, Entries=entries)
        except CLIENT_ERRORS as exc:
            return [settle_failed(exc, self._aws.where)] * len(entries)
        for failed in answer.get("Failed", ()):
            results[int(failed["Id"])] = settle_failure(failed)
        return results

    # --------------------------------------------------------------------------------------------------- notes

    def note(self, attempts: Mapping[str, int]) -> None:
        """Keep the handler starts of messages that are given back, by message id. Raises our errors."""
        noted = list(attempts.items())
        with self._aws.errors("noting attempts"):
            made = self._aws.sqs.create_queue(
                QueueName=self._notes, Attributes={"MessageRetentionPeriod": str(_NOTES_RETENTION)}
            )
            for at in range(0, len(noted), _NOTED):
                body = json.dumps(dict(noted[at : at + _NOTED]))
                self._aws.sqs.send_message(QueueUrl=made["QueueUrl"], MessageBody=body)

    def _recall(self, again: Mapping[str, Inbound]) -> None:
        """Set the attempts that are noted of these. Notes stay for others, and go after a day by themselves."""
        seen: set[str] = set()
        try:
            url = self._notes_url = self._notes_url or self._aws.sqs.get_queue_url(QueueName=self._notes)["QueueUrl"]
            while len(seen) < _NOTES_READ:
                # A long poll asks all of SQS's servers, a short one only some.
                answer: Any = self._aws.polling.receive_message(
                    QueueUrl=url, MaxNumberOfMessages=ENTRIES, WaitTimeSeconds=1, VisibilityTimeout=0
                )
                fresh = [note for note in answer.get("Messages", ()) if note["MessageId"] not in seen]
                if not fresh:
                    return
                for note in fresh:
                    seen.add(note["MessageId"])
                    for message_id, attempts in self._noted(note["Body"]).items():
                        if message_id in again:
                            again[message_id].attempts = max(again[message_id].attempts, attempts)
        except CLIENT_ERRORS as exc:
            if not is_missing(exc):
                raise
            # else nobody has ever noted anything

    def _noted(self, body: str) -> dict[str, int]:
        """What a note says; nothing, with a warning, where anybody else wrote it."""
        starts = starts_noted(body)
        if starts is None and not self._told:
            self._told = True
            _log.warning("%s: a message that is not one of our notes is ignored, as will be others", self._notes)
        return starts or {}


def starts_noted(body: str) -> dict[str, int] | None:
    """Handler starts by message id, 0 for what is not a count; None for what is not a note of ours."""
    try:
        noted = from_json(body)
    except (ValueError, TypeError):
        return None
    return {name: count_of(count) for name, count in noted.items()} if isinstance(noted, dict) else None


def _seconds_left(inbound: Inbound) -> int:
    """Whole seconds until it may be handled; the core waits for what is left of the last one."""
    try:
        return 0 if inbound.not_before is None else int(inbound.not_before - time.time())
    except (ValueError, OverflowError):
        return 0
