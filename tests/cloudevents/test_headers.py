"""Header mappings: the rows of the protocol bindings, as adapters will make them."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import Any

import pytest

from anybroker.cloudevents import HeaderBinding, TransportNames, format_json, parse_json
from anybroker.cloudevents.headers import DATA_HEADER
from anybroker.errors import InvalidEvent
from anybroker.event import ABSENT, Event

KAFKA = HeaderBinding(bytes, prefix="ce_")
AMQP = HeaderBinding(
    str, prefix="cloudEvents_", also_read=("cloudEvents:", "ce-"), content_type="property", null_body=False
)
NATS = HeaderBinding(str, prefix="ce-", content_type="attribute", percent=True, null_body=False, headerless=True)

FULL = Event.create(
    {"a": 1},
    source="/shop",
    type="com.example.t",
    id="1",
    time="2018-04-05T17:31:00Z",
    subject='ä 100% "x"',
    dataschema="https://example.com/s",
    key="k",
    extensions={"n": -5, "b": True, "raw": b"\xff", "empty": ""},
)
MINIMAL = Event({"specversion": "1.0", "id": "1", "source": "s", "type": "t"})


class TestWriting:
    def test_kafka(self) -> None:
        assert KAFKA.binary_headers(FULL) == [
            ("ce_specversion", b"1.0"),
            ("ce_id", b"1"),
            ("ce_source", b"/shop"),
            ("ce_type", b"com.example.t"),
            ("ce_time", b"2018-04-05T17:31:00Z"),
            ("content-type", b"application/json"),
            ("ce_subject", 'ä 100% "x"'.encode()),
            ("ce_dataschema", b"https://example.com/s"),
            ("ce_n", b"-5"),
            ("ce_b", b"true"),
            ("ce_raw", b"/w=="),
            ("ce_empty", b""),
            ("ce_partitionkey", b"k"),
        ]
        for _ in range(2):  # the first one learns the names
            assert KAFKA.binary_headers(MINIMAL) == [
                ("ce_specversion", b"1.0"),
                ("ce_id", b"1"),
                ("ce_source", b"s"),
                ("ce_type", b"t"),
            ]

    def test_amqp(self) -> None:
        headers = dict(AMQP.binary_headers(FULL))
        assert headers["cloudEvents_subject"] == 'ä 100% "x"'
        assert headers["cloudEvents_n"] == "-5"
        assert headers["cloudEvents_b"] == "true"
        assert headers["cloudEvents_raw"] == "/w=="
        assert not {name for name in headers if "content" in name}
        assert all(type(value) is str for value in headers.values())

    def test_nats(self) -> None:
        headers = dict(NATS.binary_headers(FULL))
        assert headers["ce-subject"] == "%C3%A4%20100%25%20%22x%22"
        assert headers["ce-datacontenttype"] == "application/json"
        assert "content-type" not in {name.lower() for name in headers}
        assert len(headers) == len(NATS.binary_headers(FULL))

    def test_structured(self) -> None:
        body = format_json(FULL)
        assert KAFKA.structured(FULL) == ([("content-type", b"application/cloudevents+json")], body)
        assert NATS.structured(FULL) == ([("content-type", "application/cloudevents+json")], body)
        assert AMQP.structured(FULL) == ([], body)

    def test_percent_encoded_bytes(self) -> None:
        binding = HeaderBinding(bytes, prefix="ce-", percent=True)
        assert ("ce-subject", b"%C3%A4%20100%25%20%22x%22") in binding.binary_headers(FULL)
        assert binding.parse(binding.binary_headers(FULL), FULL.body) == FULL


class TestFourKindsOfNothing:
    @pytest.mark.parametrize("binding", [KAFKA, AMQP, NATS])
    @pytest.mark.parametrize("content_type", [None, "application/json", "text/plain"])
    @pytest.mark.parametrize("body", [None, b"", b"null", b'""'])
    def test_stay_four(self, binding: HeaderBinding[Any], body: bytes | None, content_type: str | None) -> None:
        event = MINIMAL.replace(data=ABSENT if body is None else body, datacontenttype=content_type)
        wire = event.body or b"" if binding is not KAFKA else event.body
        found = binding.parse(binding.binary_headers(event), wire, content_type=event.datacontenttype)
        assert found.body == body
        assert found == event
        assert binding.parse(*binding.structured(event), content_type="application/cloudevents+json") == event

    @pytest.mark.parametrize("binding", [AMQP, NATS])
    def test_only_the_odd_ones_carry_a_mark(self, binding: HeaderBinding[Any]) -> None:
        def marks(event: Event[Any]) -> list[str]:
            return [value for name, value in binding.binary_headers(event) if name == DATA_HEADER]

        assert marks(MINIMAL) == []
        assert marks(FULL) == []
        assert marks(MINIMAL.replace(data=b"")) == []
        assert marks(MINIMAL.replace(data=b"").replace(datacontenttype=None)) == ["empty"]
        assert marks(MINIMAL.replace(datacontenttype="text/plain")) == ["absent"]


class TestReading:
    def test_kafka_takes_any_case_and_foreign_headers(self) -> None:
        headers = [
            ("CE_SpecVersion", b"1.0"),
            ("ce_id", b"1"),
            ("Ce_source", "s"),
            ("ce_type", b"t"),
            ("Content-Type", b"Application/JSON"),
            ("trace", b"\xff\xff"),
            ("anybroker-attempt", b"3"),
            ("ce", b"x"),
            ("", b"x"),
        ]
        event = KAFKA.parse(iter(headers), b"{}")
        assert dict(event.attributes) == {
            "specversion": "1.0",
            "id": "1",
            "source": "s",
            "type": "t",
            "datacontenttype": "Application/JSON",
        }
        assert event.data == {}

    def test_the_transports_content_type_wins(self) -> None:
        headers = [*KAFKA.binary_headers(MINIMAL), ("content-type", b"text/plain"), ("ce_datacontenttype", b"a/b")]
        assert KAFKA.parse(headers, b"").datacontenttype == "text/plain"
        assert KAFKA.parse(headers[::-1], b"").datacontenttype == "text/plain"
        assert KAFKA.parse([each for each in headers if each[0] != "content-type"], b"").datacontenttype == "a/b"
        assert AMQP.parse(AMQP.binary_headers(MINIMAL), b"x", content_type="a/b").datacontenttype == "a/b"
        assert AMQP.parse(AMQP.binary_headers(MINIMAL), b"x", content_type="").datacontenttype is None

    @pytest.mark.parametrize("nothing", [None, b"", ""])
    @pytest.mark.parametrize("binding", [KAFKA, AMQP, NATS])
    @pytest.mark.parametrize("header", ["content-type", "Content-Type", "datacontenttype"])
    def test_one_that_is_null_or_empty_is_none(self, binding: HeaderBinding[Any], header: str, nothing: Any) -> None:
        header = binding.prefix + header if header.islower() and "-" not in header else header
        for _ in range(2):
            event = binding.parse([*binding.binary_headers(MINIMAL), (header, nothing)], b"x")
            assert event.datacontenttype is None

    def test_nats_prefers_the_attribute(self) -> None:
        headers = [*NATS.binary_headers(MINIMAL), ("Content-Type", "text/plain"), ("ce-datacontenttype", "a/b")]
        assert NATS.parse(headers, b"x").datacontenttype == "a/b"
        assert NATS.parse(headers[:-1], b"x").datacontenttype == "text/plain"

    def test_nats_decodes_and_tolerates(self) -> None:
        headers = [*NATS.binary_headers(MINIMAL), ("ce-a", "100%"), ("ce-b", '"q \\" %c3%a4"'), ("ce-source", "%41")]
        event = NATS.parse(headers, b"")
        assert (event["a"], event["b"], event["source"]) == ("100%", 'q " ä', "A")
        with pytest.raises(InvalidEvent, match="not UTF-8"):
            NATS.parse([*headers, ("ce-c", "%ff")], b"")
        with pytest.raises(InvalidEvent, match="U\\+000A"):
            NATS.parse([*headers, ("ce-c", "%0a")], b"")

    def test_nats_without_headers(self) -> None:
        assert NATS.parse([], format_json(FULL)) == FULL
        assert NATS.parse([("Other", "x")], format_json(FULL)) == FULL
        for body in (b"", b"{}", b"hello", b"[]", b"\xff"):
            with pytest.raises(InvalidEvent):
                NATS.parse([], body)
        with pytest.raises(InvalidEvent, match="is not a CloudEvent"):
            KAFKA.parse([], format_json(FULL))

    @pytest.mark.parametrize("subject", [b"x" * 300, bytearray(b"x" * 300)], ids=["bytes", "bytearray"])
    def test_amqp_reads_long_strings_that_became_binary(self, subject: bytes | bytearray) -> None:
        headers: list[tuple[str, Any]] = [(f"ce-{name}", value) for name, value in MINIMAL.attributes.items()]
        headers += [("ce-subject", subject), ("ce-dataschema", bytearray(b"https://example.com/s"))]
        event = AMQP.parse(headers, b"")
        assert (event.subject, event.dataschema) == ("x" * 300, "https://example.com/s")

    @pytest.mark.parametrize("prefix", ["cloudEvents_", "cloudEvents:", "ce-", "CLOUDEVENTS_"])
    def test_amqp_reads_all_prefixes_and_native_types(self, prefix: str) -> None:
        headers: list[tuple[str, Any]] = [
            (f"{prefix}specversion", "1.0"),
            (f"{prefix}id", b"1"),
            (f"{prefix}source", "s"),
            (f"{prefix}type", "t" * 300),
            (f"{prefix}time", datetime(2018, 4, 5, 17, 31, tzinfo=UTC)),
            (f"{prefix}n", 5),
            (f"{prefix}b", True),
            (f"{prefix}none", None),
            (f"{prefix}raw", bytearray(b"x")),
            ("x-death", [{"count": 1}]),
        ]
        event = AMQP.parse(headers, b"")
        assert event.time_raw == "2018-04-05T17:31:00Z"
        assert (event["n"], event["b"], event["raw"]) == (5, True, b"x")
        assert "none" not in event
        headers[4] = (f"{prefix}time", 1_522_949_460_000)  # AMQP 1.0: milliseconds
        assert AMQP.parse(headers, b"").time_raw == "2018-04-05T17:31:00Z"

    @pytest.mark.parametrize(
        ("name", "value", "text"),
        [
            ("n", 1.5, "'n' is a float"),
            ("n", [1], "'n' is a list"),
            ("n", 2**40, "outside the 32 bits"),
            ("source", ["s"], "'source' is a list"),
            ("source", 5, "'source' is a int"),
            ("time", 10**30, "milliseconds, which is not a time"),
            ("time", True, "'time' is a bool"),
            ("id", b"", "'id' is empty"),
            ("subject", "", "'subject' is empty"),
            ("id", b"\xff", "'id' is not UTF-8 at byte 0"),
            ("source", b"a\xff", "'source' is not UTF-8 at byte 1"),
            ("ext", b"a\xff", "'ext' is not UTF-8 at byte 1"),
            ("time", b"\xff", "'time' is not UTF-8"),
            ("time", b"now", "RFC 3339"),
            ("type", "\x00", "U+0000"),
            ("datacontenttype", "xyz", "RFC 2046"),
            ("my_ext", "x", "name that is not allowed"),
            ("data", "x", "is the event's payload"),
            ("", "x", "name that is not allowed"),
            ("specversion", b"0.3", "'specversion' is '0.3'"),
        ],
    )
    def test_refused(self, name: str, value: object, text: str) -> None:
        for binding, prefix in ((KAFKA, "ce_"), (AMQP, "ce-")):
            headers: list[tuple[str, Any]] = [*binding.binary_headers(MINIMAL), (prefix + name, value)]
            with pytest.raises(InvalidEvent, match=re.escape(text)):
                binding.parse(headers, b"")

    @pytest.mark.parametrize("name", ["specversion", "id", "source", "type"])
    def test_missing(self, name: str) -> None:
        headers = [(header, value) for header, value in KAFKA.binary_headers(MINIMAL) if header != f"ce_{name}"]
        with pytest.raises(InvalidEvent, match=f"{name!r} is missing"):
            KAFKA.parse(headers, b"")

    @pytest.mark.parametrize("value", [b"xyz", b" ", b"\xff/\xfe", "a/b; c"])
    def test_a_bad_content_type(self, value: bytes | str) -> None:
        for _ in range(2):
            with pytest.raises(InvalidEvent, match="RFC 2046"):
                KAFKA.parse([*KAFKA.binary_headers(MINIMAL), ("content-type", value)], b"")

    def test_the_last_of_two_counts(self) -> None:
        assert KAFKA.parse([*KAFKA.binary_headers(MINIMAL), ("ce_id", b"2")], b"").id == "2"


class TestStructured:
    @pytest.mark.parametrize(
        "content_type",
        [
            "application/cloudevents+json",
            "APPLICATION/CloudEvents+JSON; charset=utf-8",
            "application/cloudevents",
        ],
    )
    def test_by_content_type(self, content_type: str) -> None:
        body = format_json(FULL)
        for _ in range(2):
            assert KAFKA.parse([("Content-Type", content_type.encode())], body) == FULL
            assert NATS.parse([("content-type", content_type)], body) == FULL
            assert AMQP.parse([], body, content_type=content_type) == FULL

    def test_other_character_sets(self) -> None:
        body = format_json(FULL).decode().encode("utf-16")
        assert AMQP.parse([], body, content_type="application/cloudevents+json; charset=utf-16") == FULL
        with pytest.raises(InvalidEvent, match="not text in the character set"):
            AMQP.parse([], b"\xff", content_type="application/cloudevents+json; charset=utf-16")
        with pytest.raises(InvalidEvent, match="not text in the character set"):
            AMQP.parse([], b"{}", content_type="application/cloudevents+json; charset=nonsense")

    def test_attribute_headers_beside_it_do_not_matter(self) -> None:
        body = format_json(FULL)
        announced = ("content-type", b"application/cloudevents+json")
        good = [("ce_id", b"other"), ("ce_source", b"/other")]
        broken = [("ce_id", b"\xff"), ("ce_my-ext", b"x"), ("ce_time", b"now")]
        for headers in ([*good, announced], [announced, *good], [*broken, announced], [announced, *broken]):
            assert KAFKA.parse(headers, body) == FULL

    @pytest.mark.parametrize(
        ("content_type", "body", "text"),
        [
            ("application/cloudevents-batch+json", b"[]", "is a batch"),
            ("application/cloudevents+avro", b"", "in the format 'application/cloudevents+avro'"),
            ("application/cloudevents+json", None, "has no body"),
            ("application/cloudevents+json", b"", "the text ends early"),
            ("application/cloudevents+json", b"[]", "is a JSON object"),
            ("application/cloudevents+json; x", b"{}", "RFC 2046"),
        ],
    )
    def test_refused(self, content_type: str, body: bytes | None, text: str) -> None:
        with pytest.raises(InvalidEvent, match=re.escape(text)):
            KAFKA.parse([("content-type", content_type.encode())], body)


def test_what_is_remembered_is_bounded() -> None:
    binding = HeaderBinding(bytes, prefix="ce_")
    for n in range(3000):
        event = MINIMAL.replace(source=f"/{n}", extensions={f"e{n}": "x"})
        assert binding.parse([*binding.binary_headers(event), (f"x{n}", b"")], None) == event
    assert len(binding._learned) <= 1024
    assert len(binding._written_names) <= 1024
    assert all(len(values) <= 1024 for _, _, values in binding._learned.values())


def test_eleven_extensions_pass() -> None:
    event = MINIMAL.replace(extensions={f"ext{n}": "x" * n for n in range(11)})
    for binding in (KAFKA, AMQP, NATS):
        assert binding.parse(binding.binary_headers(event), None) == event


def test_large_values_pass() -> None:
    event = MINIMAL.replace(extensions={"big": "ä" * 8192}, source="/" + "x" * 8192)
    for binding in (KAFKA, AMQP, NATS):
        assert binding.parse(binding.binary_headers(event), None) == event


def test_modes_agree() -> None:
    assert json.loads(format_json(FULL))["n"] == -5
    assert parse_json(format_json(FULL)) == FULL == KAFKA.parse(KAFKA.binary_headers(FULL), FULL.body)


def test_transport_names_are_lower_case_and_none_of_the_event() -> None:
    names = TransportNames(("ce-", "nats-"), ("anybroker-data",))
    assert [names[name] for name in ("X-Foo", "traceparent")] == ["x-foo", "traceparent"]
    assert [names[name] for name in ("Content-Type", "CE-id", "Nats-Msg-Id", "Anybroker-Data")] == [""] * 4


def test_transport_names_are_remembered_within_bounds() -> None:
    names = TransportNames(("ce_",))
    for number in range(5_000):
        assert names[f"X-{number}"] == f"x-{number}"
        assert len(names) <= 1024
