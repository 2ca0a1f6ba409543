"""Context attributes: names, types, characters, timestamps, URIs, media types, as a reader and as a writer."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import UUID

import pytest

from anybroker.cloudevents.attributes import (
    canonical,
    check_attributes,
    check_name,
    check_text,
    read_attribute,
    write_extension,
    write_uri,
    write_uri_reference,
)
from anybroker.cloudevents.media_type import is_structured, media_type
from anybroker.cloudevents.percent import percent_decode, percent_encode
from anybroker.cloudevents.timestamps import check_timestamp, format_timestamp, now, parse_timestamp
from anybroker.errors import InvalidEvent

CORE = {"specversion": "1.0", "id": "1", "source": "s", "type": "t"}


def read(**more: object) -> dict[str, Any]:
    attributes: dict[str, Any] = {**CORE, **more}
    check_attributes(attributes)
    return attributes


class TestNames:
    @pytest.mark.parametrize("name", ["a", "0", "9lives", "a" * 21, "a" * 5000, "id", "traceparent"])
    def test_allowed(self, name: str) -> None:
        assert check_name(name) == name

    @pytest.mark.parametrize("name", ["", "A", "a_b", "a-b", "a.b", "a b", "ä", "a\n", "data", "data_base64", "٣", 5])
    def test_refused(self, name: object) -> None:
        with pytest.raises(InvalidEvent) as caught:
            check_name(name)
        assert caught.value.attribute == str(name)

    def test_what_is_advised_against_is_logged_once(self, caplog: pytest.LogCaptureFixture) -> None:
        for _ in range(2):
            for name in ("averyveryverylongname", "1starts", "fine"):
                write_extension(name, "x")
        assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]
        assert "averyveryverylongname" in caplog.text


class TestTypes:
    @pytest.mark.parametrize(
        ("value", "kept", "text"),
        [
            ("", "", ""),
            ("ä€😀", "ä€😀", "ä€😀"),
            (True, True, "true"),
            (False, False, "false"),
            (0, 0, "0"),
            (-(2**31), -(2**31), "-2147483648"),
            (2**31 - 1, 2**31 - 1, "2147483647"),
            (b"\xff\x00", b"\xff\x00", "/wA="),
            (bytearray(b"a"), b"a", "YQ=="),
            (memoryview(b""), b"", ""),
            (datetime(2020, 1, 1, tzinfo=UTC), "2020-01-01T00:00:00Z", "2020-01-01T00:00:00Z"),
            (UUID(int=0), str(UUID(int=0)), str(UUID(int=0))),
        ],
    )
    def test_extensions_and_their_canonical_strings(self, value: object, kept: Any, text: str) -> None:
        attributes = read(ext=value)
        assert attributes["ext"] == kept
        assert type(attributes["ext"]) is type(kept)
        assert canonical(attributes["ext"]) == text

    @pytest.mark.parametrize("value", [1.0, 1.5, float("nan"), [], {}, (), 2**31, -(2**31) - 1, object(), 1j])
    def test_refused_types(self, value: object) -> None:
        with pytest.raises(InvalidEvent, match="'ext'"):
            read(ext=value)

    @pytest.mark.parametrize(
        "name", ["specversion", "id", "source", "type", "subject", "datacontenttype", "dataschema", "time"]
    )
    @pytest.mark.parametrize("value", [5, True, b"x", 1.5, [], {}, ""])
    def test_the_specifications_own_are_non_empty_strings(self, name: str, value: object) -> None:
        with pytest.raises(InvalidEvent, match=repr(name)) as caught:
            read(**{name: value})
        assert caught.value.attribute == name

    @pytest.mark.parametrize("name", ["specversion", "id", "source", "type"])
    def test_null_is_missing_for_a_required_one(self, name: str) -> None:
        with pytest.raises(InvalidEvent, match=f"{name!r} is missing"):
            read(**{name: None})

    def test_null_is_unset_for_all_others(self) -> None:
        assert read(subject=None, time=None, ext=None) == CORE

    @pytest.mark.parametrize("version", ["0.3", "1.1", "1", "1.0.0", "v1.0", " 1.0"])
    def test_other_versions(self, version: str) -> None:
        with pytest.raises(InvalidEvent, match="specversion"):
            read(specversion=version)

    def test_readers_let_an_odd_source_and_schema_pass(self) -> None:
        assert read(source="my shop", dataschema="order")["source"] == "my shop"

    def test_checks_hold_when_repeated(self) -> None:
        for _ in range(3):  # the first one fills the memories
            assert read(source="again", datacontenttype="a/b") == {**CORE, "source": "again", "datacontenttype": "a/b"}
            with pytest.raises(InvalidEvent):
                read(datacontenttype="again")

    def test_the_memories_are_bounded(self) -> None:
        for n in range(3000):
            read(**{f"name{n}": "x"}, source=f"/{n}", type="t" * 600 + str(n))
        assert read()["source"] == "s"


class TestCharacters:
    @pytest.mark.parametrize(
        "code", [0, 9, 0xA, 0x1F, 0x7F, 0x85, 0x9F, 0xD800, 0xDFFF, 0xFDD0, 0xFDEF, 0xFFFE, 0xFFFF, 0x1FFFE, 0x10FFFF]
    )
    def test_forbidden(self, code: int) -> None:
        with pytest.raises(InvalidEvent, match=f"U\\+{code:04X} at position 1"):
            check_text("ext", "a" + chr(code))
        with pytest.raises(InvalidEvent):
            read(ext=chr(code))
        with pytest.raises(InvalidEvent):
            read(id=chr(code))

    @pytest.mark.parametrize("code", [0x20, 0x7E, 0xA0, 0xAD, 0x200B, 0xD7FF, 0xE000, 0xFDCF, 0xFDF0, 0xFFFD, 0x10FFFD])
    def test_allowed(self, code: int) -> None:
        assert read(ext=chr(code), id=chr(code))["ext"] == chr(code)


class TestTimestamps:
    @pytest.mark.parametrize(
        ("text", "moment"),
        [
            ("2018-04-05T17:31:00Z", datetime(2018, 4, 5, 17, 31, tzinfo=UTC)),
            ("2018-04-05t17:31:00z", datetime(2018, 4, 5, 17, 31, tzinfo=UTC)),
            ("2018-04-05 17:31:00Z", datetime(2018, 4, 5, 17, 31, tzinfo=UTC)),
            ("2018-04-05T17:31:00.1Z", datetime(2018, 4, 5, 17, 31, 0, 100_000, UTC)),
            ("2018-04-05T17:31:00.123456789Z", datetime(2018, 4, 5, 17, 31, 0, 123_456, UTC)),
            ("2018-04-05T17:31:00-00:00", datetime(2018, 4, 5, 17, 31, tzinfo=UTC)),
            ("2018-04-05T17:31:00+23:59", datetime(2018, 4, 4, 17, 32, tzinfo=UTC)),
            ("2016-12-31T23:59:60Z", datetime(2017, 1, 1, tzinfo=UTC)),
            ("2016-12-31T15:59:60.999-08:00", datetime(2017, 1, 1, tzinfo=UTC)),
            ("2020-02-29T00:00:00Z", datetime(2020, 2, 29, tzinfo=UTC)),
            ("0001-01-01T00:00:00Z", datetime(1, 1, 1, tzinfo=UTC)),
            ("9999-12-31T23:59:59.999999Z", datetime(9999, 12, 31, 23, 59, 59, 999_999, UTC)),
        ],
    )
    def test_read(self, text: str, moment: datetime) -> None:
        for _ in range(2):
            check_timestamp("time", text)
        assert parse_timestamp(text) == moment
        assert read(time=text)["time"] == text

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "lunchtime",
            "1522949460",
            "2018-04-05",
            "2018-04-05T17:31Z",
            "2018-04-05T17:31:00",
            "2018-04-05T17:31:00X",
            "2018-04-05T17:31:00+05",
            "2018-04-05T17:31:00+0500",
            "2018-04-05T17:31:00+25:00",
            "2018-04-05T17:31:00+24:00",
            "2018-04-05T17:31:00+05:60",
            "2018-04-05T17:31:00+xx:00",
            "2018-04-05T17:31:00.Z",
            "2018-04-05T17:31:00,5Z",
            "2018-04-05T17:31:61Z",
            "2018-04-05T17:60:00Z",
            "2018-04-05T24:00:00Z",
            "2018-02-29T00:00:00Z",
            "2018-00-01T00:00:00Z",
            "2018-13-01T00:00:00Z",
            "0000-01-01T00:00:00Z",
            "9999-12-31T23:59:60Z",
            "2018-W14-4T17:31:00Z",
            "2018-095T17:31:00Z",
            "20180405T173100Z",
            "2018-04-05T17:31:00Z ",
            " 2018-04-05T17:31:00Z",
            "2018-04-05T17:31:00Z\n",
            "2018-04-05_17:31:00Z",
            "٢٠١٨-04-05T17:31:00Z",
            "2018-04-05T17:31:00.²²²²²²Z",
        ],
    )
    def test_refused(self, text: str) -> None:
        check_timestamp("time", "2018-04-05T17:31:00.000000Z")  # so that the second is known
        with pytest.raises(InvalidEvent, match="RFC 3339"):
            check_timestamp("time", text)

    @pytest.mark.parametrize("tail", ["²²²²²²Z", "12345Z", "1234567", "123456z", "1234 6Z", "-12345Z", "123456Z\n"])
    def test_the_short_cut_takes_no_more_than_the_long_way(self, tail: str) -> None:
        text = "2018-04-05T17:31:00." + tail
        check_timestamp("time", "2018-04-05T17:31:00.000000Z")
        try:
            parse_timestamp(text)
        except ValueError:
            with pytest.raises(InvalidEvent):
                check_timestamp("time", text)
        else:
            check_timestamp("time", text)

    @pytest.mark.parametrize(
        ("moment", "text"),
        [
            (datetime(2018, 4, 5, 17, 31, tzinfo=UTC), "2018-04-05T17:31:00Z"),
            (datetime(2018, 4, 5, 17, 31, 0, 5, UTC), "2018-04-05T17:31:00.000005Z"),
            (datetime(2018, 4, 5, tzinfo=timezone(timedelta(hours=-8))), "2018-04-05T00:00:00-08:00"),
            (datetime(1900, 1, 1, tzinfo=timezone(timedelta(minutes=19, seconds=32))), "1899-12-31T23:40:28Z"),
        ],
    )
    def test_write(self, moment: datetime, text: str) -> None:
        assert format_timestamp("time", moment) == text
        assert parse_timestamp(text) == moment

    def test_write_refuses_what_has_no_place_in_utc(self) -> None:
        with pytest.raises(InvalidEvent, match="outside the years"):
            format_timestamp("time", datetime(1, 1, 1, tzinfo=timezone(timedelta(minutes=19, seconds=32))))

    def test_now_does_not_go_back(self) -> None:
        until = time.monotonic() + 0.05
        last = now()
        while time.monotonic() < until:
            text = now()
            assert len(text) == 27
            assert text >= last
            last = text
        assert abs(parse_timestamp(last) - datetime.now(UTC)) < timedelta(seconds=1)


class TestUris:
    @pytest.mark.parametrize(
        "text",
        [
            "billing",
            "/a/b",
            "#fragment",
            "?q",
            "//authority/path",
            "https://[::1]:80/a?b=c#d",
            "urn:uuid:6e8bc430-9c3a-11d9-9669-0800200c9a66",
            "mailto:a@b.c",
            "a/b:c",
            "%C3%A4",
            "a;b=c,d!$&'()*+",
        ],
    )
    def test_references(self, text: str) -> None:
        for _ in range(2):
            assert write_uri_reference("source", text) == text

    @pytest.mark.parametrize(
        "text", ["a b", "ä", "a%", "a%2", "a%zz", "1:b", ":b", "a\\b", '"', "a#b#c", "<a>", "^", "[a]"]
    )
    def test_no_references(self, text: str) -> None:
        with pytest.raises(InvalidEvent, match="URI-reference"):
            write_uri_reference("source", text)

    @pytest.mark.parametrize("text", ["https://example.com/a#b", "urn:x", "a+b.c-d:e"])
    def test_absolute(self, text: str) -> None:
        for _ in range(2):
            assert write_uri("dataschema", text) == text

    @pytest.mark.parametrize("text", ["a", "/a", "#a", "//a/b", "1a:b", "a:b c"])
    def test_not_absolute(self, text: str) -> None:
        with pytest.raises(InvalidEvent, match="absolute URI"):
            write_uri("dataschema", text)


class TestMediaTypes:
    @pytest.mark.parametrize(
        ("text", "essence", "json", "is_text", "charset"),
        [
            ("application/json", "application/json", True, False, "utf-8"),
            ("Application/JSON; Charset=UTF-8", "application/json", True, False, "utf-8"),
            ("application/vnd.a.b+JSON", "application/vnd.a.b+json", True, False, "utf-8"),
            ("text/json", "text/json", True, False, "utf-8"),
            ("text/plain;charset=latin1", "text/plain", False, True, "iso8859-1"),
            ('text/plain; a="x;charset=utf-16"; charset="utf-8"', "text/plain", False, True, "utf-8"),
            ("text/plain; charset=nonsense", "text/plain", False, True, None),
            ("text/plain; charset=unicode_escape", "text/plain", False, True, None),
            ("text/plain; charset=base64", "text/plain", False, True, None),
            ("text/plain;", "text/plain", False, True, "utf-8"),
            ("text/plain ; ;; x=y ;", "text/plain", False, True, "utf-8"),
            ("image/svg+xml", "image/svg+xml", False, False, "utf-8"),
            ("a/jsonx", "a/jsonx", False, False, "utf-8"),
            ("text/plain; charset=Windows-1252", "text/plain", False, True, "cp1252"),
            ("text/plain; charset=KOI8-R", "text/plain", False, True, "koi8-r"),
            ("text/plain; charset=GB18030", "text/plain", False, True, "gb18030"),
            ("text/plain; charset=Shift_JIS", "text/plain", False, True, "shift_jis"),
            ("text/plain; charset=UTF-16LE", "text/plain", False, True, "utf-16-le"),
            ("text/plain; charset=utf-7", "text/plain", False, True, None),
            ("text/plain; charset=idna", "text/plain", False, True, None),
        ],
    )
    def test_read(self, text: str, essence: str, json: bool, is_text: bool, charset: str | None) -> None:
        for _ in range(2):
            assert media_type(text) == (essence, json, is_text, charset)

    @pytest.mark.parametrize(
        "text",
        ["", "xyz", "/", "a/", "/b", "a/b/c", "a/b c", "a b/c", "a/b; c", "a/b; c=", "a/b; =d", "a/ä", 'a/b; c="d'],
    )
    def test_refused(self, text: str) -> None:
        with pytest.raises(InvalidEvent, match="RFC 2046"):
            media_type(text)

    @pytest.mark.parametrize("tail", [";  " * 5000, "; a=b" * 5000, ';a="' + '\\"' * 5000, "!" * 20000 + "="])
    def test_hostile_lengths_are_quick(self, tail: str) -> None:
        started = time.perf_counter()
        with pytest.raises(InvalidEvent):
            media_type("a/b" + tail + "\0")
        assert time.perf_counter() - started < 1

    def test_structured(self) -> None:
        assert is_structured("application/cloudevents")
        assert is_structured("Application/CloudEvents+JSON; charset=utf-8")
        assert is_structured("application/cloudevents-batch+json")
        assert not is_structured("application/json")
        assert not is_structured("application/cloudevent")

    @pytest.mark.parametrize("char", ["\n", "\t", "\x7f", "\x85", "ä", "\ud800"])
    def test_no_character_that_an_attribute_may_not_hold(self, char: str) -> None:
        for text in (f'a/b; c="{char}"', f'a/b; c="\\{char}"', f"a/b;{char}c=d", f"a/b{char}"):
            with pytest.raises(InvalidEvent):
                media_type(text)


class TestPercent:
    @pytest.mark.parametrize(
        ("text", "encoded"),
        [
            ("", ""),
            ("Euro € 😀", "Euro%20%E2%82%AC%20%F0%9F%98%80"),  # the specification's own example
            ('100% "x"', "100%25%20%22x%22"),
            ("!#$&'()*+,-./09:;<=>?@AZ[\\]^_`az{|}~", "!#$&'()*+,-./09:;<=>?@AZ[\\]^_`az{|}~"),
            ("\x7f\n", "%7F%0A"),
        ],
    )
    def test_round_trip(self, text: str, encoded: str) -> None:
        assert percent_encode(text) == encoded
        assert percent_decode("ext", encoded) == text

    @pytest.mark.parametrize(
        ("encoded", "text"),
        [
            ("%e2%82%ac", "€"),
            ("%41%62", "Ab"),
            ("100%", "100%"),
            ("%zz%2", "%zz%2"),
            ("%2525", "%25"),  # one round
            ('"a \\"b\\" %20"', 'a "b"  '),
            ('"', '"'),
            ("raw ä", "raw ä"),
            ("ä%C3%A4", "ää"),
        ],
    )
    def test_tolerated(self, encoded: str, text: str) -> None:
        assert percent_decode("ext", encoded) == text

    @pytest.mark.parametrize("encoded", ["%C0%A0", "%ff", "%E2%82", "%ED%A0%80", "\ud800%41"])
    def test_not_utf8(self, encoded: str) -> None:
        with pytest.raises(InvalidEvent, match=r"'ext' has percent sequences that are not UTF-8") as caught:
            percent_decode("ext", encoded)
        assert caught.value.attribute == "ext"


def test_read_attribute_keeps_plain_strings() -> None:
    class Text(str):
        __slots__ = ()

    assert type(read_attribute("ext", Text("x"))) is str
