"""CloudEvents: the JSON formats, header bindings, attribute rules, content types, payloads."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from anybroker.cloudevents import (
    HeaderBinding,
    format_json_batch,
    parse_json,
    parse_json_batch,
    parse_text,
)
from anybroker.cloudevents.attributes import write_uri, write_uri_reference
from anybroker.cloudevents.media_type import is_structured, media_type
from anybroker.cloudevents.payload import decode, encode
from anybroker.cloudevents.percent import percent_decode, percent_encode
from anybroker.cloudevents.timestamps import check_timestamp, format_timestamp, parse_timestamp
from anybroker.errors import DecodeError, EncodeError, InvalidEvent
from anybroker.event import Event

from .. import seeds
from ..messages import split, text
from ..registry import target
from ..using import use

BINDINGS: list[HeaderBinding[Any]] = [
    HeaderBinding(bytes, prefix="ce_"),
    HeaderBinding(
        bytes, prefix="cloudEvents_", also_read=("cloudEvents:", "ce-"), content_type="property", null_body=False
    ),
    HeaderBinding(str, prefix="ce-", content_type="attribute", percent=True, null_body=False, headerless=True),
    HeaderBinding(str, prefix="ce-", also_read=("ce_",)),
]


@target("json", seeds.documents)
def json(data: bytes) -> object:
    """application/cloudevents+json"""
    try:
        return use(parse_json(data))
    except InvalidEvent as exc:
        return str(exc)


@target("json-text", seeds.documents)
def json_text(data: bytes) -> object:
    """The same as text, which can hold what UTF-8 cannot"""
    try:
        return use(parse_json(text(data)))
    except InvalidEvent as exc:
        return str(exc)


@target("batch", seeds.batches)
def batch(data: bytes) -> object:
    """application/cloudevents-batch+json"""
    try:
        events = parse_json_batch(data)
    except InvalidEvent as exc:
        return str(exc)
    assert parse_json_batch(format_json_batch(events)) == [use(event) for event in events]
    return events


@target("headers", seeds.headers)
def headers(data: bytes) -> object:
    """Binary and structured mode in every kind of headers; the first byte says which"""
    binding = BINDINGS[data[0] % len(BINDINGS)] if data else BINDINGS[0]
    found, body = split(data[1:])
    fields: list[tuple[str, Any]] = [(text(name), value) for name, value in found]
    content_type = None
    if binding is BINDINGS[1] and fields and fields[0][1] is not None:
        content_type = text(fields.pop(0)[1])
    if binding in BINDINGS[2:]:
        fields = [(name, None if value is None else text(value)) for name, value in fields]
    usual, count = binding.parse_usual(fields, body)
    try:
        event = binding.parse(fields, body, content_type=content_type)
    except InvalidEvent as exc:
        assert usual is None, "the fast path accepts what the slow one refuses"
        return str(exc)
    assert usual is None or (usual == event and count == len(event.attributes)), "the fast path reads another event"
    again = binding.parse(binding.binary_headers(event), event.body or b"", content_type=event.datacontenttype)
    if event.body:
        assert again == event
    return use(event)


@target("text-body", seeds.headers)
def text_body(data: bytes) -> object:
    """Events on transports of characters, and envelopes of notification services"""
    found, body = split(data[1:])
    attributes: dict[str, Any] = {text(name): value if data[0] & 1 else text(value or b"") for name, value in found}
    try:
        return use(parse_text(body or b"" if data[:1] < b"\x80" else text(body or b""), attributes))
    except InvalidEvent as exc:
        return str(exc)


def _typed(value: bytes | None) -> Any:
    """A value of any Python type, chosen by its first byte."""
    if not value:
        return value
    rest = value[1:]
    match value[:1]:
        case b"i":
            return int.from_bytes(rest[:16], "big", signed=True)
        case b"y":
            return rest
        case b"b":
            return bool(rest)
        case b"f":
            return len(rest) / 7 if rest else float("nan")
        case b"m":
            return memoryview(rest)
        case b"t":
            zone = UTC if len(rest) % 2 else None
            return datetime.fromtimestamp(int.from_bytes(rest[:4], "big"), UTC).replace(tzinfo=zone)
        case b"l":
            return [rest]
        case _:
            return text(value)


@target("attributes", seeds.attributes)
def attributes(data: bytes) -> object:
    """Context attributes of every type: Event(…), and Event.create with its stricter rules"""
    found, body = split(data)
    given = {text(name): _typed(value) for name, value in found}
    read: object
    try:
        read = use(Event(given, body))
    except (InvalidEvent, EncodeError) as exc:
        read = str(exc)
    known = ("source", "type", "id", "time", "subject", "datacontenttype", "dataschema", "key")
    own: dict[str, Any] = {name: given.pop(name) for name in known if name in given}
    given.pop("specversion", None)
    try:
        made = Event.create(body, source=own.pop("source", "/s"), type=own.pop("type", "t"), extensions=given, **own)
    except (InvalidEvent, EncodeError) as exc:
        return read, str(exc)
    return read, use(made)


@target("times", lambda: seeds.lines("times"))
def times(data: bytes) -> object:
    """RFC 3339"""
    value = text(data)
    try:
        check_timestamp("time", value)
    except InvalidEvent as exc:
        return str(exc)
    moment = parse_timestamp(value)
    try:
        written = format_timestamp("time", moment)
    except InvalidEvent:
        return moment
    assert parse_timestamp(written) == moment
    return moment


@target("uris", lambda: seeds.lines("uris"))
def uris(data: bytes) -> object:
    """URI-references and URIs, by the stricter rules for created events"""
    value = text(data)
    for rule in (write_uri_reference, write_uri):
        try:
            written = rule("source", value)
        except InvalidEvent:
            continue
        assert written == value
    return None


@target("media-type", lambda: seeds.lines("media types"))
def media_types(data: bytes) -> object:
    """Content types"""
    value = text(data)
    is_structured(value)
    try:
        kind = media_type(value)
    except InvalidEvent as exc:
        return str(exc)
    assert not (kind.json and kind.text)
    if kind.charset is not None:
        "a".encode(kind.charset)
    return kind


@target("payload", seeds.payloads)
def payload(data: bytes) -> object:
    """Data by its content type: Event.data"""
    content_type, _, body = data.partition(b"\x1d")
    kind = text(content_type) or None
    try:
        found = decode(body, kind)
    except (DecodeError, InvalidEvent) as exc:
        return str(exc)
    try:
        encode(found, kind)
    except EncodeError as exc:
        return str(exc)
    return found


@target("percent", lambda: seeds.lines("percent"))
def percent(data: bytes) -> object:
    """Percent-encoding of header values"""
    value = text(data)
    try:
        percent_decode("x", value)
    except InvalidEvent:
        pass
    if not any("\ud800" <= character <= "\udfff" for character in value):
        written = percent_encode(value)
        assert written.isascii()
        assert percent_decode("x", written) == value
    return None
