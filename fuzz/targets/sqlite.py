"""SQLite: anything that other adapters could have read, as rows and back."""

from __future__ import annotations

from typing import Any

from pydantic_core import to_json

from anybroker.adapter import Foreign, Outbound
from anybroker.cloudevents import HeaderBinding
from anybroker.errors import InvalidEvent
from anybroker.event import Event
from anybroker_sqlite.wire import Segment, decode, encode, fingerprint, size_of

from .. import seeds
from ..messages import split
from ..registry import target
from ..using import use_any

_BINDING = HeaderBinding(bytes, prefix="ce_")


@target("sqlite-row", seeds.kafka_records)
def row(data: bytes) -> object:
    """A row of a segment, of any event or foreign message; the first header is the key"""
    headers, body = split(data)
    key = headers.pop(0)[1] if headers else None
    named = [(name.decode("utf-8", "backslashreplace"), value) for name, value in headers]
    event: Event[Any] | Foreign
    try:
        event = _BINDING.parse(named, body)
    except InvalidEvent as exc:
        event = Foreign(body, named, None if key is None else key.decode("utf-8", "backslashreplace"), exc)
    beside = {name.lower(): (value or b"").decode("utf-8", "replace") for name, value in named}
    found, stored, _ = encode(Outbound(event, "orders", headers=beside, hop="dead|g", not_before=1.5))
    assert size_of(found)
    assert isinstance(fingerprint("orders", None, found), int)
    segment = Segment(7, 1, None, to_json([found]).decode(), stored or b"")
    again, extra = decode(segment.rows[0], segment.body(0))
    assert extra == beside
    use_any(again)
    if isinstance(event, Foreign):
        assert isinstance(again, Foreign)
        assert (again.body, list(again.headers), again.key) == (event.body, list(event.headers), event.key)
    else:
        assert again == event
    return again, extra
