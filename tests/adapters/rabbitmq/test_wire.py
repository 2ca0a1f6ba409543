"""Events as AMQP messages: nothing is lost, nothing is invented."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pytest
from aiormq.abc import DeliveredMessage
from pamqp.commands import Basic
from pamqp.header import ContentHeader

from anybroker.adapter import Foreign, Inbound, Lane, Outbound
from anybroker.cloudevents import Event
from anybroker_rabbitmq.foreign import DecodedForeign
from anybroker_rabbitmq.frames import body_frames, header_frame, publish_frame, settle_frame
from anybroker_rabbitmq.wire import Wire

MINIMAL = {"specversion": "1.0", "id": "1", "source": "/s", "type": "t"}
LANE = Lane("orders/0", 1)
There = Callable[..., tuple[Any, bytes]]


@pytest.fixture
def sent(kit: SimpleNamespace) -> There:
    """Writes an event, and reads the frames with pamqp: its content header and body."""

    def write(outbound: Outbound, wire: Wire | None = None) -> tuple[Any, bytes]:
        flags, properties, body = (wire or Wire()).write(outbound, "id")
        data = header_frame(3, len(body), flags, properties) + b"".join(body_frames(3, body, 100))
        header, *parts = kit.frames(data)
        return header, b"".join(part.value for part in parts)

    return write


def read(header: ContentHeader, body: bytes, wire: Wire | None = None) -> Inbound:
    delivery = Basic.Deliver(delivery_tag=7, redelivered=False, exchange="orders", routing_key="5")
    message = DeliveredMessage(delivery=delivery, header=header, body=body, channel=None)  # type: ignore[arg-type]
    return (wire or Wire()).read(message, LANE, 7, "token")


@pytest.mark.parametrize("mode", ["binary", "structured"])
@pytest.mark.parametrize("prefix", ["cloudEvents_", "cloudEvents:", "ce-"])
@pytest.mark.parametrize("body", [None, b"", b"null", b'""', b"\x00\xff\xfe", b"x" * 250])
@pytest.mark.parametrize(
    "attributes",
    [
        {"partitionkey": "k"},
        {"datacontenttype": "text/plain; charset=utf-8"},
        {"subject": ' é "quoted" 100% ', "time": "2026-01-01T00:00:00.123456789+05:30", "partitionkey": "7"},
        {f"ext{n}": "x" * 745 for n in range(11)} | {"n": 7, "yes": True, "e" * 200: "a name over 128 bytes"},
    ],
)
def test_an_event_comes_back_equal(
    sent: There, mode: Any, prefix: str, attributes: dict[str, Any], body: bytes | None
) -> None:
    event = Event({**MINIMAL, **attributes}, body)
    header, written = sent(Outbound(event, "orders"), Wire(mode, prefix))
    inbound = read(header, written)
    assert inbound.event == event
    assert isinstance(inbound.event, Event)
    assert inbound.event.body == body
    assert inbound.key == event.key
    assert inbound.headers == {}
    assert (inbound.lane, inbound.position, inbound.token, inbound.deliveries) == (LANE, 7, "token", 1)


def test_binary_mode_is_headers_and_the_content_type_property(sent: There) -> None:
    event = Event({**MINIMAL, "datacontenttype": "application/json", "subject": "é", "partitionkey": "k"}, b"{}")
    header, body = sent(Outbound(event, "orders"))
    properties = header.properties
    assert properties.headers == {
        "cloudEvents_specversion": "1.0",
        "cloudEvents_id": "1",
        "cloudEvents_source": "/s",
        "cloudEvents_type": "t",
        "cloudEvents_subject": "é",
        "cloudEvents_partitionkey": "k",
    }
    assert (properties.content_type, properties.delivery_mode, properties.message_id) == ("application/json", 2, "id")
    assert body == b"{}"


@pytest.mark.parametrize(
    "attributes",
    [
        {"e" * 256: "x"},
        {"datacontenttype": "text/plain; x=" + "y" * 255},
        {"datacontenttype": "application/CloudEvents+json"},
    ],
    ids=["a name too long", "a content type too long", "an event about an event"],
)
def test_what_binary_mode_cannot_carry_goes_structured(sent: There, attributes: dict[str, Any]) -> None:
    event = Event({**MINIMAL, **attributes}, b"{}")
    header, body = sent(Outbound(event, "orders", headers={"traceparent": "00"}))
    assert header.properties.content_type == "application/cloudevents+json"
    inbound = read(header, body)
    assert inbound.event == event
    assert inbound.headers == {"traceparent": "00"}


def test_native_types_and_mixed_prefixes_are_read(kit: SimpleNamespace) -> None:
    headers = {
        "cloudEvents:specversion": "1.0",
        "ce-id": "1",
        "cloudEvents_source": "/s",
        "CE-Type": "t",
        "ce-time": datetime(2026, 1, 1, tzinfo=UTC),
        "ce-number": 7,
        "ce-yes": False,
        "x-foo": 5,
        "X-Bytes": b"\xff",
    }
    inbound = Wire().read(kit.message(b"[]", headers, content_type="application/json"), LANE, 1, None)
    assert isinstance(inbound.event, Event)
    assert inbound.event.time == datetime(2026, 1, 1, tzinfo=UTC)
    assert (inbound.event["number"], inbound.event["yes"]) == (7, False)
    assert inbound.event.datacontenttype == "application/json"
    assert inbound.headers == {"x-foo": "5", "x-bytes": "\ufffd"}


def test_the_brokers_own_headers_are_its_own(kit: SimpleNamespace) -> None:
    headers = {f"cloudEvents_{name}": value for name, value in MINIMAL.items()}
    headers |= {"x-delivery-count": 3, "x-acquired-count": 5, "x-death": [{"count": 1}], "x-first-death-queue": "q"}
    inbound = Wire().read(kit.message(b"", headers, redelivered=True), LANE, 1, None)
    assert inbound.headers == {}
    assert inbound.deliveries == 4  # servers before 4.3 count nothing in x-acquired-count
    newer = Wire()
    newer.counters |= {"x-acquired-count"}
    assert newer.read(kit.message(b"", headers, redelivered=True), LANE, 1, None).deliveries == 6
    first = Wire().read(kit.message(b"", headers), LANE, 1, None)
    assert (first.headers, first.deliveries) == ({}, 1)  # another program wrote them


@pytest.mark.parametrize("text", ["9e18", "inf", "nan", "soon", "", "4000000000"])
def test_a_moment_that_the_ladder_cannot_mean_is_not_believed(kit: SimpleNamespace, text: str) -> None:
    headers = {f"cloudEvents_{name}": value for name, value in MINIMAL.items()} | {"anybroker-not-before": text}
    inbound = Wire().read(kit.message(b"", headers), LANE, 1, None)
    assert (inbound.headers, inbound.not_before) == ({"anybroker-not-before": ""}, None)


def test_transport_headers_travel_beside_the_event(sent: There) -> None:
    headers = {"traceparent": "00-1", "x-ünïcode": " é ", "anybroker-attempts": "2"}
    inbound = read(*sent(Outbound(Event(MINIMAL), "orders", headers=headers)))
    assert inbound.headers == headers


def test_a_delayed_event_says_until_when(sent: There) -> None:
    inbound = read(*sent(Outbound(Event(MINIMAL), "orders", not_before=1234.5678)))
    assert inbound.headers == {"anybroker-not-before": "1234.568"}
    own = {"anybroker-not-before": "1.000"}
    assert read(*sent(Outbound(Event(MINIMAL), "orders", headers=own, not_before=1234.5678))).headers == own


def test_a_transport_header_with_too_long_a_name_is_refused() -> None:
    with pytest.raises(ValueError, match="255"):
        Wire().write(Outbound(Event(MINIMAL), "orders", headers={"x" * 256: ""}), "id")


def test_a_foreign_message_keeps_body_headers_and_properties(kit: SimpleNamespace, sent: There) -> None:
    native = {
        "x-foo": "bar",
        "X-Number": 5_000_000_000,
        "double": 0.1,
        "yes": True,
        "none": None,
        "bytes": bytearray(b"\x00\xff"),
        "raw": b"\xff\xfe",
        "decimal": Decimal("1.5"),
        "table": {"inner": [1, "two", {"three": 3.5}]},
        "n" * 200: "a name over 128 bytes",
    }
    properties = {
        "content_type": "text/plain",
        "content_encoding": "gzip",
        "priority": 4,
        "correlation_id": "c-1",
        "reply_to": "back",
        "expiration": "60000",
        "message_id": "theirs",
        "timestamp": datetime(2026, 1, 1, tzinfo=UTC),
        "message_type": "order",
        "user_id": "guest",
        "app_id": "shop",
    }
    inbound = Wire().read(kit.message(b"\xff\x00", {**native, "x-death": []}, **properties), LANE, 1, None)
    foreign = inbound.event
    assert isinstance(foreign, DecodedForeign)
    assert foreign.body == b"\xff\x00"
    assert foreign.reason is not None
    assert ("x-foo", b"bar") in foreign.headers
    assert ("raw", b"\xff\xfe") in foreign.headers
    assert ("content-type", b"text/plain") in foreign.headers
    header, body = sent(Outbound(foreign, "dead", headers={"anybroker-reason": "no event", "x-foo": "ours gives way"}))
    again = header.properties
    assert body == b"\xff\x00"
    assert again.headers == {**native, "anybroker-reason": "no event"}
    kept = {**properties, "message_id": "id", "expiration": None, "user_id": None}
    assert {name: getattr(again, name) for name in kept} == kept
    twice = read(header, body)
    assert isinstance(twice.event, DecodedForeign)
    assert list(twice.event.headers) == list(foreign.headers)
    assert twice.headers["anybroker-reason"] == "no event"


def test_a_foreign_message_of_another_broker_is_written_byte_for_byte(sent: There) -> None:
    foreign = Foreign(b"\xff", [("X-Foo", b"\xfe"), ("content-type", b"text/plain")])
    header, body = sent(Outbound(foreign, "dead", headers={"x-foo": "", "anybroker-reason": "r"}))
    assert body == b"\xff"
    assert header.properties.headers == {"X-Foo": b"\xfe", "anybroker-reason": "r"}
    assert header.properties.content_type == "text/plain"
    assert sent(Outbound(Foreign(None), "dead"))[1] == b""


def test_what_is_no_event_is_foreign(kit: SimpleNamespace) -> None:
    for headers, properties in (
        (None, {}),
        ({"cloudEvents_id": "1"}, {}),
        ({f"ce-{name}": b"\xff" for name in MINIMAL}, {}),
        ({}, {"content_type": "application/cloudevents+json"}),
        ({}, {"content_type": "application/cloudevents-batch+json"}),
    ):
        inbound = Wire().read(kit.message(b"{", headers, **properties), LANE, 1, None)
        assert isinstance(inbound.event, DecodedForeign)
        assert inbound.key is None


def test_frames_are_those_of_amqp(kit: SimpleNamespace) -> None:
    publish, header, *body = kit.frames(
        publish_frame(7, "orders", "42")
        + header_frame(7, 5, Basic.Properties.flags["message_id"], b"\x01i")
        + b"".join(body_frames(7, b"12345", 2))
    )
    assert (publish.exchange, publish.routing_key, publish.mandatory) == ("orders", "42", True)
    assert (header.body_size, header.properties.message_id) == (5, "i")
    assert [part.value for part in body] == [b"12", b"34", b"5"]
    ack, reject, nack = kit.frames(settle_frame(80, 7, 9, 1) + settle_frame(90, 7, 10, 1) + settle_frame(120, 7, 11, 2))
    assert (ack.name, ack.delivery_tag, ack.multiple) == ("Basic.Ack", 9, True)
    assert (reject.name, reject.delivery_tag, reject.requeue) == ("Basic.Reject", 10, True)
    assert (nack.name, nack.delivery_tag, nack.multiple, nack.requeue) == ("Basic.Nack", 11, False, True)


def test_a_foreign_message_that_was_routed_by_its_headers_is_not_routed_by_them_again(kit: SimpleNamespace) -> None:
    """CC and BCC travel under other names, and come back as what they were, from dead letter to dead letter."""
    headers = {"CC": ["7", "8"], "x-legacy": "yes", "cc": "not RabbitMQ's"}
    message = kit.message(b"order 1", headers, reply_to="me", priority=4, expiration="5", user_id="u")
    for _ in range(3):
        foreign = Wire().read(message, LANE, 1, None).event
        assert isinstance(foreign, Foreign)
        assert dict(foreign.headers) == {"CC": b"['7', '8']", "x-legacy": b"yes", "cc": b"not RabbitMQ's"}
        written = Wire().write(Outbound(foreign, "dead", headers={"anybroker-dead-reason": "r"}), "id")
        frame = header_frame(7, 7, written.flags, written.properties)
        (header,) = kit.frames(frame)
        sent = header.properties.headers
        assert "CC" not in sent
        assert sent["anybroker-foreign-cc"] == ["7", "8"]
        assert (header.properties.reply_to, header.properties.priority) == ("me", 4)
        assert (header.properties.expiration, header.properties.user_id) == (None, None)
        message = kit.message(b"order 1", sent, reply_to="me", priority=4)
        assert "anybroker-foreign-cc" not in Wire().read(message, LANE, 1, None).headers


def test_a_message_from_elsewhere_is_not_routed_by_its_headers(kit: SimpleNamespace) -> None:
    written = Wire().write(Outbound(Foreign(b"x", [("CC", b"a"), ("BCC", b"b")]), "dead"), "id")
    (header,) = kit.frames(header_frame(7, 1, written.flags, written.properties))
    assert header.properties.headers == {"anybroker-foreign-cc": "a", "anybroker-foreign-bcc": "b"}
    back = Wire().read(kit.message(b"x", header.properties.headers), LANE, 1, None).event
    assert isinstance(back, Foreign)
    assert list(back.headers) == [("CC", b"a"), ("BCC", b"b")]


def test_times_in_milliseconds_stay_what_they_are(sent: There) -> None:
    moment = datetime(2026, 1, 1, 12, 30, 15, 7000, UTC)
    properties = Basic.Properties(headers={"when": moment, "all": [moment]}, timestamp=moment)
    foreign = read(ContentHeader(0, 1, properties), b"x").event
    header, _ = sent(Outbound(foreign, "dead"))
    assert header.properties.headers == {"when": moment, "all": [moment]}
    assert header.properties.timestamp == moment
