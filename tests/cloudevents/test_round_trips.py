"""Every event comes back from every mode as it was: generated events, all bindings, structured and batch."""

from __future__ import annotations

from datetime import UTC, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anybroker.cloudevents import (
    HeaderBinding,
    format_json,
    format_json_batch,
    format_text,
    parse_json,
    parse_json_batch,
    parse_text,
)
from anybroker.event import Event

BINDINGS: dict[str, HeaderBinding[Any]] = {
    "kafka": HeaderBinding(bytes, prefix="ce_"),
    "amqp": HeaderBinding(
        str, prefix="cloudEvents_", also_read=("cloudEvents:", "ce-"), content_type="property", null_body=False
    ),
    "amqp-colon": HeaderBinding(
        str, prefix="cloudEvents:", also_read=("cloudEvents_", "ce-"), content_type="property", null_body=False
    ),
    "nats": HeaderBinding(str, prefix="ce-", content_type="attribute", percent=True, null_body=False, headerless=True),
    "percent-bytes": HeaderBinding(bytes, prefix="ce-", percent=True),
}

_NONCHARACTERS = [chr(plane * 0x10000 + last) for plane in range(17) for last in (0xFFFE, 0xFFFF)]
_NONCHARACTERS += [chr(code) for code in range(0xFDD0, 0xFDF0)]
texts = st.text(st.characters(exclude_categories=("Cs", "Cc"), exclude_characters=_NONCHARACTERS), max_size=40)
filled = texts.filter(bool)
names = st.from_regex(r"[a-z0-9]{1,24}", fullmatch=True).filter(
    lambda name: (
        name not in {"data", "id", "source", "type", "specversion", "time", "subject", "datacontenttype", "dataschema"}
    )
)
offsets = st.integers(-23 * 60 - 59, 23 * 60 + 59).map(lambda minutes: timezone(timedelta(minutes=minutes)))
moments = st.datetimes(timezones=st.one_of(st.just(UTC), offsets))
leaps = st.sampled_from(["2016-12-31T23:59:60Z", "2016-12-31t15:59:60.1-08:00", "1990-01-01 00:00:00.123456789z"])
values = st.one_of(texts, st.booleans(), st.integers(-(2**31), 2**31 - 1), st.binary(max_size=20))
content_types = st.sampled_from(
    [
        None,
        "application/json",
        "Application/Vnd.Example+JSON; charset=UTF-8",
        "text/plain",
        "text/plain; charset=latin-1",
        "text/plain; charset=utf-16",
        "application/json; charset=utf-16",
        "application/xml",
        "image/png",
        "text/csv; charset=no-such-thing",
    ]
)
json_bodies = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=10,
).map(lambda value: Event.create(value, source="s", type="t").body if _encodable(value) else b"null")
bodies = st.one_of(
    st.none(),
    st.sampled_from([b"", b"null", b'""', b"{}", b'{"data":{"data":1}}', b"1.50", b"NaN", b"{", b"\xff", b'"\\ud800"']),
    st.binary(max_size=60),
    st.text(max_size=40).filter(lambda text: _encodable(text)).map(str.encode),
    json_bodies,
)


def _encodable(value: Any) -> bool:
    if isinstance(value, str):
        return not any("\ud800" <= char <= "\udfff" for char in value)
    if isinstance(value, list):
        return all(map(_encodable, value))
    if isinstance(value, dict):
        return all(_encodable(key) and _encodable(child) for key, child in value.items())
    return True


@st.composite
def events(draw: st.DrawFn) -> Event[Any]:
    attributes: dict[str, Any] = {
        "specversion": "1.0",
        "id": draw(filled),
        "source": draw(filled),
        "type": draw(filled),
        "subject": draw(st.none() | filled),
        "dataschema": draw(st.none() | filled),
        "datacontenttype": draw(content_types),
        "time": draw(st.one_of(st.none(), moments, leaps)),
        "partitionkey": draw(st.none() | texts),
        **draw(st.dictionaries(names, values, max_size=4)),
    }
    return Event(attributes, draw(bodies))


def same(found: Event[Any], event: Event[Any], *, typed: bool) -> None:
    assert found == event
    assert found.body == event.body or (event.body is not None and found.body == event.body.strip(b" \t\r\n"))
    assert found.time_raw == event.time_raw
    assert found.time == event.time
    if typed:
        for name, value in event.attributes.items():
            assert type(found[name]) is type(value) or isinstance(value, bytes)
    else:
        assert all(isinstance(value, str) for value in found.attributes.values())


def stripped(event: Event[Any]) -> Event[Any]:
    """JSON in structured mode loses the blanks around it, and nothing else."""
    body = event.body
    if body is None or b'"data":' not in format_json(event) or body == body.strip(b" \t\r\n"):
        return event
    again = Event(event.attributes, body.strip(b" \t\r\n"))
    return again if format_json(again) == format_json(event) else event


@pytest.mark.parametrize("name", BINDINGS)
@settings(max_examples=200, deadline=None)
@given(event=events())
def test_binary(name: str, event: Event[Any]) -> None:
    binding = BINDINGS[name]
    headers = binding.binary_headers(event)
    assert len({header.lower() for header, _ in headers}) == len(headers)
    wire = event.body if binding._null_body else event.body or b""
    content_type = event.datacontenttype if binding._content_type == "property" else None
    same(binding.parse(headers, wire, content_type=content_type), event, typed=False)
    if binding._percent:
        for header, value in headers:
            if header == "content-type":
                continue  # the transport's own, which has blanks
            text = value.decode() if isinstance(value, bytes) else value
            assert all("!" <= char <= "~" and char != '"' for char in text)


@pytest.mark.parametrize("name", BINDINGS)
@settings(max_examples=50, deadline=None)
@given(event=events())
def test_structured_in_each_binding(name: str, event: Event[Any]) -> None:
    binding = BINDINGS[name]
    headers, body = binding.structured(event)
    found = binding.parse(headers, body, content_type=None if headers else "application/cloudevents+json")
    same(found, stripped(event), typed=True)


@settings(max_examples=500, deadline=None)
@given(event=events())
def test_structured(event: Event[Any]) -> None:
    document = format_json(event)
    found = parse_json(document)
    same(found, stripped(event), typed=True)
    assert format_json(found) == document
    assert parse_json(document.decode()) == found


@settings(max_examples=200, deadline=None)
@given(event=events())
def test_text_body(event: Event[Any]) -> None:
    text = format_text(event)
    assert not any(char in text for char in "\ufffe\uffff\0\x0b")
    same(parse_text(text, {}), stripped(event), typed=True)


@settings(max_examples=100, deadline=None)
@given(batch=st.lists(events(), max_size=5))
def test_batch(batch: list[Event[Any]]) -> None:
    found = parse_json_batch(format_json_batch(batch))
    assert found == [stripped(event) for event in batch]


@settings(max_examples=100, deadline=None)
@given(event=events())
def test_from_mode_to_mode(event: Event[Any]) -> None:
    """A dead letter or a bridge: binary, then structured, then another binary mode."""
    kafka, nats = BINDINGS["kafka"], BINDINGS["nats"]
    first = kafka.parse(kafka.binary_headers(event), event.body)
    second = parse_json(format_json(first))
    third = nats.parse(nats.binary_headers(second), second.body or b"")
    assert third == stripped(event)
