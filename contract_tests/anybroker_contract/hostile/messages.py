"""The messages: what any broker can carry, by what is wrong with it. What only one kind of broker can carry is in
its client (``RawClient.own_hostile``, ``unreadable``, ``forged``)."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from .._kit import TYPE
from ..raw.api import JSON, RawClient, RawMessage

__all__ = ["KEY", "hostile_messages"]

KEY = "k"
"""The key of every hostile event, and of good ones around it: what holds its key up would hold them up."""

_TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
_NUMBERS = {
    "beyond all time": "9e18",
    "infinite": "inf",
    "no number": "nan",
    "too large for a float": "1e400",
    "negative": "-5",
    "5,000 digits": "9" * 5_000,
    "words": "tomorrow",
}
_TRICKS = {
    "C1 controls and bidi overrides": "a\u009b31m\u009d0;owned\u202eb",
    "escapes of a terminal": "\x1b]0;owned\x07\x1b[2J",
    "a lone surrogate": "a\ud800b",
    "a line break": "a\r\nb: c",
    "a zero": "a\0b",
    "rich markup": "[red]a[/red][/]",
}


def hostile_messages(client: RawClient) -> Mapping[str, RawMessage]:
    """What to put between good events, by what is wrong with it.

    What messages of this broker cannot have is left out; the client, or the broker, may refuse some."""
    found: dict[str, RawMessage] = {}
    for group in (_numbers, _inlets, _traces, _attributes, _tricks, _documents, _payloads, _content_types, _foreign):
        found.update(group(client))
    found = {name: message for name, message in found.items() if client.carries(message)}
    found |= {f"unreadable: {name}": message for name, message in client.unreadable().items()}
    return {**found, **client.oversized(), **client.own_hostile()}


def _event(
    client: RawClient,
    more: Mapping[str, Any] | None = None,
    headers: Mapping[str, Any] | None = None,
    body: bytes = b'{"n":1}',
    content_type: str | None = "application/json",
    key: str | None = KEY,
) -> RawMessage:
    attributes = {"specversion": "1.0", "id": "h", "source": "/hostile", "type": TYPE, "partitionkey": key}
    attributes |= more or {}
    given = {name: value for name, value in attributes.items() if value is not None}
    return client.build(body, content_type, given, headers, key)


def _numbers(client: RawClient) -> Iterator[tuple[str, RawMessage]]:
    for name in ("anybroker-not-before", "anybroker-attempts", "anybroker-replays"):
        for kind, value in _NUMBERS.items():
            yield f"{name}: {kind}", _event(client, headers={name: value})
    yield "every header that is ours or the broker's", _event(client, headers=client.forged())


def _inlets(client: RawClient) -> Iterator[tuple[str, RawMessage]]:
    """Where the library trusts headers, and everybody can write."""
    for name, message in _numbers(client):
        yield f"at the inlet: {name}", replace(message, past_the_topic=True)
    yield "at the inlet: no event", replace(client.build(b"1", None, None, client.forged()), past_the_topic=True)


def _traces(client: RawClient) -> Iterator[tuple[str, RawMessage]]:
    long = "x" * (client.header_room // 2)
    parents = {
        "words": "zz",
        "zeros": f"00-{'0' * 32}-{'0' * 16}-01",
        "version ff": f"ff{_TRACE[2:]}",
        "capitals": _TRACE.upper(),
        "a tail": f"{_TRACE}-more",
        "huge": long,
    }
    for kind, value in parents.items():
        yield f"attribute traceparent: {kind}", _event(client, {"traceparent": value})
        yield f"header traceparent: {kind}", _event(client, headers={"traceparent": value})
    for name in ("tracestate", "baggage"):
        for kind, value in {"huge": long, "1,000 members": ",".join(f"a{n}=b" for n in range(1_000))}.items():
            yield f"attribute {name}: {kind}", _event(client, {"traceparent": _TRACE, name: value})
            yield f"header {name}: {kind}", _event(client, headers={"traceparent": _TRACE, name: value})


def _attributes(client: RawClient) -> Iterator[tuple[str, RawMessage]]:
    huge = "x" * (client.header_room // 2)
    for name in ("id", "source", "subject", "dataschema", "correlationid", "causationid", "time"):
        yield f"attribute {name}: huge", _event(client, {name: huge})
    yield "attribute partitionkey: huge", _event(client, {"partitionkey": huge})
    yield "attribute partitionkey: huge, with the broker's key too", _event(client, key=huge)
    yield "attribute type: huge", _event(client, {"type": huge})
    yield "attribute name: huge", _event(client, {"e" * (client.header_room // 2): "1"})
    yield "attribute name: no name", _event(client, {"Ünï!": "1"})
    yield "500 extensions", _event(client, {f"ext{number}": "1" for number in range(500)})
    for kind, value in {
        "the last moment": "9999-12-31T23:59:59.999999999-23:59",
        "the first moment": "0000-01-01T00:00:00Z",
        "many digits": f"2026-01-01T00:00:00.{'9' * 5_000}Z",
        "day 99": "2026-99-99T99:99:99Z",
    }.items():
        yield f"attribute time: {kind}", _event(client, {"time": value})
    yield "attribute specversion: 9.9", _event(client, {"specversion": "9.9"})
    yield "attribute dataschema: no URI", _event(client, {"dataschema": "http://[::1"})
    yield "attribute source: no URI", _event(client, {"source": "http://%zz\\^"})


def _tricks(client: RawClient) -> Iterator[tuple[str, RawMessage]]:
    for kind, value in _TRICKS.items():
        for name in ("id", "subject"):
            yield f"attribute {name}: {kind}", _event(client, {name: value})
        yield f"header: {kind}", _event(client, headers={"x-note": value})


def _documents(client: RawClient) -> Iterator[tuple[str, RawMessage]]:
    """Structured mode."""
    room = min(client.largest // 2, 400_000)
    begin = f'{{"specversion":"1.0","id":"h","source":"/hostile","type":"{TYPE}","partitionkey":"{KEY}"'
    digits = "9" * 5_000
    more = {
        "100,000 arrays within each other": '"data":' + "[" * 100_000 + "]" * 100_000,
        "objects within each other as an extension": '"x":' + '{"a":' * 20_000 + "1" + "}" * 20_000,
        "a number of 5,000 digits as data": f'"data":{{"n":{digits}}}',
        "a number of 5,000 digits as an extension": f'"x":{digits}',
        "1e999": '"data":{"n":1e999}',
        "NaN": '"data":{"n":NaN}',
        "the id twice": '"id":"h2"',
        "a zero in a name": '"a\\u0000b":"1"',
        "bad base64": '"data_base64":"%%%"',
        "huge base64": f'"data_base64":"{b64encode(bytes(room)).decode()}"',
        "10,000 extensions": ",".join(f'"x{number}":"1"' for number in range(10_000)),
        "a huge extension": f'"x":"{"x" * room}"',
        "an extension's huge name": f'"{"x" * room}":"1"',
        "controls as the subject": '"subject":"\\u009b31m\\u202e\\u0000"',
    }
    made = {kind: f"{begin},{text}}}" for kind, text in more.items()}
    made |= {
        "a number of 5,000 digits as the id": begin.replace('"h"', digits) + "}",
        "a lone surrogate as the id": begin.replace('"h"', '"\\ud800"') + "}",
        "an array as the source": begin.replace('"/hostile"', '["/hostile"]') + "}",
        "a huge partitionkey": begin.replace(f'"{KEY}"', f'"{"x" * room}"') + "}",
        "cut short": begin,
        "an array": f"[{begin}}}]",
        "a number": "1",
        "nothing but spaces": " " * 1_000,
    }
    for kind, text in made.items():
        yield f"document: {kind}", client.build(text.encode(), JSON, key=KEY)
    event = f"{begin}}}"
    for kind, data in {
        "a byte order mark": b"\xef\xbb\xbf" + event.encode(),
        "UTF-16": event.encode("utf-16"),
        "not UTF-8": event.replace("/hostile", "/\xff").encode("latin-1"),
    }.items():
        yield f"document: {kind}", client.build(data, JSON, key=KEY)


def _payloads(client: RawClient) -> Iterator[tuple[str, RawMessage]]:
    """Binary mode, decoded for a typed handler."""
    for kind, body in {
        "100,000 arrays within each other": b"[" * 100_000 + b"]" * 100_000,
        "a number of 5,000 digits": b'{"n":' + b"9" * 5_000 + b"}",
        "not UTF-8": b'{"n":"\xff"}',
        "a lone surrogate": b'{"n":1,"s":"\\ud800"}',
        "not JSON": b"{",
        "empty": b"",
        "as large as the broker takes": b'{"n":1,"s":"' + b"x" * (client.largest - 20_000) + b'"}',
    }.items():
        yield f"payload: {kind}", _event(client, body=body)


def _content_types(client: RawClient) -> Iterator[tuple[str, RawMessage]]:
    room = client.content_type_room
    for kind, value in {
        "an event in XML": "application/cloudevents+xml",
        "a batch": "application/cloudevents-batch+json",
        "an unknown character set": "application/cloudevents+json; charset=none",
        "an open quote": f'application/json; a="{"x" * (room - 30)}',
        "many parameters": "application/json" + "; a=b" * ((room - 20) // 5),
        "huge": "a" * (room // 2) + "/" + "b" * (room // 2 - 1),
        "no type": "////;;;==",
    }.items():
        yield f"content type: {kind}", client.build(b'{"n":1}', value, key=KEY)
        yield f"content type of an event: {kind}", _event(client, content_type=value)


def _foreign(client: RawClient) -> Iterator[tuple[str, RawMessage]]:
    room = client.header_room
    yield "no event: as large as the broker takes", client.build(b"x" * client.largest)
    yield "no event: nothing", client.build(b"")
    yield "no event: any bytes", client.build(bytes(range(256)), key=KEY)
    yield "no event: a huge header", client.build(b"1", None, None, {"x-huge": "x" * room})
    yield "no event: a header's huge name", client.build(b"1", None, None, {"x" * room: "1"})
    yield "no event: 5,000 headers", client.build(b"1", None, None, {f"x-{number}": "1" for number in range(5_000)})
    yield "no event: ours and the broker's headers", client.build(b"1", None, None, client.forged())
    dead = {f"anybroker-dead-{name}": "9" * 5_000 for name in ("attempts", "replays", "topic", "group", "position")}
    yield "no event: the facts of a dead letter", client.build(b"1", None, None, dead)
