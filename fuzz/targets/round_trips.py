"""What was written is read back equal, on every wire: valid events, made by hypothesis of the input."""

from __future__ import annotations

from datetime import UTC, timedelta, timezone
from hashlib import shake_128
from typing import Any

from aiokafka.structs import TopicPartition
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic_core import to_json

from anybroker.adapter import Outbound
from anybroker.cloudevents import format_json, format_text, parse_json, parse_text
from anybroker.cloudevents.media_type import JSON, media_type
from anybroker.errors import Rejected
from anybroker.event import Event
from anybroker_kafka.wire import Wire as KafkaWire
from anybroker_nats.wire import Wire as NatsWire
from anybroker_rabbitmq.frames import header_frame
from anybroker_rabbitmq.wire import Wire as RabbitmqWire
from anybroker_sqlite.wire import Segment, decode, encode
from anybroker_sqs.wire import Wire as SqsWire

from .. import seeds
from ..registry import target
from .kafka import _Record
from .nats import _LANE
from .rabbitmq import _read as read_amqp
from .sqs import _read as read_sqs

_NONCHARACTERS = [chr(plane * 0x10000 + last) for plane in range(17) for last in (0xFFFE, 0xFFFF)]
_NONCHARACTERS += [chr(code) for code in range(0xFDD0, 0xFDF0)]
_CORE = {"data", "id", "source", "type", "specversion", "time", "subject", "datacontenttype", "dataschema"}

# Hypothesis takes longer for each character than all else takes for the whole event: most are drawn in pieces.
_PIECES = (
    *(
        "a",
        "/shop",
        "order.v1",
        "7",
        " ",
        "  ",
        '"',
        "\\",
        "%",
        "%41",
        "%C3",
        "ä",
        "é",
        "🙂",
        "\u2028",
        "\u202e",
        "\ufeff",
        "&<>'",
    ),
    *(
        "http://e.com/#",
        "1.0",
        "null",
        "true",
        "=",
        ";",
        ":",
        ",",
        "{}",
        "[]",
        "\ud7ff",
        "\ufffd",
        "a" * 300,
        "ß" * 130,
        "0" * 20,
    ),
    *("application/json", "ce_id", "\U0010fffd", "\xa0", "-", "--", "+", "?", "#", "@", "\u00ad"),
)
_characters = st.characters(exclude_categories=("Cs", "Cc"), exclude_characters=_NONCHARACTERS)
_pieces = st.lists(st.sampled_from(_PIECES), max_size=3).map("".join)
_texts = _pieces | _pieces | _pieces | st.text(_characters, max_size=8)
_filled = _texts.map(lambda text: text or "x")
_names = (
    st.tuples(st.sampled_from("abdefginpstuz019"), st.sampled_from(("", "a", "7", "key", "x" * 22)))
    .map("".join)
    .filter(lambda name: name not in _CORE)
)
_values = st.one_of(_texts, st.booleans(), st.integers(-(2**31), 2**31 - 1), st.binary(max_size=20))
_offsets = st.integers(-23 * 60 - 59, 23 * 60 + 59).map(lambda minutes: timezone(timedelta(minutes=minutes)))
_times = st.one_of(
    st.none(),
    st.datetimes(timezones=st.one_of(st.just(UTC), _offsets)),
    st.sampled_from(["2016-12-31T23:59:60Z", "1990-01-01 00:00:00.123456789z", "2016-12-31t15:59:60.1-08:00"]),
)
_content_types = st.sampled_from(
    (
        *(None, "application/json", "Application/Vnd.Example+JSON; charset=UTF-8", "text/plain"),
        *("text/plain; charset=latin-1", "text/plain; charset=utf-16", "application/json; charset=utf-16"),
        *(
            "application/xml",
            "image/png",
            "text/csv; charset=none-such",
            "application/cloudevents+json",
            "a/" + "b" * 300,
        ),
    )
)
_bodies = st.one_of(
    st.none(),
    st.binary(max_size=60),
    _texts.map(str.encode),
    st.sampled_from(
        [b"", b"null", b'""', b" 1 ", b'{"a": 1e2}', b"\xef\xbb\xbf1", b"\xff\xfe1\x00", b"NaN", b"\xef\xbf\xbf"]
    ),
)


@st.composite
def _events(draw: st.DrawFn) -> Event[Any]:
    """Any event: by the reader's rules, which are the wider ones."""
    attributes: dict[str, Any] = {
        "specversion": "1.0",
        "id": draw(_filled),
        "source": draw(_filled),
        "type": draw(_filled),
    }
    more = {"subject": draw(st.none() | _filled), "time": draw(_times), "datacontenttype": draw(_content_types)}
    attributes |= {name: value for name, value in more.items() if value is not None}
    attributes |= draw(st.dictionaries(_names, _values, max_size=4))
    return Event(attributes, draw(_bodies))


_headers = st.none() | st.dictionaries(
    st.sampled_from(["x-a", "traceparent", "anybroker-dead-reason", "anybroker-dead-error", "baggage"]),
    _texts.map(str.strip),
    max_size=3,
)


def _same(outbound: Outbound, event: object, headers: Any) -> None:
    sent: Any = outbound.event
    if isinstance(event, Event) and event.body != sent.body and media_type(sent.datacontenttype or JSON).json:
        # In structured mode JSON has no blanks around it.
        assert event.body == (sent.body or b"").strip(b" \t\r\n")
        event, sent = (Event(each.attributes) for each in (event, sent))
    assert event == sent, f"{sent!r} came back as {event!r}"
    wanted = outbound.headers or {}
    assert {name: headers.get(name) for name in wanted} == dict(wanted), "other transport headers"


_KAFKA = {mode: KafkaWire(mode) for mode in ("binary", "structured")}
_RABBITMQ = {mode: RabbitmqWire(mode) for mode in ("binary", "structured")}
_NATS = {mode: NatsWire(mode) for mode in ("binary", "structured")}
_SQS = {mode: SqsWire(mode) for mode in ("binary", "structured")}


def _kafka(outbound: Outbound) -> None:
    """Kafka, both modes"""
    for wire in _KAFKA.values():
        value, headers = wire.write(outbound)
        assert value is not None or outbound.key is not None, "aiokafka's batches take no record without both"
        inbound = wire.read(TopicPartition("orders", 0), _Record(None, value, list(headers)))
        _same(outbound, inbound.event, inbound.headers)


def _rabbitmq(outbound: Outbound) -> None:
    """RabbitMQ, both modes"""
    for wire in _RABBITMQ.values():
        flags, before, after, body = wire.write(outbound)
        inbound = read_amqp(header_frame(7, len(body), flags, before + b"\x01x" + after), body)
        _same(outbound, inbound.event, inbound.headers)


def _nats(outbound: Outbound) -> None:
    """NATS, both modes"""
    for wire in _NATS.values():
        block, body = wire.write(outbound, "Nats-Msg-Id: 7\r\n")
        inbound = wire.read(None, b"orders.7", b"$JS.ACK.o.g.1.7.7.1.0", body, block, _LANE, 7)
        ours = {name: value for name, value in inbound.headers.items() if name.startswith("anybroker-")}
        _same(outbound, inbound.event, {**(outbound.headers or {}), **ours})


def _sqs(outbound: Outbound) -> None:
    """SQS, both modes"""
    for mode, wire in _SQS.items():
        try:
            made = wire.write(outbound)
        except Rejected:
            assert mode == "binary"
            continue
        inbound = read_sqs(made.body, made.attributes, None)
        _same(outbound, inbound.event, inbound.headers)


def _sqlite(outbound: Outbound) -> None:
    """SQLite"""
    row, body, _ = encode(outbound)
    segment = Segment(7, 1, None, to_json([row]).decode(), body or b"")
    _same(outbound, *decode(segment.rows[0], segment.body(0)))


def _json(outbound: Outbound) -> None:
    """JSON, and JSON that XML can carry"""
    event: Any = outbound.event
    _same(outbound, parse_json(format_json(event)), outbound.headers or {})
    _same(outbound, parse_text(format_text(event), {}), outbound.headers or {})


_WIRES = (_kafka, _rabbitmq, _nats, _sqs, _sqlite, _json)


@settings(database=None, deadline=None, suppress_health_check=(HealthCheck.differing_executors,))
@given(event=_events(), headers=_headers, copy=st.booleans())
def _check(event: Event[Any], headers: dict[str, str] | None, copy: bool) -> None:
    for wire in _WIRES:
        wire(Outbound(event, "orders", headers=headers, hop="dead|g" if copy else ""))


@target("round-trips", seeds.random, measured=False)
def round_trips(data: bytes) -> object:
    """A valid event, written and read by each adapter in both modes, and as JSON"""
    # An input that is too short goes on with what follows from it, so that each one is an event.
    _check.hypothesis.fuzz_one_input(data + shake_128(data).digest(2048))  # type: ignore[attr-defined]
    return None
