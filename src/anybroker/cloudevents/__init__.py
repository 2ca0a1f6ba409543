"""CloudEvents 1.0: the event, attribute rules, the JSON format, header mappings, the Python SDK's events."""

from __future__ import annotations

from .event import (
    ABSENT,
    Event,
    declared_key,
    declared_type,
    event_type,
    from_cloudevent,
    new_id,
    to_cloudevent,
    trusted_event,
)
from .headers import HeaderBinding, TransportNames
from .json_format import format_json, format_json_batch, parse_json, parse_json_batch
from .percent import percent_decode
from .text_body import filter_attributes, format_text, parse_text

__all__ = [
    "ABSENT",
    "Event",
    "HeaderBinding",
    "TransportNames",
    "declared_key",
    "declared_type",
    "event_type",
    "filter_attributes",
    "format_json",
    "format_json_batch",
    "format_text",
    "from_cloudevent",
    "new_id",
    "parse_json",
    "parse_json_batch",
    "parse_text",
    "percent_decode",
    "to_cloudevent",
    "trusted_event",
]
