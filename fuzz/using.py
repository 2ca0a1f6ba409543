"""Uses of an event that was read: if it was accepted, it can be shown, dated, decoded, written and read again."""

from __future__ import annotations

from typing import Any

from anybroker.adapter import Foreign
from anybroker.cloudevents import HeaderBinding, format_json, parse_json
from anybroker.cloudevents.media_type import JSON, media_type
from anybroker.errors import DecodeError, InvalidEvent
from anybroker.event import Event

__all__ = ["same", "use", "use_any"]

_BINDING = HeaderBinding(bytes, prefix="ce_")


def use(event: Event[Any]) -> Event[Any]:
    """Of an event that was read."""
    assert repr(event)
    assert hash(event) is not None
    assert event.time is None or event.time.tzinfo is not None
    assert event.key is None or event.key
    try:
        _ = event._without_data().data
    except DecodeError:
        pass
    again = parse_json(format_json(event))
    assert same(again, event), f"{event!r} came back from JSON as {again!r}"
    headers = _BINDING.binary_headers(event)
    assert _BINDING.parse(headers, event.body) == event, f"{event!r} came back from headers as another one"
    return event


def same(read: Event[Any], sent: Event[Any]) -> bool:
    """Whether they are equal, apart from blanks around JSON, which JSON drops."""
    if read == sent:
        return True
    if not media_type(sent.datacontenttype or JSON).json or read.body != (sent.body or b"").strip(b" \t\r\n"):
        return False
    return Event(read.attributes) == Event(sent.attributes)


def use_any(event: Event[Any] | Foreign) -> Event[Any] | Foreign:
    """Of what an adapter gave."""
    if isinstance(event, Event):
        return use(event)
    assert isinstance(event, Foreign)
    assert isinstance(event.reason, InvalidEvent)
    assert repr(event)
    assert str(event.reason)
    assert len(str(event.reason)) < 2_000 + len(event.body or b"") // 10, "a reason that repeats the message"
    assert all(isinstance(name, str) and (value is None or isinstance(value, bytes)) for name, value in event.headers)
    return event
