"""Events as records: nothing is lost, nothing is invented."""

from __future__ import annotations

from typing import Any

import pytest
from aiokafka.structs import ConsumerRecord, TopicPartition

from anybroker.adapter import Foreign, Inbound, Lane, Outbound
from anybroker.cloudevents import Event
from anybroker_kafka.wire import Wire

MINIMAL = {"specversion": "1.0", "id": "1", "source": "/s", "type": "t"}
LANE = Lane("orders/0", 1)


def read(value: bytes | None, headers: Any, key: bytes | None = None, wire: Wire | None = None) -> Inbound:
    record = ConsumerRecord("orders", 0, 7, 0, 0, key, value, None, -1, -1, tuple(headers))
    inbound = (wire or Wire()).read(TopicPartition("orders", 0), record)
    inbound.lane = LANE
    return inbound


def there_and_back(outbound: Outbound, wire: Wire | None = None) -> Inbound:
    wire = wire or Wire()
    value, headers = wire.write(outbound)
    key = outbound.key
    return read(value, headers, None if key is None else key.encode(), wire)


@pytest.mark.parametrize("mode", ["binary", "structured"])
@pytest.mark.parametrize("body", [None, b"", b"null", b'""', b"\x00\xff\xfe"])
@pytest.mark.parametrize(
    "attributes",
    [
        {"partitionkey": "k"},
        {},
        {"subject": ' é "quoted" 100% ', "time": "2026-01-01T00:00:00.123456789+05:30", "partitionkey": "7"},
        {f"ext{n}": "x" * 745 for n in range(11)},
    ],
)
def test_an_event_comes_back_equal(mode: Any, attributes: dict[str, Any], body: bytes | None) -> None:
    content_type = {} if body is None or body.startswith(b"\x00") else {"datacontenttype": "application/json"}
    if mode == "structured" and body == b"":
        content_type = {"datacontenttype": "text/plain"}  # no bytes are no JSON
    event = Event({**MINIMAL, **content_type, **attributes}, body)
    inbound = there_and_back(Outbound(event, "orders"), Wire(mode))
    assert inbound.event == event
    assert isinstance(inbound.event, Event)
    assert inbound.event.body == body
    assert inbound.key == event.key
    assert inbound.headers == {}
    assert (inbound.lane, inbound.position) == (LANE, 7)


def test_binary_mode_is_the_kafka_binding() -> None:
    event = Event({**MINIMAL, "datacontenttype": "application/json", "subject": "é", "partitionkey": "k"}, b"{}")
    value, headers = Wire().write(Outbound(event, "orders"))
    assert value == b"{}"
    assert dict(headers) == {
        "ce_specversion": b"1.0",
        "ce_id": b"1",
        "ce_source": b"/s",
        "ce_type": b"t",
        "ce_subject": "é".encode(),
        "ce_partitionkey": b"k",
        "content-type": b"application/json",
    }


def test_an_event_without_data_is_a_tombstone_under_a_key_and_structured_without_one() -> None:
    assert Wire().write(Outbound(Event({**MINIMAL, "partitionkey": "k"}), "orders"))[0] is None
    value, headers = Wire().write(Outbound(Event(MINIMAL), "orders"))
    assert value is not None
    assert dict(headers)["content-type"].startswith(b"application/cloudevents+json")


def test_transport_headers_travel_beside_it() -> None:
    sent = {"traceparent": "00-2", "anybroker-attempts": "3", "x-empty": "", "x-large": "é" * 8192}
    for mode in ("binary", "structured"):
        wire = Wire("binary" if mode == "binary" else "structured")
        inbound = there_and_back(Outbound(Event(MINIMAL, b"x"), "orders", headers=sent), wire)
        assert inbound.headers == sent


def test_transport_headers_beside_a_structured_event_that_has_as_many_attributes() -> None:
    sent = {"traceparent": "00-2", "anybroker-attempts": "3", "anybroker-not-before": "1.0"}
    inbound = there_and_back(Outbound(Event(MINIMAL, b"x"), "orders", headers=sent), Wire("structured"))
    assert inbound.headers == sent  # four headers, four attributes


def test_another_producers_headers_come_in_lower_case_and_attributes_do_not() -> None:
    headers = [(f"CE_{name}", value.encode()) for name, value in MINIMAL.items()]
    inbound = read(b"x", [*headers, ("X-Foo", b"\xff1"), ("Content-Type", b"text/plain"), ("x-null", None)], b"key")
    assert isinstance(inbound.event, Event)
    assert inbound.event.datacontenttype == "text/plain"
    assert inbound.headers == {"x-foo": "\ufffd1"}
    assert inbound.key == "key"
    assert inbound.event.key is None, "the key is not made an attribute"


def test_keys_that_are_not_text_stay_distinct() -> None:
    headers = [(f"ce_{name}", value.encode()) for name, value in MINIMAL.items()]
    keys = [read(b"", headers, key).key for key in (b"\xff", b"\xfe", b"", None)]
    assert keys == ["\\xff", "\\xfe", None, None]


def test_a_foreign_message_comes_back_byte_for_byte() -> None:
    headers = [("X-Foo", b"\x00\xfe"), ("X-Foo", b"2"), ("content-type", b"text/csv")]
    first = read(b"\xff{", headers, b"k")
    assert isinstance(first.event, Foreign)
    assert first.event.reason is not None
    dead = there_and_back(Outbound(first.event, "dlq", headers={"anybroker-dead-reason": "r", "x-foo": "text"}))
    assert isinstance(dead.event, Foreign)
    assert (dead.event.body, list(dead.event.headers), dead.event.key) == (b"\xff{", headers, "k")
    assert dead.headers["anybroker-dead-reason"] == "r"
    again = there_and_back(Outbound(dead.event, "orders", headers={"anybroker-replays": "1"}))
    assert isinstance(again.event, Foreign)
    assert list(again.event.headers) == headers, "the facts of its death stay behind"
    assert "anybroker-dead-reason" not in again.headers


def test_nothing_at_all_is_foreign() -> None:
    inbound = there_and_back(Outbound(Foreign(None), "orders"))
    assert isinstance(inbound.event, Foreign)
    assert inbound.event.body is None


def test_the_number_of_remembered_header_names_is_bounded() -> None:
    wire = Wire()
    headers = [(f"ce_{name}", value.encode()) for name, value in MINIMAL.items()]
    for number in range(3000):
        assert read(b"", [*headers, (f"X-{number}", b"v")], wire=wire).headers == {f"x-{number}": "v"}
    assert len(wire._names) <= 1024


@pytest.mark.parametrize("kind", ["application/cloudevents+json", "Application/CloudEvents; a=b"])
def test_data_that_is_itself_an_event_is_not_taken_for_it(kind: str) -> None:
    inner = b'{"specversion":"1.0","id":"2","source":"/inner","type":"u"}'
    event = Event({**MINIMAL, "datacontenttype": kind, "partitionkey": "k"}, inner)
    assert there_and_back(Outbound(event, "orders")).event == event
