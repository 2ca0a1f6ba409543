"""Events as rows: nothing is lost, nothing is invented."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic_core import to_json

from anybroker.adapter import Foreign, Outbound
from anybroker.event import Event
from anybroker_sqlite.wire import Segment, decode, encode, fingerprint, size_of

MINIMAL = {"specversion": "1.0", "id": "1", "source": "/s", "type": "t"}


def there_and_back(outbound: Outbound) -> tuple[Any, Any, Any]:
    row, body, _ = encode(outbound)
    segment = Segment(7, 1, None, to_json([row]).decode(), body or b"")
    event, headers = decode(segment.rows[0], segment.body(0))
    return event, headers, segment.rows[0][5]


@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"time": "2026-01-01T00:00:00.123456789+05:30", "datacontenttype": "application/json"},
        {"subject": "s", "dataschema": "https://example.com/s", "datacontenttype": "text/plain"},
        {"partitionkey": "customer-7", "traceparent": "00-1", "tracestate": ""},
        {"partitionkey": ""},
        {"partitionkey": 7},
        {"partitionkey": True, "sequence": -(2**31), "flag": False},
        {"signature": b"\x00\xff", "text": 'é "quoted" % \u2028 🙂 '},
        {f"ext{n}": str(n) for n in range(11)},
    ],
)
@pytest.mark.parametrize("body", [None, b"", b"null", b'""', b"\x00\xff\xfe"])
def test_an_event_comes_back_equal(attributes: dict[str, Any], body: bytes | None) -> None:
    event = Event({**MINIMAL, **attributes}, body)
    back, headers, key = there_and_back(Outbound(event, "orders"))
    assert back == event
    assert back.body == body
    assert key == event.key == back.key
    assert headers == {}


def test_transport_headers_travel_beside_it() -> None:
    event = Event(MINIMAL, b"x")
    sent = {"traceparent": "00-2", "anybroker-attempts": "3", "x-empty": "", "x-large": "é" * 8192}
    back, headers, _ = there_and_back(Outbound(event, "orders", headers=sent, hop="dead/billing"))
    assert back == event
    assert headers == sent


def test_a_foreign_message_comes_back_byte_for_byte() -> None:
    foreign = Foreign(
        b"\xff{", (("X-Foo", b"\x00\xfe"), ("X-Foo", b"2"), ("x-null", None), ("content-type", b"text/csv")), "k"
    )
    back, headers, key = there_and_back(Outbound(foreign, "orders.billing.dlq", headers={"anybroker-reason": "r"}))
    assert isinstance(back, Foreign)
    assert (back.body, list(back.headers), back.key) == (foreign.body, list(foreign.headers), "k")
    assert headers == {"anybroker-reason": "r"}
    assert key == "k"
    assert back.reason is not None


@pytest.mark.parametrize("body", [None, b""])
def test_no_body_and_an_empty_one_of_a_foreign_message_differ(body: bytes | None) -> None:
    back, _, _ = there_and_back(Outbound(Foreign(body), "orders"))
    assert back.body == body


def test_the_bodies_of_a_segment_lie_one_after_the_other() -> None:
    bodies = [b"a", None, b"", b"bcd", None, b"e"]
    rows = [encode(Outbound(Event(MINIMAL, body), "orders"))[0] for body in bodies]
    segment = Segment(1, len(rows), None, to_json(rows).decode(), b"".join(body or b"" for body in bodies))
    assert [segment.body(at) for at in range(len(rows))] == bodies
    assert (segment.first, segment.last) == (1, 6)


def test_the_size_counts_body_attributes_and_headers() -> None:
    small, *_ = encode(Outbound(Event(MINIMAL, b"x" * 100), "orders"))
    large, *_ = encode(
        Outbound(Event({**MINIMAL, "subject": "é" * 100}, b"x" * 100), "orders", headers={"h": "v" * 50})
    )
    assert size_of(small) > 100
    assert size_of(large) >= size_of(small) + 200 + 50


@pytest.mark.parametrize("name", ["id", "source", "type", "datacontenttype", "partitionkey"])
@pytest.mark.parametrize("text", ["x", "é", "🙂"])
def test_the_rough_size_is_at_least_an_eighth(name: str, text: str) -> None:
    value = "text/plain; charset=" + "x" * 10_000 if name == "datacontenttype" else text * 10_000
    row, _, rough = encode(Outbound(Event({**MINIMAL, "time": "2026-01-01T00:00:00Z", name: value}, b"x"), "orders"))
    assert row[7] is None
    assert rough * 8 > size_of(row)


def test_copies_have_one_fingerprint_and_others_have_others() -> None:
    event = Event(MINIMAL, b"x")
    rows = [
        encode(Outbound(event, "orders"))[0],
        encode(Outbound(event, "orders", hop="replay/billing/1"))[0],
        encode(Outbound(Event({**MINIMAL, "id": "2"}, b"x"), "orders"))[0],
        encode(Outbound(Event({**MINIMAL, "source": "/z"}, b"x"), "orders"))[0],
        encode(Outbound(Foreign(b"x"), "orders"))[0],
        encode(Outbound(Foreign(b"y"), "orders"))[0],
    ]
    marks = {fingerprint("orders", None, row) for row in rows}
    marks |= {fingerprint("orders", "billing", rows[0]), fingerprint("parcels", None, rows[0])}
    assert len(marks) == len(rows) + 2
    again, *_ = encode(Outbound(Event(MINIMAL, b"other data"), "orders", headers={"traceparent": "00-9"}))
    assert fingerprint("orders", None, again) == fingerprint("orders", None, rows[0])
