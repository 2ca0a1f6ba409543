"""Events as text: what the body may hold, the attributes of the message, and the shapes that are read."""

from __future__ import annotations

import json
from typing import Any

import pytest

from anybroker.cloudevents import filter_attributes, format_text, parse_text
from anybroker.errors import InvalidEvent
from anybroker.event import Event

EVENT = Event.create({"a": "ä"}, source="/shop", type="t", subject="s", key="k", extensions={"empty": ""})
BINARY = {"ce-specversion": "1.0", "ce-id": "1", "ce-source": "s", "ce-type": "t", "content-type": "text/plain"}


def envelope(message: object, attributes: dict[str, str] | None = None, **more: Any) -> str:
    wrapped: dict[str, Any] = {"Type": "Notification", "MessageId": "m", "Message": message, **more}
    if attributes is not None:
        wrapped["MessageAttributes"] = {name: {"Type": "String", "Value": value} for name, value in attributes.items()}
    return json.dumps(wrapped)


def xml(text: str) -> bool:
    return all(
        char in "\t\n\r" or "\x20" <= char <= "\ud7ff" or "\ue000" <= char <= "\ufffd" or char > "\uffff"
        for char in text
    )


def test_filter_attributes() -> None:
    assert filter_attributes(EVENT) == {
        "content-type": "application/cloudevents+json",
        "ce-type": "t",
        "ce-source": "/shop",
        "ce-subject": "s",
    }
    assert filter_attributes(EVENT.replace(subject=None), ("subject", "empty", "partitionkey")) == {
        "content-type": "application/cloudevents+json",
        "ce-partitionkey": "k",
    }


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b'"\x7f\xc2\x80 tab\\t"', "application/json"),
        ('"\ufffe"'.encode(), "application/json"),
        ("\uffff\0\x0b".encode(), "text/plain"),
        (b"\0\x0b\x1f", "text/plain"),
        (bytes(range(256)), "image/png"),
        (b"", None),
        (b"null", "application/json"),
    ],
)
def test_every_body_is_carried_in_the_characters_of_xml(body: bytes, content_type: str | None) -> None:
    event = EVENT.replace(data=body).replace(datacontenttype=content_type)
    text = format_text(event)
    assert xml(text)
    assert parse_text(text, {}) == event
    assert parse_text(text, {}).body == body


@pytest.mark.parametrize("attributes", [{}, filter_attributes(EVENT), {"content-type": "text/plain"}, {"x": b"\xff"}])
def test_structured(attributes: dict[str, Any]) -> None:
    assert parse_text(format_text(EVENT), attributes) == EVENT
    assert parse_text(format_text(EVENT).encode(), attributes) == EVENT


def test_binary() -> None:
    event = parse_text("hellö", BINARY)
    assert event.data == "hellö"
    assert event.id == "1"
    assert (
        parse_text(
            b"x",
            {
                name.replace("-", "_") if name != "content-type" else name: value.encode()
                for name, value in BINARY.items()
            },
        ).id
        == "1"
    )


def test_notification_envelopes() -> None:
    assert parse_text(envelope(format_text(EVENT), filter_attributes(EVENT)), {}) == EVENT
    assert parse_text(envelope(format_text(EVENT)), {}) == EVENT
    assert parse_text(envelope("hello", BINARY), {}).data == "hello"
    assert parse_text(envelope(format_text(EVENT), {}, Subject="x"), {"other": "x"}) == EVENT


def test_an_event_that_looks_like_an_envelope_is_an_event() -> None:
    event = EVENT.replace(data={"Type": "Notification", "Message": "x"})
    assert parse_text(format_text(event), {}) == event
    in_binary = parse_text(envelope("x"), BINARY)
    assert in_binary.data == envelope("x")


@pytest.mark.parametrize(
    ("body", "attributes"),
    [
        ("", {}),
        ("hello", {}),
        ("{}", {}),
        ('"Message"', {}),
        ('{"Message"', {}),
        (envelope(5), {}),
        (envelope("hello"), {}),
        (envelope(envelope(format_text(EVENT))), {}),  # one envelope, not any number
        (envelope("hello", None, MessageAttributes=[1]), {}),
        (envelope("hello", None, MessageAttributes={"ce-specversion": "1.0"}), {}),
        ("\ud800", {}),
        ("\ud800", BINARY),
        ("x", {"ce-specversion": "1.0"}),
        ("x", {**BINARY, "ce-time": "now"}),
        ("x", {"content-type": "application/cloudevents+json"}),
    ],
)
def test_refused(body: str, attributes: dict[str, Any]) -> None:
    with pytest.raises(InvalidEvent):
        parse_text(body, attributes)
