"""The JSON format beyond the official vectors: exact bytes, odd documents, and what is refused."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from anybroker.cloudevents import format_json, format_json_batch, parse_json, parse_json_batch
from anybroker.errors import DecodeError, InvalidEvent
from anybroker.event import Event

HEAD = '{"specversion":"1.0","id":"1","source":"s","type":"t"'


def document(tail: str) -> str:
    return f"{HEAD},{tail}}}"


def event(body: bytes | None, content_type: str | None, **more: Any) -> Event[Any]:
    made = Event({"specversion": "1.0", "id": "1", "source": "s", "type": "t", **more}, body)
    return made if content_type is None else made.replace(datacontenttype=content_type)


class TestReadingData:
    @pytest.mark.parametrize(
        ("tail", "body", "content_type", "data"),
        [
            ('"data":{"a": 1.50}', b'{"a": 1.50}', "application/json", {"a": 1.5}),
            ('"data" : null', b"null", "application/json", None),
            ('"data":""', b'""', "application/json", ""),
            ('"data":"{}"', b'"{}"', "application/json", "{}"),
            ('"data": 1e2 ', b"1e2", "application/json", 100.0),
            ('"data":12345678901234567890.12345678901234567890', None, "application/json", None),
            ('"data_base64":""', b"", None, b""),
            ('"data_base64":"e30="', b"{}", None, b"{}"),
            ('"data_base64":"e30=","datacontenttype":"application/json"', b"{}", "application/json", {}),
            ('"data_base64":null', None, None, None),
            ('"data_base64":null,"data":5', b"5", "application/json", 5),
            ('"data":"x","datacontenttype":"text/plain"', b"x", "text/plain", "x"),
            ('"datacontenttype":"text/plain","data":"\\u00e4\\n"', b"\xc3\xa4\n", "text/plain", "ä\n"),
            ('"datacontenttype":"text/plain;charset=latin-1","data":"ä"', b"\xe4", None, "ä"),
            ('"datacontenttype":"application/xml","data":"<a/>"', b"<a/>", "application/xml", b"<a/>"),
            ('"datacontenttype":"application/json; charset=utf-16-le","data":1', b"1\0", None, 1),
            ('"data":{"data":{"data":1}}', b'{"data":{"data":1}}', "application/json", {"data": {"data": 1}}),
            ('"data":{"data":1},"ext":"x"', b'{"data":1}', "application/json", {"data": 1}),
            ('"ext":"\\"data\\":5","data":1', b"1", "application/json", 1),
            ('"\\u0064ata":[1]', b"[1]", "application/json", [1]),
            ('"data":1,"data":2', b"2", "application/json", 2),
            ('"data":1,"id":"1"', b"1", "application/json", 1),
            ('"data":[1],"\\u0064ata":[2]', b"[2]", "application/json", [2]),
            ('"\\u0064ata":[1],"data":[2]', b"[2]", "application/json", [2]),
        ],
    )
    def test_body_and_data(self, tail: str, body: bytes | None, content_type: str | None, data: object) -> None:
        for text in (document(tail), document(tail).encode(), " \n" + document(tail) + "\r\t "):
            found = parse_json(text)
            if "12345678901234567890" in tail:
                assert found.body == b"12345678901234567890.12345678901234567890"
                continue
            assert found.body == body
            assert found.data == data
            if content_type is not None:
                assert found.datacontenttype == content_type
            assert parse_json(format_json(found)) == found

    def test_data_in_any_place_is_exact(self) -> None:
        raw = '{ "a" : [1.10, 1e5,\n"\\u00e4"] }'
        members = [HEAD[1:], f'"data": {raw}', '"ext":"x"']
        bodies = {
            parse_json("{" + ",".join(order) + "}").body
            for order in (members, members[::-1], [members[1], members[0], members[2]])
        }
        assert bodies == {raw.encode()}

    def test_unpaired_surrogates_are_kept_in_data_and_refused_in_attributes(self) -> None:
        found = parse_json(document('"data":"\\ud800"'))
        assert found.body == b'"\\ud800"'
        assert parse_json(format_json(found)) == found
        with pytest.raises(DecodeError):
            _ = found.data
        with pytest.raises(InvalidEvent, match="U\\+D800"):
            parse_json(document('"ext":"\\ud800"'))

    def test_deep_data(self) -> None:
        deep = "[" * 400 + "]" * 400
        assert parse_json(document(f'"data":{deep}')).body == deep.encode()
        with pytest.raises(InvalidEvent, match="nested too deeply"):
            parse_json(document('"data":' + "[" * 100_000 + "]" * 100_000))

    def test_a_byte_order_mark_is_let_pass(self) -> None:
        assert parse_json(b"\xef\xbb\xbf" + document('"data":1').encode()).data == 1
        assert parse_json(b"\xef\xbb\xbf" + document('"ext":"x"').encode())["ext"] == "x"

    def test_invents_nothing(self) -> None:
        assert dict(parse_json(HEAD + "}").attributes) == {
            "specversion": "1.0",
            "id": "1",
            "source": "s",
            "type": "t",
        }


class TestRefused:
    @pytest.mark.parametrize(
        ("text", "problem"),
        [
            ("", "the text ends early"),
            ("{", "the text ends early"),
            ("[]", "is a JSON object, and this is not one"),
            ("null", "is a JSON object"),
            ('"x"', "is a JSON object"),
            ("{}", "'specversion' is missing"),
            (HEAD, "the text ends early"),
            (HEAD + "}x", "there is more text after its end"),
            (HEAD + ",}", "expected a member's name"),
            (HEAD + " 1}", "expected a comma or a brace"),
            ('{,"data":1}', "'specversion' is missing"),
            (document('"data":'), "expected a value at character"),
            (HEAD + ',"data":', "the text ends early"),
            (HEAD + ',"data":nope}', "expected a value at character 61"),
            (document('"data"'), "expected a colon"),
            (document('"data":NaN'), "NaN is not JSON"),
            (document('"data":[Infinity]'), "Infinity is not JSON"),
            (document('"data":1,'), "expected a member's name"),
            (document('"data":01'), "expected a comma or a brace"),
            (document('"data":"\n"'), "Invalid control character"),
            (document('"ext":' + "9" * 5000), "not a CloudEvent in JSON"),
            (document('"data":1,"data_base64":""'), "both 'data' and 'data_base64'"),
            (document('"data":null,"data_base64":"e30="'), "both 'data' and 'data_base64'"),
            (document('"data_base64":5'), "'data_base64' is not a string"),
            (document('"data_base64":"a"'), "'data_base64' is not Base64"),
            (document('"data_base64":"e30"'), "'data_base64' is not Base64"),
            (document('"data_base64":"e3 0="'), "'data_base64' is not Base64"),
            (document('"data_base64":"-_8="'), "'data_base64' is not Base64"),
            (document('"data_base64":"ä"'), "'data_base64' is not Base64"),
            (document('"data":{},"datacontenttype":"text/plain"'), "the data is not a string"),
            (document('"data":null,"datacontenttype":"image/png"'), "the data is not a string"),
            (document('"data":"x","datacontenttype":"text/plain;charset=idna"'), "which is unknown"),
            (document('"data":"€","datacontenttype":"text/plain;charset=latin-1"'), "iso8859-1 does not have"),
            (document('"data":"\\ud800","datacontenttype":"text/plain"'), "utf-8 does not have"),
            (document('"data":{"a":1},"ext":{"a":1}'), "'ext' is a dict"),
            (document('"ext":1.0'), "'ext' is a float"),
            (document('"ext":2147483648'), "outside the 32 bits"),
            (document('"Data":1'), "name that is not allowed"),
            (document('"":1'), "name that is not allowed"),
            ("\ud800", "unpaired surrogates"),
        ],
    )
    def test_says_why(self, text: str, problem: str) -> None:
        with pytest.raises(InvalidEvent, match=re.escape(problem)):
            parse_json(text)

    def test_not_utf8(self) -> None:
        with pytest.raises(InvalidEvent, match="not UTF-8 at byte 1"):
            parse_json(b'"\xff"')


class TestWriting:
    @pytest.mark.parametrize(
        ("body", "content_type", "member"),
        [
            (None, None, None),
            (None, "application/json", None),
            (b"null", "application/json", '"data":null'),
            (b'""', "application/json", '"data":""'),
            (b"", "application/json", '"data_base64":""'),
            (b"", "text/plain", '"data":""'),
            (b"", None, '"data_base64":""'),
            (b"{}", None, '"data_base64":"e30="'),
            (b"{ }", "Application/Vnd.X+JSON", '"data":{ }'),
            (b"{", "application/json", '"data_base64":"ew=="'),
            (b"NaN", "application/json", '"data_base64":"TmFO"'),
            (b'"\xff"', "application/json", '"data_base64":"Iv8i"'),
            ('"ä"'.encode("utf-16-le"), "application/json;charset=utf-16-le", '"data_base64":"IgDkACIA"'),
            (b"\xc3\xa4", "text/plain", '"data":"ä"'),
            (b"\xe4", "text/plain;charset=latin-1", '"data":"ä"'),
            (b"\xe4", "text/plain", '"data_base64":"5A=="'),
            (b"x", "text/plain;charset=nonsense", '"data_base64":"eA=="'),
            ("ä".encode("utf-16-be"), "text/plain;charset=utf-16-be", '"data":"ä"'),
            (b"\xfe\xff\x00a", "text/plain;charset=utf-16", '"data_base64":"/v8AYQ=="'),
            (b"\x00\xff", "image/png", '"data_base64":"AP8="'),
        ],
    )
    def test_the_member_and_the_way_back(
        self, body: bytes | None, content_type: str | None, member: str | None
    ) -> None:
        made = event(body, content_type)
        text = format_json(made).decode()
        head = HEAD + ("" if content_type is None else f',"datacontenttype":"{content_type}"')
        assert text == head + ("" if member is None else f",{member}") + "}"
        again = parse_json(text)
        assert again == made
        assert again.body == body

    def test_attributes_keep_their_types(self) -> None:
        made = event(None, None, n=-5, b=True, raw=b"\xff", text="ä\u2028")
        found = json.loads(format_json(made))
        assert (found["n"], found["b"], found["raw"], found["text"]) == (-5, True, "/w==", "ä\u2028")
        again = parse_json(format_json(made))
        assert again == made
        assert again["b"] is True

    def test_blanks_around_json_are_dropped(self) -> None:
        again = parse_json(format_json(event(b" \n{ } ", "application/json")))
        assert again.body == b"{ }"


class TestBatch:
    def test_round_trip(self) -> None:
        events = [event(None, None), event(b'{"a": 1.0}', "application/json"), event(b"\xff", None, n=1)]
        assert parse_json_batch(format_json_batch(events)) == events
        assert [found.body for found in parse_json_batch(format_json_batch(events))] == [None, b'{"a": 1.0}', b"\xff"]
        assert format_json_batch([]) == b"[]"
        assert parse_json_batch(" [ ] ") == []
        assert parse_json_batch(f"\n[ {HEAD}}} , {HEAD}}} ]\n") == [event(None, None)] * 2

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "{}",
            "[",
            "[,]",
            f"[{HEAD}}}",
            f"[{HEAD}}},]",
            f"[{HEAD}}} {HEAD}}}]",
            "[]x",
            "[1]",
            "[null]",
            HEAD + "}",
        ],
    )
    def test_refused(self, text: str) -> None:
        with pytest.raises(InvalidEvent):
            parse_json_batch(text)

    def test_refuses_bytes_that_are_no_text(self) -> None:
        with pytest.raises(InvalidEvent, match="UTF-8"):
            parse_json_batch(b"[\xff]")
        with pytest.raises(InvalidEvent, match="surrogates"):
            parse_json_batch("[\ud800]")
