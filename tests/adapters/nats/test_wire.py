"""Events as NATS messages: nothing is lost, nothing is invented."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anybroker import Event
from anybroker.adapter import Foreign, Inbound, Lane, Outbound
from anybroker_nats.wire import Wire

MINIMAL = {"specversion": "1.0", "id": "1", "source": "/s", "type": "t"}
LANE = Lane("orders/0", 1)


def read(headers: bytes | None, body: bytes, wire: Wire | None = None) -> Inbound:
    return (wire or Wire()).read(None, b"orders.5", b"$JS.ACK.orders.g.1.7.7.0.0", body, headers, LANE, 7)


def there_and_back(outbound: Outbound, wire: Wire | None = None) -> Inbound:
    return read(*(wire or Wire()).write(outbound, "Nats-Msg-Id: x\r\n"), wire)


def block(*lines: str | bytes) -> bytes:
    encoded = [line.encode() if isinstance(line, str) else line for line in lines]
    return b"\r\n".join((b"NATS/1.0", *encoded, b"", b""))


@pytest.mark.parametrize("mode", ["binary", "structured"])
@pytest.mark.parametrize("body", [None, b"", b"null", b'""', b"\x00\xff\xfe", b"\r\n" * 99])
@pytest.mark.parametrize(
    "attributes",
    [
        {"partitionkey": "k"},
        {"datacontenttype": "text/plain; charset=utf-8"},
        {"subject": ' é "quoted" 100% ', "time": "2026-01-01T00:00:00.123456789+05:30", "partitionkey": "7"},
        {f"ext{n}": "x" * 745 for n in range(11)} | {"n": 7, "yes": True, "empty": ""},
        {"datacontenttype": "application/cloudevents+json"},
    ],
)
def test_an_event_comes_back_equal(mode: Any, attributes: dict[str, Any], body: bytes | None) -> None:
    event = Event({**MINIMAL, **attributes}, body)
    inbound = there_and_back(Outbound(event, "orders"), Wire(mode))
    assert isinstance(inbound.event, Event)
    assert inbound.event == event
    assert inbound.event.body == body
    assert (inbound.key, inbound.headers) == (event.key, {})
    assert (inbound.lane, inbound.position) == (LANE, 7)


TEXT = st.text(st.characters(exclude_categories=("Cs", "Cc", "Cn")), min_size=1)


@given(values=st.dictionaries(st.from_regex(r"[a-z][a-z0-9]{3,9}x", fullmatch=True), TEXT), key=TEXT, body=st.binary())
def test_any_text_survives(values: dict[str, str], key: str, body: bytes) -> None:
    event = Event({**MINIMAL, **values, "partitionkey": key, "datacontenttype": "application/octet-stream"}, body)
    inbound = there_and_back(Outbound(event, "orders"))
    assert (inbound.event, inbound.key) == (event, key)


@given(value=st.text(st.characters(exclude_categories=("Cs",))))
def test_our_own_headers_carry_any_text_and_others_all_but_line_breaks(value: str) -> None:
    headers = {"anybroker-reason": value, "x-plain": value.replace("\r", "").replace("\n", "")}
    assert there_and_back(Outbound(Event(MINIMAL), "orders", headers=headers)).headers == headers


def test_binary_mode_is_the_bindings_headers_and_no_content_type() -> None:
    event = Event({**MINIMAL, "datacontenttype": "application/json", "subject": "é x"}, b"{}")
    headers, body = Wire().write(Outbound(event, "orders", headers={"traceparent": "00-1"}), "Nats-Msg-Id: 7\r\n")
    assert headers == block(
        "Nats-Msg-Id: 7",
        "ce-specversion: 1.0",
        "ce-id: 1",
        "ce-source: /s",
        "ce-type: t",
        "ce-datacontenttype: application/json",
        "ce-subject: %C3%A9%20x",
        "traceparent: 00-1",
    )
    assert body == b"{}"


def test_what_foreign_producers_put_beside_an_event_is_kept() -> None:
    headers = block(
        "CE-ID: 1", "ce-source:/s", "ce-type: t", "ce-specversion: 1.0", "X-Foo: 100% \u00e9 ", "Nats-Msg-Id: 7",
        "baggage: a=b%20c", "anybroker-hop: a%20b", "anybroker-raw: %ff",
    )  # fmt: skip
    inbound = read(headers, b"")
    assert inbound.event == Event(MINIMAL)
    assert inbound.headers == {
        "x-foo": "100% \u00e9 ",
        "baggage": "a=b%20c",
        "anybroker-hop": "a b",
        "anybroker-raw": "%ff",
    }


@pytest.mark.parametrize("headers", [None, block("x-foo: 1")])
def test_go_sends_a_structured_event_without_a_content_type(headers: bytes | None) -> None:
    inbound = read(headers, b'{"specversion":"1.0","id":"1","source":"/s","type":"t","partitionkey":"k"}')
    assert inbound.event == Event({**MINIMAL, "partitionkey": "k"})
    assert inbound.key == "k"


def test_go_writes_values_raw() -> None:
    headers = block(*(f"ce-{name}: {value}" for name, value in MINIMAL.items()), "ce-subject: 100% raw")
    event = read(headers, b"").event
    assert isinstance(event, Event)
    assert event.subject == "100% raw"


def test_a_message_that_is_not_an_event_is_read_raw_and_written_raw() -> None:
    body = b"\xff\x00not an event"
    headers = block(
        b"X-Legacy: \xff\xfe raw ", "x-legacy:  twice", "Content-Type: text/csv", "Nats-Rollup: all",
        "anybroker-attempts: 2",
    )  # fmt: skip
    inbound = read(headers, body)
    assert isinstance(inbound.event, Foreign)
    assert inbound.event.body == body
    assert inbound.event.headers == [
        ("X-Legacy", b"\xff\xfe raw "),
        ("x-legacy", b" twice"),
        ("Content-Type", b"text/csv"),
    ]
    assert inbound.headers == {"x-legacy": " twice", "anybroker-attempts": "2"}
    extra = {"anybroker-reason": "not an event\nat all", "x-legacy": "ours"}
    again = there_and_back(Outbound(inbound.event, "orders.g.dlq", headers=extra))
    assert isinstance(again.event, Foreign)
    assert (again.event.body, again.event.headers) == (body, inbound.event.headers)
    assert again.headers["anybroker-reason"] == "not an event\nat all"


@pytest.mark.parametrize("headers", [{"x": "a\nb"}, {"x": "a\rb"}, {"a b": "c"}, {"é": "c"}, {"": "c"}, {"a:b": "c"}])
def test_a_header_that_would_break_the_protocol_is_refused(headers: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="header"):
        Wire().write(Outbound(Event(MINIMAL), "orders", headers=headers), "")
    foreign = Foreign(b"", [(name, value.encode()) for name, value in headers.items()])
    with pytest.raises(ValueError, match="header"):
        Wire().write(Outbound(foreign, "orders"), "")


def test_the_native_record_is_nats_pys_message() -> None:
    raw = read(block("ce-id: 1", "x-foo: 2"), b"body").raw
    assert (raw.subject, raw.reply, raw.data) == ("orders.5", "$JS.ACK.orders.g.1.7.7.0.0", b"body")
    assert raw.headers == {"ce-id": "1", "x-foo": "2"}
    assert (raw.metadata.sequence.stream, raw.metadata.num_delivered) == (7, 1)


def test_an_endless_number_of_header_names_takes_bounded_memory() -> None:
    wire = Wire()
    for number in range(3000):
        read(block(f"x-{number}: 1"), b"", wire)
    assert len(wire._names) <= 1024


OWN = "Nats-Msg-Id: ours\r\n"


def commands_in(headers: bytes) -> list[bytes]:
    """The lines that the server takes for its own: after a line break, and nowhere else."""
    return [line for line in headers.split(b"\r\n") if line.lower().startswith((b"nats-", b"\nnats-"))]


@pytest.mark.parametrize("event", [True, False])
def test_a_foreign_messages_commands_and_facts_are_not_sent_again(event: bool) -> None:
    """Dead-lettered, replayed, released: its ``Nats-…`` lines do nothing, and no value becomes such a line. What it
    says under our own names is not kept."""
    attributes = [f"ce-{name}: {value}" for name, value in MINIMAL.items()] if event else []
    headers = block(
        "Nats-Rollup: all", "nats-msg-id: 7", "NATS-TTL: 1", "Nats-Expected-Last-Sequence: 5", "Nats-Schedule: @at x",
        *attributes, "x-a: b\nNats-Rollup: all", "x-b: %0D%0ANats-Rollup: all", "ce-subject: a%0D%0ANats-Rollup: all",
        "anybroker-dead-reason: %0D%0ANats-Rollup: all", " Nats-Rollup: sub",
    )  # fmt: skip
    inbound = read(headers, b"{}")
    assert isinstance(inbound.event, Event if event and not isinstance(inbound.event, Foreign) else Foreign)
    beside = {**inbound.headers, "anybroker-reason": "a\r\nNats-Rollup: all"}
    written, _ = Wire().write(Outbound(inbound.event, "orders.g.dlq", headers=beside), OWN)
    assert commands_in(written) == [b"Nats-Msg-Id: ours"]
    assert written.startswith(b"NATS/1.0\r\nNats-Msg-Id: ours\r\n"), "first: later ones of that name are not read"
    bare, _ = Wire().write(Outbound(inbound.event, "orders.g.dlq"), OWN)
    assert commands_in(bare) in ([b"Nats-Msg-Id: ours"], [])


@pytest.mark.parametrize(
    ("headers", "found"),
    [
        (block("größe: 1", "x: 2"), [("gr%C3%B6%C3%9Fe", b"1"), ("x", b"2")]),
        (block(b"caf\xe9: 1", "x: 2"), [("caf%E9", b"1"), ("x", b"2")]),
        (block("a b\x01: 1"), [("a%20b%01", b"1")]),
        (block("nothing", "x: 2"), [("x-unnamed", b"nothing"), ("x", b"2")]),
        (block(": nothing", "x: 2"), [("x-unnamed", b"nothing"), ("x", b"2")]),
        (block("x: a\nNats-Msg-Id: 7"), [("x", b"a%0ANats-Msg-Id: 7")]),
        (b"NATS/1.0 503 No: Responders\r\nx: 2\r\n\r\n", [("x", b"2")]),
        (b"HTTP/1.1 200\r\nx: 2\r\n\r\n", [("x-unnamed", b"HTTP/1.1 200"), ("x", b"2")]),
        (b"NATS/1.0\r\nx: 2", [("x", b"2")]),
        (b"x: 2\r\n", [("x", b"2")]),
        (b"\r\n\r\n", []),
        (block(b"x: \xff", "ce-id: 1"), [("x", b"\xff"), ("ce-id", b"1")]),
    ],
)
def test_a_block_that_no_client_writes_is_read_and_can_be_written(
    headers: bytes, found: list[tuple[str, bytes]]
) -> None:
    inbound = read(headers, b"body")
    assert isinstance(inbound.event, Foreign)
    assert inbound.event.headers == found
    again = there_and_back(Outbound(inbound.event, "orders.g.dlq", headers=inbound.headers))
    assert isinstance(again.event, Foreign)
    assert again.event.headers == found
    assert again.event.body == b"body"


def test_an_event_with_odd_headers_beside_it_is_an_event_and_can_be_sent_on() -> None:
    inbound = read(block(*(f"ce-{name}: {value}" for name, value in MINIMAL.items()), b"caf\xe9: \xff", "x y"), b"")
    assert inbound.event == Event(MINIMAL)
    assert there_and_back(Outbound(inbound.event, "orders.g.dlq", headers=inbound.headers)).event == Event(MINIMAL)


def test_a_subject_that_is_not_text_does_no_harm() -> None:
    """An unordered group gets messages with any last token."""
    inbound = Wire().read(None, b"orders.\xff", b"$JS.ACK.orders.g.1.7.7.0.0", b"1", None, Lane("orders/0", 1), 7)
    assert isinstance(inbound.event, Foreign)
