"""What a row of an outbox holds of an event."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from ..adapter import Foreign, Outbound, slot_of
from ..cloudevents.event import Event
from ..cloudevents.json_format import format_json, parse_json
from ..errors import ConfigError, EventError, InvalidEvent
from ..names import check_headers

__all__ = ["SHARDS", "Entry", "read_event", "read_headers"]

SHARDS = 16
"""Relays share the rows by shard: at most so many relays of one table have something to do."""


class Entry(NamedTuple):
    """A row that is to be written. The names of the columns are those that Debezium's outbox event router reads."""

    id: str
    """The event's."""
    aggregatetype: str
    """The topic."""
    aggregateid: str | None
    """The ordering key."""
    type: str
    """The event's."""
    payload: str
    """The event as ``application/cloudevents+json``."""
    headers: str | None
    """Transport headers as a JSON object of strings; None: there are none."""
    not_before: float | None
    """Seconds since the epoch before which it is not relayed."""
    shard: int

    @classmethod
    def of(cls, outbound: Outbound) -> Entry:
        """The row of an event that is published. Raises ConfigError for a foreign message."""
        event = outbound.event
        if isinstance(event, Foreign):
            raise ConfigError(
                "publish(within=)", "a message without CloudEvents attributes cannot be written into an outbox"
            )
        key = event.key
        headers = outbound.headers
        return cls(
            id=event.id,
            aggregatetype=outbound.topic,
            aggregateid=key,
            type=event.type,
            payload=format_json(event).decode(),
            headers=json.dumps(headers, ensure_ascii=False) if headers else None,
            not_before=outbound.not_before,
            shard=slot_of(event.id if key is None else key) % SHARDS,
        )


def read_event(payload: str | bytes) -> Event[Any]:
    """The event of a row. Raises InvalidEvent."""
    try:
        return parse_json(payload)
    except EventError:
        raise
    except (TypeError, ValueError, RecursionError) as exc:
        raise InvalidEvent(f"the payload is not a CloudEvent in JSON: {exc}") from exc


def read_headers(text: str | None) -> dict[str, str]:
    """The headers of a row. Raises InvalidEvent."""
    if text is None:
        return {}
    try:
        headers = json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise InvalidEvent(f"the headers are not JSON: {exc}") from exc
    if not isinstance(headers, dict) or not all(isinstance(value, str) for value in headers.values()):
        raise InvalidEvent("the headers are not a JSON object of strings")
    try:
        return check_headers(headers)
    except ConfigError as exc:  # not what publish() has written
        raise InvalidEvent(f"the headers are none that an event may have: {exc}") from exc
