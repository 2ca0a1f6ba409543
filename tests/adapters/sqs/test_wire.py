"""Events as SQS and SNS messages: nothing is lost, nothing is invented, nothing that AWS refuses is sent."""

from __future__ import annotations

import json
import re
from time import time
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anybroker.adapter import Foreign, Inbound, Lane, Outbound
from anybroker.cloudevents import Event
from anybroker.errors import Rejected
from anybroker_sqs.names import HASHED
from anybroker_sqs.wire import Message, Wire

LANE = Lane("orders", 1)
MINIMAL = {"specversion": "1.0", "id": "1", "source": "/s", "type": "t"}
XML = re.compile("[\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]*")
"""What SQS takes in a body and in an attribute's value."""
TEXT = st.text(st.characters(exclude_categories=("Cs", "Cc", "Cn")), max_size=30)


def sent(outbound: Outbound, mode: Any = "structured") -> Message:
    """What is written, checked against SQS's rules."""
    message = Wire(mode).write(outbound)
    texts = [message.body, *(value["StringValue"] for value in message.attributes.values())]
    assert all(text and XML.fullmatch(text) for text in texts)
    assert len(message.attributes) <= 10
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]{1,256}", name) for name in message.attributes)
    sizes = [
        len(name) + len("String") + len(value["StringValue"].encode()) for name, value in message.attributes.items()
    ]
    assert message.size == len(message.body.encode()) + sum(sizes)
    return message


def arrived(message: Message, **system: Any) -> Inbound:
    """The same, received."""
    raw = {"MessageId": "m", "Body": message.body, "MessageAttributes": message.attributes, "Attributes": system}
    return Wire().read(raw, LANE)


@pytest.mark.parametrize("body", [None, b"", b"null", b'""', b"\x00\xff\xfe", b"x" * 250, "Grüße\r\n\x0b".encode()])
@pytest.mark.parametrize(
    "attributes",
    [
        {"partitionkey": "k"},
        {"datacontenttype": "text/plain; charset=utf-8"},
        {"subject": ' é "quoted" 100% ', "time": "2026-01-01T00:00:00.123456789+05:30", "partitionkey": "7"},
        {f"ext{n}": "x" * 745 for n in range(11)} | {"n": 7, "yes": True, "empty": ""},
    ],
)
def test_an_event_comes_back_equal(attributes: dict[str, Any], body: bytes | None) -> None:
    event = Event({**MINIMAL, **attributes}, body)
    inbound = arrived(sent(Outbound(event, "orders")))
    assert inbound.event == event
    assert inbound.key == attributes.get("partitionkey")
    assert inbound.headers == {}


def test_headers_take_no_more_room_than_their_text() -> None:
    text = "ошибка" * 100
    message = Wire().write(Outbound(Event(MINIMAL), "orders", headers={"anybroker-dead-error": text}))
    plain = Wire().write(Outbound(Event(MINIMAL), "orders"))
    assert message.size - plain.size < len(text.encode()) + 60
    odd = "\x00\ufffe\u2028"
    assert arrived(sent(Outbound(Event(MINIMAL), "orders", headers={"x": odd}))).headers == {"x": odd}


@given(
    body=st.binary(max_size=40) | st.none(),
    subject=TEXT,
    key=TEXT,
    headers=st.dictionaries(st.from_regex(r"x-[a-z]{1,8}", fullmatch=True), st.text(max_size=40), max_size=4),
)
def test_any_event_and_headers_come_back(body: bytes | None, subject: str, key: str, headers: dict[str, str]) -> None:
    optional = {name: value for name, value in (("subject", subject), ("partitionkey", key)) if value}
    event = Event({**MINIMAL, **optional}, body)
    inbound = arrived(sent(Outbound(event, "orders", headers=headers)))
    assert (inbound.event, inbound.headers) == (event, headers)


def test_attributes_for_filter_policies_stand_beside_the_body(kit: SimpleNamespace) -> None:
    message = sent(Outbound(kit.event(subject="über"), "orders", headers={"traceparent": "00-1"}))
    assert {name: value["StringValue"] for name, value in message.attributes.items()} == {
        "content-type": "application/cloudevents+json",
        "ce-type": "com.example.placed",
        "ce-source": "/shop",
        "ce-subject": "über",
        "anybroker": '{"traceparent":"00-1"}',
    }


def test_not_before_is_written_where_the_core_has_not(kit: SimpleNamespace) -> None:
    assert arrived(sent(Outbound(kit.event(), "orders", not_before=1.5))).headers == {"anybroker-not-before": "1.500"}
    own = {"anybroker-not-before": "7"}
    assert arrived(sent(Outbound(kit.event(), "orders", headers=own, not_before=7.0))).headers == own


@pytest.mark.parametrize("data", ["text with ü\n", {"a": 1}])
def test_binary_mode_comes_back_equal(kit: SimpleNamespace, data: Any) -> None:
    event = kit.event(key="k", data=data)
    message = sent(Outbound(event, "orders", headers={"x-a": "1"}), "binary")
    assert message.attributes["ce-partitionkey"]["StringValue"] == "k"
    inbound = arrived(message)
    assert (inbound.event, inbound.headers, inbound.key) == (event, {"x-a": "1"}, "k")


@pytest.mark.parametrize(
    ("attributes", "body", "problem"),
    [
        ({}, None, "absent, empty"),
        ({}, b"", "absent, empty"),
        ({}, b"\xff", "not XML"),
        ({}, b"a\x00b", "not XML"),
        ({"comment": ""}, b"{}", "'ce-comment' is empty"),
        ({f"ext{n}": "x" for n in range(7)}, b"{}", "11 message attributes"),
    ],
)
def test_binary_mode_fails_fast(attributes: dict[str, str], body: bytes | None, problem: str) -> None:
    with pytest.raises(Rejected, match=f"{problem}.*content_mode=structured"):
        Wire("binary").write(Outbound(Event({**MINIMAL, **attributes}, body), "orders"))


def test_our_headers_count_as_an_attribute_in_binary_mode() -> None:
    event = Event({**MINIMAL, **{f"ext{n}": "x" for n in range(6)}}, b"{}")
    assert len(Wire("binary").write(Outbound(event, "orders")).attributes) == 10
    with pytest.raises(Rejected, match="11 message attributes"):
        Wire("binary").write(Outbound(event, "orders", headers={"x-a": "1"}))


# ------------------------------------------------------------------------------------------------- foreign messages


@pytest.mark.parametrize("body", [b"\x00\xff{", b"", None, b"plain"])
def test_a_foreign_message_comes_back_byte_for_byte(body: bytes | None) -> None:
    foreign = Foreign(body, [("X-Legacy", b"\xff\x00"), ("x-legacy", b"twice"), ("x-null", None)], "k")
    inbound = arrived(sent(Outbound(foreign, "orders.g.dlq", headers={"anybroker-dead-reason": "ü"})))
    assert isinstance(inbound.event, Foreign)
    assert (inbound.event.body, inbound.event.headers, inbound.key) == (body, foreign.headers, "k")
    assert inbound.headers == {"anybroker-dead-reason": "ü"}
    assert inbound.event.reason is not None


def test_what_is_no_event_keeps_body_and_attributes(kit: SimpleNamespace) -> None:
    inbound = Wire().read(kit.received("no event ü", {"X-Text": "a", "blob": b"\xff"}, group="g", count=3), LANE)
    assert isinstance(inbound.event, Foreign)
    assert inbound.event.body == "no event ü".encode()
    assert inbound.event.headers == [("X-Text", b"a"), ("blob", b"\xff")]
    assert inbound.headers == {"x-text": "a", "blob": "\ufffd"}
    assert (inbound.key, inbound.event.key, inbound.deliveries) == ("g", "g", 3)
    assert "JSON" in str(inbound.event.reason)


@pytest.mark.parametrize(
    "text", ["{}", "[]", "no", '{"body": 1, "headers": [], "key": null}', '{"body":"%","headers":[],"key":null}']
)
def test_a_wrapper_that_is_not_ours_is_foreign_itself(kit: SimpleNamespace, text: str) -> None:
    attributes = {"content-type": "application/vnd.anybroker.foreign+json"}
    inbound = Wire().read(kit.received(text, attributes), LANE)
    assert isinstance(inbound.event, Foreign)
    assert inbound.event.body == text.encode()


@pytest.mark.parametrize("value", ["plain", "[1]", '{"a": 1}', b"\xff"])
def test_somebody_elses_attribute_of_our_name_is_a_header(kit: SimpleNamespace, value: str | bytes) -> None:
    document = json.dumps({**MINIMAL, "data": 1})
    inbound = Wire().read(kit.received(document, {"anybroker": value}), LANE)
    assert isinstance(inbound.event, Event)
    assert set(inbound.headers) == {"anybroker"}


def test_a_notification_envelope_is_opened(kit: SimpleNamespace) -> None:
    document = json.dumps({**MINIMAL, "data": {"a": 1}})
    envelope = {"Type": "Notification", "MessageId": "1", "TopicArn": "arn", "Message": document}
    inbound = Wire().read(kit.received(json.dumps(envelope)), LANE)
    assert isinstance(inbound.event, Event)
    assert (inbound.event.id, inbound.event.data) == ("1", {"a": 1})


def test_an_event_in_json_needs_no_attributes(kit: SimpleNamespace) -> None:
    inbound = Wire().read(kit.received(json.dumps(MINIMAL), {"x-Foo": "1"}, group="theirs"), LANE)
    assert isinstance(inbound.event, Event)
    assert (inbound.event.body, inbound.headers, inbound.key) == (None, {"x-foo": "1"}, "theirs")


def test_a_message_group_of_ours_is_no_key(kit: SimpleNamespace) -> None:
    assert Wire().read(kit.received(json.dumps(MINIMAL), group="#0123"), LANE).key is None


@pytest.mark.parametrize("headers", [{"good": "yes", "bad": "\ud800"}, {"b\udfffd": "yes"}])
def test_a_header_with_an_unpaired_surrogate_is_refused(kit: SimpleNamespace, headers: dict[str, str]) -> None:
    with pytest.raises(Rejected, match="not Unicode"):
        Wire().write(Outbound(kit.event(), "orders", headers=headers))


def test_headers_that_were_written_with_an_unpaired_surrogate_stay_apart(kit: SimpleNamespace) -> None:
    stored = {"anybroker": '{"good":"yes","bad":"a\\ud800b","n\\udc00":"x"}'}
    message = kit.received(json.dumps(MINIMAL), stored)
    assert Wire().read(message, LANE).headers == {"good": "yes", "bad": "a\ufffdb", "n\ufffd": "x"}


@pytest.mark.parametrize(
    ("attributes", "body"),
    [
        ({f"a{n}": "v" for n in range(6)}, b"x"),
        ({f"a{n}": "v" for n in range(20)}, b"x"),
        ({"subject": "s"}, None),
        ({}, b"\xff"),
        ({}, b"\0"),
    ],
    ids=["ten attributes", "more than ten", "no data", "not text", "not XML"],
)
def test_a_copy_of_what_is_stored_goes_structured_where_binary_mode_cannot_carry_it(
    attributes: dict[str, str], body: bytes | None
) -> None:
    event: Event[Any] = Event({**MINIMAL, **attributes, "datacontenttype": "application/octet-stream"}, body)
    headers = {"anybroker-dead-letter-reason": "a long one"}
    with pytest.raises(Rejected):
        Wire("binary").write(Outbound(event, "orders", headers=headers))
    message = sent(Outbound(event, "orders.g.dlq", headers=headers, hop="dead|1", reserve=0), "binary")
    inbound = arrived(message)
    assert inbound.event == event
    assert inbound.headers == headers


@pytest.mark.parametrize("text", ["9e18", "inf", "nan", "soon", "", "4000000000"])
def test_a_moment_that_we_never_write_is_not_believed(kit: SimpleNamespace, text: str) -> None:
    message = sent(Outbound(kit.event(), "orders", headers={"anybroker-not-before": text}))
    inbound = arrived(message)
    assert (inbound.headers, inbound.not_before) == ({"anybroker-not-before": ""}, None)


def test_what_is_in_the_message_group_of_its_key_is_not_put_off(kit: SimpleNamespace) -> None:
    moment = time() + 3600
    message = sent(Outbound(kit.event(), "orders", headers={"anybroker-not-before": str(moment)}))
    assert arrived(message, MessageGroupId="victim").not_before is None
    assert arrived(message, MessageGroupId=f"{HASHED}abc").not_before == moment


@pytest.mark.parametrize("name", ["anybroker-not-before", "Anybroker-Attempts", "anybroker-inlet", "anybroker-key"])
def test_attributes_named_like_our_headers_say_nothing(kit: SimpleNamespace, name: str) -> None:
    message = sent(Outbound(kit.event(), "orders"))
    message.attributes[name] = {"DataType": "String", "StringValue": "4"}
    inbound = arrived(message)
    assert (inbound.headers, inbound.not_before, inbound.inlet) == ({}, None, False)


def test_data_that_is_itself_an_event_is_not_taken_for_it() -> None:
    inner = b'{"specversion":"1.0","id":"2","source":"/inner","type":"u"}'
    event = Event({**MINIMAL, "datacontenttype": "application/cloudevents+json"}, inner)
    assert arrived(sent(Outbound(event, "orders"))).event == event
    with pytest.raises(Rejected, match="itself a structured event"):
        Wire("binary").write(Outbound(event, "orders"))


@pytest.mark.parametrize("depth", [500, 3_000, 100_000])
def test_headers_of_ours_that_are_nested_too_deeply_are_somebody_elses(depth: int) -> None:
    message = Message("text", {"anybroker": {"DataType": "String", "StringValue": "[" * depth}}, 0)
    inbound = arrived(message)
    assert isinstance(inbound.event, Foreign)
    assert inbound.headers == {"anybroker": "[" * depth}


@pytest.mark.parametrize(
    "own", [{"DataType": "String", "StringValue": "{"}, {"DataType": "Binary", "BinaryValue": b"["}]
)
@pytest.mark.parametrize("others", [0, 9])
def test_an_attribute_named_as_ours_stays_in_a_dead_letter(own: dict[str, Any], others: int) -> None:
    given = {f"x{n}": {"DataType": "Number", "StringValue": str(n)} for n in range(others)}
    foreign = arrived(Message("text", {"anybroker": own, **given}, 0)).event
    written = Wire().write(Outbound(foreign, "dead", headers={"anybroker-dead-reason": "r"}, hop="dead|g"))
    assert len(written.attributes) <= 10
    again = arrived(written)
    assert again.headers["anybroker-dead-reason"] == "r"
    assert isinstance(again.event, Foreign)
    assert dict(again.event.headers) == dict(foreign.headers)  # type: ignore[union-attr]
