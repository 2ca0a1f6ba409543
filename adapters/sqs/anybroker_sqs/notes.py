"""Handler starts that a clean leave must not forget (see :mod:`anybroker.kit.start_notes`), by message id.

They go into a small queue of the group, which is made when it is needed. Reading hides none of them, and they are gone
after a day. Every method here blocks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from anybroker.adapter import Inbound
from anybroker.kit.start_notes import format_starts, parse_starts
from anybroker.printable import logger

from .failures import CLIENT_ERRORS, is_missing
from .link import Link

__all__ = ["Notes"]

_log = logger("anybroker.sqs")

_ENTRIES: Final = 10
"""Notes in one answer."""
_NOTED: Final = 4_000
"""Messages in one note: their ids and counts stay below 256 KiB."""
_MOST: Final = 100
"""Notes that are read, where one is usual: another program may write more."""
_RETENTION: Final = 86_400
"""Seconds."""


class Notes:
    """The notes of one group; ``name``: of their queue."""

    def __init__(self, link: Link, name: str) -> None:
        self._link = link
        self._name = name
        self._url = ""
        self._logged = False
        """Whether it was logged that another program writes there."""

    def write(self, attempts: Mapping[str, int]) -> None:
        """Keep the handler starts of messages that are given back. Raises our errors."""
        noted = list(attempts.items())
        with self._link.errors("noting attempts"):
            made = self._link.sqs.create_queue(
                QueueName=self._name, Attributes={"MessageRetentionPeriod": str(_RETENTION)}
            )
            for at in range(0, len(noted), _NOTED):
                body = format_starts(dict(noted[at : at + _NOTED]))
                self._link.sqs.send_message(QueueUrl=made["QueueUrl"], MessageBody=body)

    def recall(self, again: Mapping[str, Inbound]) -> None:
        """Set the attempts of messages that were handed over before. Notes stay for other members. Raises boto3's
        errors."""
        seen: set[str] = set()
        try:
            self._url = self._url or self._link.sqs.get_queue_url(QueueName=self._name)["QueueUrl"]
            while len(seen) < _MOST:
                # A long poll asks all of SQS's servers, a short one only some.
                answer: Any = self._link.polling.receive_message(
                    QueueUrl=self._url, MaxNumberOfMessages=_ENTRIES, WaitTimeSeconds=1, VisibilityTimeout=0
                )
                fresh = [note for note in answer.get("Messages", ()) if note["MessageId"] not in seen]
                if not fresh:
                    return
                for note in fresh:
                    seen.add(note["MessageId"])
                    for message_id, attempts in self._read(note["Body"]).items():
                        if message_id in again:
                            again[message_id].attempts = max(again[message_id].attempts, attempts)
        except CLIENT_ERRORS as exc:
            if not is_missing(exc):
                raise
            # else nothing was ever noted

    def _read(self, body: str) -> Mapping[str, int]:
        """What a note says; nothing, with one warning, where another program wrote it."""
        starts = parse_starts(body)
        if starts is None and not self._logged:
            self._logged = True
            _log.warning("%s: a message that is not one of our notes is ignored, as will be others", self._name)
        return starts or {}
