"""Event: what create fills in, what cannot be changed, and what makes two events equal."""

from __future__ import annotations

import copy
import os
import pickle
import random
import re
import sys
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from enum import Enum, StrEnum
from typing import Any
from uuid import UUID

import pytest
from pydantic import BaseModel

from anybroker.cloudevents import parse_json
from anybroker.errors import AnybrokerError, DecodeError, EncodeError, EventError, InvalidEvent
from anybroker.event import ABSENT, Event, event_type, new_id


@event_type("com.example.order.placed.v1", key="customer")
class Order(BaseModel):
    order: str
    cents: int
    customer: str | None = None


ORDER = Order(order="o-1", cents=999, customer="c-7")


def make(**changes: Any) -> Event[Any]:
    return Event.create(**{"data": {"a": 1}, "source": "shop", "type": "t", **changes})


class TestCreate:
    def test_fills_in_what_every_event_has(self) -> None:
        before = datetime.now(UTC)
        event = Event.create(ORDER, source="shop")
        after = datetime.now(UTC)
        assert dict(event.attributes) == {
            "specversion": "1.0",
            "id": event.id,
            "source": "shop",
            "type": "com.example.order.placed.v1",
            "time": event.time_raw,
            "datacontenttype": "application/json",
            "partitionkey": "c-7",
        }
        assert re.fullmatch("[0-9a-f]{32}", event.id)
        assert event.time is not None
        assert before - timedelta(milliseconds=1) <= event.time <= after + timedelta(milliseconds=1)
        assert event.body == b'{"order":"o-1","cents":999,"customer":"c-7"}'
        assert event.data is ORDER
        assert event.specversion == "1.0"

    def test_takes_what_is_given(self) -> None:
        event = Event.create(
            ORDER,
            source="/shop",
            type="other",
            id="1",
            time="2018-04-05t17:31:00.5+01:00",
            subject="s",
            key="k",
            datacontenttype="application/vnd.order+json",
            dataschema="https://example.com/order#v1",
            extensions={"traceparent": "00", "n": 5, "b": True, "raw": b"\0", "at": datetime(2020, 1, 1, tzinfo=UTC)},
        )
        assert dict(event.attributes) == {
            "specversion": "1.0",
            "id": "1",
            "source": "/shop",
            "type": "other",
            "time": "2018-04-05t17:31:00.5+01:00",
            "datacontenttype": "application/vnd.order+json",
            "subject": "s",
            "dataschema": "https://example.com/order#v1",
            "traceparent": "00",
            "n": 5,
            "b": True,
            "raw": b"\0",
            "at": "2020-01-01T00:00:00Z",
            "partitionkey": "k",
        }
        assert event.time == datetime(2018, 4, 5, 16, 31, 0, 500_000, UTC)
        assert (event.subject, event.dataschema, event.key) == ("s", "https://example.com/order#v1", "k")
        assert dict(event.extensions) == {
            name: event[name] for name in ("traceparent", "n", "b", "raw", "at", "partitionkey")
        }
        assert event.extensions["b"] is True

    def test_ids_do_not_repeat(self) -> None:
        assert len({new_id() for _ in range(10_000)} | {make().id for _ in range(1000)}) == 11_000

    def test_ids_do_not_depend_on_the_programs_seed(self) -> None:
        state = random.getstate()
        try:
            random.seed(0)
            first = make().id
            random.seed(0)
            assert make().id != first
        finally:
            random.setstate(state)

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
    def test_a_forked_process_makes_other_ids(self) -> None:
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.write(writer, new_id().encode())
            os._exit(0)
        os.waitpid(child, 0)
        os.close(writer)
        with os.fdopen(reader) as pipe:
            assert pipe.read() != new_id()

    @pytest.mark.parametrize(
        ("data", "content_type", "body", "labelled"),
        [
            (None, None, b"null", "application/json"),
            ("", None, b'""', "application/json"),
            ("ä", "text/plain", b"\xc3\xa4", "text/plain"),
            ("ä", "text/plain; charset=latin-1", b"\xe4", "text/plain; charset=latin-1"),
            ("<a/>", "application/xml", b"<a/>", "application/xml"),
            ("ä", "application/json;charset=utf-16-le", '"ä"'.encode("utf-16-le"), None),
            (b"", None, b"", "application/octet-stream"),
            (bytearray(b"\xff"), None, b"\xff", "application/octet-stream"),
            (memoryview(b"{}"), "application/json", b"{}", "application/json"),
            ([1, 2.5, True], None, b"[1,2.5,true]", "application/json"),
            ({"a": {"b": None}}, None, b'{"a":{"b":null}}', "application/json"),
            (10**30, None, b"1" + b"0" * 30, "application/json"),
            (ORDER, "text/json", b'{"order":"o-1","cents":999,"customer":"c-7"}', "text/json"),
        ],
    )
    def test_data(self, data: object, content_type: str | None, body: bytes, labelled: str | None) -> None:
        event = make(data=data, datacontenttype=content_type)
        assert event.body == body
        assert event.datacontenttype == (labelled or content_type)
        assert event.has_data

    def test_without_data(self) -> None:
        event: Event[None] = Event.create(source="s", type="t")
        assert event.body is None
        assert event.data is None
        assert not event.has_data
        assert event.datacontenttype is None
        labelled = Event.create(source="s", type="t", datacontenttype="text/plain")
        assert labelled.body is None
        assert labelled.datacontenttype == "text/plain"
        assert repr(ABSENT) == "ABSENT"

    def test_a_dataclass_and_plain_objects(self) -> None:
        @event_type("point")
        @dataclass(frozen=True, slots=True)
        class Point:
            x: int
            at: datetime

        event = Event.create(Point(1, datetime(2020, 1, 1, tzinfo=UTC)), source="s")
        assert event.type == "point"
        assert event.body == b'{"x":1,"at":"2020-01-01T00:00:00Z"}'

    def test_enums_are_kept_as_plain_strings(self) -> None:
        class Kind(StrEnum):
            A = "a"

        event = make(type=Kind.A, source=Kind.A, subject=Kind.A, id=Kind.A, extensions={"x": Kind.A})
        assert all(type(event[name]) is str for name in ("type", "source", "subject", "id", "x"))
        assert event["x"] == "a"

    def test_the_data_cannot_change_the_event(self) -> None:
        data = {"a": [1]}
        event = make(data=data)
        data["a"].append(2)
        assert event.body == b'{"a":[1]}'

    def test_bytes_are_data_that_is_encoded_already(self) -> None:
        assert make(data=b'{"a": 1}', datacontenttype="application/json").data == {"a": 1}


class Colour(Enum):
    RED = "red"


class TestKey:
    @pytest.mark.parametrize(
        ("key", "text"),
        [("k", "k"), ("ä b", "ä b"), (7, "7"), (Colour.RED, "red"), (UUID(int=1), str(UUID(int=1)))],
    )
    def test_becomes_text(self, key: object, text: str) -> None:
        event = make(key=key)
        assert event.key == event["partitionkey"] == text

    def test_declared_by_the_payload(self) -> None:
        assert Event.create(ORDER, source="s").key == "c-7"
        assert Event.create(Order(order="o", cents=1), source="s").key is None
        assert Event.create(ORDER, source="s", key="x").key == "x"
        assert Event.create(ORDER, source="s", extensions={"partitionkey": "y"}).key == "y"

    def test_given_twice(self) -> None:
        assert make(key="a", extensions={"partitionkey": "a"}).key == "a"
        with pytest.raises(InvalidEvent, match="given twice"):
            make(key="a", extensions={"partitionkey": "b"})

    def test_read_from_other_types(self) -> None:
        assert Event({"specversion": "1.0", "id": "1", "source": "s", "type": "t", "partitionkey": 5}).key == "5"
        assert Event({"specversion": "1.0", "id": "1", "source": "s", "type": "t", "partitionkey": ""}).key is None

    @pytest.mark.parametrize("key", [True, 1.5, b"k", ["k"], "", "a\nb"])
    def test_refused(self, key: object) -> None:
        with pytest.raises(InvalidEvent, match="partitionkey") as caught:
            make(key=key)
        assert caught.value.attribute == "partitionkey"

    def test_a_declared_function_that_fails(self) -> None:
        @event_type("broken", key=lambda payload: payload.missing)
        class Broken(BaseModel):
            pass

        with pytest.raises(InvalidEvent, match=r"declared by .*Broken cannot be read \(AttributeError\)"):
            Event.create(Broken(), source="s")


class TestRefusals:
    @pytest.mark.parametrize(
        ("changes", "attribute", "text"),
        [
            ({"source": ""}, "source", "attribute 'source' is empty. Give it a value"),
            ({"source": None}, "source", "attribute 'source' is a NoneType, not a string"),
            ({"source": ["s"]}, "source", "attribute 'source' is a list, not a string"),
            ({"source": "my shop"}, "source", "'my shop', which is not a URI-reference (RFC 3986)"),
            ({"source": "1:a"}, "source", "not a URI-reference"),
            ({"source": "a%zz"}, "source", "not a URI-reference"),
            ({"type": ""}, "type", "attribute 'type' is empty"),
            ({"type": 5}, "type", "attribute 'type' is a int, not a string"),
            ({"type": None}, "type", "attribute 'type' is not given, and dict declares none. Pass type="),
            ({"type": None, "data": ABSENT}, "type", "there is no data to declare it"),
            ({"id": ""}, "id", "attribute 'id' is empty"),
            ({"id": "a\nb"}, "id", "attribute 'id' holds U+000A at position 1"),
            ({"subject": ""}, "subject", "attribute 'subject' is empty"),
            ({"subject": "\ud800"}, "subject", "U+D800"),
            ({"subject": "\ufffe"}, "subject", "U+FFFE"),
            ({"time": "lunchtime"}, "time", "'lunchtime', which is not an RFC 3339 timestamp"),
            ({"time": datetime(2020, 1, 1)}, "time", "datetime without a time zone. Use datetime.now(UTC)"),
            ({"time": 5}, "time", "attribute 'time' is a int"),
            ({"datacontenttype": "xyz"}, "datacontenttype", "not a media type (RFC 2046)"),
            ({"datacontenttype": ""}, "datacontenttype", "is empty"),
            ({"dataschema": "schemas/order"}, "dataschema", "not an absolute URI (RFC 3986)"),
            ({"extensions": {"my-ext": "x"}}, "my-ext", "has a name that is not allowed. Use lower-case"),
            ({"extensions": {"Ext": "x"}}, "Ext", "has a name that is not allowed"),
            ({"extensions": {"": "x"}}, "", "has a name that is not allowed"),
            ({"extensions": {5: "x"}}, "5", "has a name that is not allowed"),
            ({"extensions": {"data": "x"}}, "data", "is the event's payload"),
            ({"extensions": {"id": "x"}}, "id", "is an attribute of CloudEvents, not an extension. Pass it as id="),
            ({"extensions": {"x": None}}, "x", "is a NoneType, which is not a type of CloudEvents attributes"),
            ({"extensions": {"x": 1.5}}, "x", "is a float"),
            ({"extensions": {"x": [1]}}, "x", "is a list"),
            ({"extensions": {"x": {}}}, "x", "is a dict"),
            ({"extensions": {"x": 2**31}}, "x", "outside the 32 bits"),
            ({"extensions": {"x": -(2**31) - 1}}, "x", "outside the 32 bits"),
        ],
    )
    def test_names_the_attribute_and_the_remedy(self, changes: dict[str, Any], attribute: str, text: str) -> None:
        with pytest.raises(InvalidEvent) as caught:
            make(**changes)
        assert text in str(caught.value)
        assert caught.value.attribute == attribute
        assert str(caught.value).count(". ") >= 1  # the problem, then the remedy
        assert isinstance(caught.value, ValueError)
        assert isinstance(caught.value, EventError)

    def test_long_values_are_cut(self) -> None:
        with pytest.raises(InvalidEvent) as caught:
            make(source=" " * 10_000)
        assert len(str(caught.value)) < 300

    def test_a_subclass_has_to_declare_its_own_type(self) -> None:
        class Special(Order):
            pass

        with pytest.raises(InvalidEvent, match=r"declared on Order but not on its subclass .*Special"):
            Event.create(Special(order="o", cents=1), source="s")
        assert Event.create(Special(order="o", cents=1, customer="c"), source="s", type="t").key == "c"


class TestFrozen:
    def test_attributes_cannot_be_set_or_deleted(self) -> None:
        event = make()
        for name in ("id", "source", "data", "body", "_attributes", "_body", "new"):
            with pytest.raises(AttributeError, match="cannot be changed"):
                setattr(event, name, "x")
            with pytest.raises(AttributeError, match="cannot be changed"):
                delattr(event, name)
        assert not hasattr(event, "__dict__")

    def test_views_are_read_only(self) -> None:
        event = make()
        with pytest.raises(TypeError):
            event.attributes["id"] = "x"  # type: ignore[index]
        with pytest.raises(TypeError):
            event.extensions["id"] = "x"  # type: ignore[index]
        event.get_attributes()["id"] = "x"
        assert event.id != "x"

    def test_getitem_get_and_contains(self) -> None:
        event = make(subject="s")
        assert event["subject"] == event.get("subject") == "s"
        assert event.get("missing") is None
        assert event.get("missing", 5) == 5
        assert "subject" in event
        assert "missing" not in event
        with pytest.raises(KeyError):
            event["missing"]


class TestReplace:
    def test_changes_some_and_keeps_the_rest(self) -> None:
        event = make(subject="s", key="k", extensions={"a": "1", "b": "2"})
        changed = event.replace(subject=None, time="2020-01-01T00:00:00Z", key=None, a=5, extensions={"b": None})
        assert dict(changed.attributes) == {
            **{name: event[name] for name in ("specversion", "id", "source", "type", "datacontenttype")},
            "time": "2020-01-01T00:00:00Z",
            "a": 5,
        }
        assert changed.body is event.body
        assert event.subject == "s"
        assert event.replace() == event
        assert event.replace(key=7).key == "7"

    def test_data(self) -> None:
        event = make(data=b"x")
        assert event.replace(data={"b": 2}).body == b'{"b":2}'
        assert event.replace(data={"b": 2}).datacontenttype == "application/json"
        assert event.replace(data="t", datacontenttype="text/plain").body == b"t"
        assert event.replace(data=ABSENT).body is None
        assert event.replace(data=None).body == b"null"
        assert event.replace(datacontenttype="image/png").body == b"x"
        assert event.replace(data=ORDER).data is ORDER

    @pytest.mark.parametrize(
        ("changes", "text"),
        [
            ({"id": ""}, "'id' is empty"),
            ({"id": None}, "'id' cannot be removed"),
            ({"specversion": "0.3"}, "'specversion' cannot be changed"),
            ({"source": "a b"}, "URI-reference"),
            ({"time": "now"}, "RFC 3339"),
            ({"datacontenttype": "x"}, "RFC 2046"),
            ({"My": "x"}, "name that is not allowed"),
            ({"key": ""}, "partitionkey"),
            ({"x": 1.5}, "is a float"),
        ],
    )
    def test_validates_what_changes(self, changes: dict[str, Any], text: str) -> None:
        with pytest.raises(InvalidEvent, match=re.escape(text)):
            make().replace(**changes)

    def test_leaves_alone_what_a_tolerant_reader_let_in(self) -> None:
        event = parse_json('{"specversion":"1.0","id":"1","source":"my shop","type":"t"}')
        assert event.replace(id="2").source == "my shop"


class TestValue:
    def test_equality_and_hash(self) -> None:
        event = make(id="1", time="2020-01-01T00:00:00Z")
        same = make(id="1", time="2020-01-01T00:00:00Z")
        assert event == same
        assert hash(event) == hash(same)
        assert event != same.replace(subject="s")
        assert event != same.replace(data={"a": 2})
        assert event != same.replace(data=ABSENT)
        assert event != "event"
        assert len({event, same}) == 1

    def test_equality_is_of_canonical_strings(self) -> None:
        event = make(extensions={"n": 10, "b": True, "raw": b"\0"})
        assert event == event.replace(n="10", b="true", raw="AA==")
        assert event != event.replace(b=1)

    def test_repr_is_short_and_hides_the_data(self) -> None:
        event = make(data={"password": "hunter2"}, id="1")
        assert repr(event) == "<Event 't' id='1' source='shop', 22 bytes of application/json>"
        assert repr(event.replace(data=ABSENT, datacontenttype=None)).endswith("no data>")

    @pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
    def test_pickle(self, protocol: int) -> None:
        event = make(extensions={"n": 10, "b": True, "raw": b"\0"}, subject="s")
        again = pickle.loads(pickle.dumps(event, protocol))
        assert again == event
        assert dict(again.attributes) == dict(event.attributes)
        assert again.data == {"a": 1}

    def test_copy(self) -> None:
        event = make(data={"a": [1]})
        assert copy.copy(event) is event
        deep = copy.deepcopy(event)
        assert deep == event
        deep.data["a"].append(2)
        assert event.data == {"a": [1]}

    def test_size(self) -> None:
        assert sys.getsizeof(make()) <= 80


class TestData:
    @pytest.mark.parametrize(
        ("body", "content_type", "data"),
        [
            (b' {"a": 1} ', "application/json", {"a": 1}),
            (b'"x"', "application/vnd.x+json; charset=UTF-8", "x"),
            ('{"ä":1}'.encode("utf-16"), "application/json; charset=utf-16", {"ä": 1}),
            (b"\xc3\xa4", "text/plain", "ä"),
            (b"\xe4", 'text/html; charset="iso-8859-1"', "ä"),
            (b"\xe4", "image/png", b"\xe4"),
            (b"{}", None, b"{}"),
            (b"", "text/plain", ""),
        ],
    )
    def test_decoded_by_content_type(self, body: bytes, content_type: str | None, data: object) -> None:
        event = make(data=body).replace(datacontenttype=content_type)
        assert event.data == data
        assert event.data is event.data

    @pytest.mark.parametrize(
        ("body", "content_type", "text"),
        [
            (b"{", "application/json", "not JSON, though its content type is 'application/json'"),
            (b"", "application/json", "not JSON"),
            (b"NaN", "application/json", "not JSON"),
            (b'"\xff"', "application/json", "not JSON"),
            (b"\xff", "text/plain", "not utf-8 text"),
            (b"\xff", "text/plain; charset=nonsense", "unknown"),
            (b"x", "text/plain; charset=idna", "unknown"),
            (b"x", "text/plain; charset=hex", "unknown"),
            (b"a", "text/plain; charset=utf-16", "not utf-16 text"),
        ],
    )
    def test_that_is_not_what_it_says(self, body: bytes, content_type: str, text: str) -> None:
        event = make(data=body, datacontenttype=content_type)
        for _ in range(2):  # a failure is not cached as something else
            with pytest.raises(DecodeError, match=re.escape(text)):
                _ = event.data

    def test_with_data_shares_bytes_and_attributes(self) -> None:
        event = make(data=b'{"order":"o","cents":1}', datacontenttype="application/json")
        payload = Order.model_validate_json(event.body or b"")
        attached = event._with_data(payload)
        assert attached.data is payload
        assert attached == event
        assert attached.body is event.body
        assert attached.time is not None
        assert event.data == {"order": "o", "cents": 1}
        assert attached._without_data().data == event.data

    def test_time_is_parsed_once(self) -> None:
        event = make(time="2016-12-31T23:59:60.5Z")
        assert event.time == datetime(2017, 1, 1, tzinfo=UTC)
        assert event.time is event.time
        assert event.time_raw == "2016-12-31T23:59:60.5Z"
        offset = make(time=datetime(2020, 1, 1, 5, 30, tzinfo=timezone(timedelta(hours=5, minutes=30))))
        assert offset.time_raw == "2020-01-01T05:30:00+05:30"
        untimed = Event({"specversion": "1.0", "id": "1", "source": "s", "type": "t"})
        assert untimed.time is None
        assert untimed.time_raw is None


class TestConstructor:
    def test_invents_nothing(self) -> None:
        given = {"specversion": "1.0", "id": "1", "source": "s", "type": "t", "subject": None}
        event = Event(given)
        assert dict(event.attributes) == {"specversion": "1.0", "id": "1", "source": "s", "type": "t"}
        assert event.body is None
        assert given["subject"] is None

    def test_data_as_the_sdk_has_it(self) -> None:
        given = {"specversion": "1.0", "id": "1", "source": "s", "type": "t"}
        assert Event(given, None).body is None
        assert Event(given, b"x").datacontenttype is None
        assert Event(given, {"a": 1}).datacontenttype == "application/json"
        assert Event({**given, "datacontenttype": "text/plain"}, "x").body == b"x"

    @pytest.mark.parametrize("missing", ["specversion", "id", "source", "type"])
    def test_needs_the_required_attributes(self, missing: str) -> None:
        given = {"specversion": "1.0", "id": "1", "source": "s", "type": "t"}
        del given[missing]
        with pytest.raises(InvalidEvent, match=f"{missing!r} is missing") as caught:
            Event(given)
        assert caught.value.attribute == missing

    def test_refuses_data_that_cannot_be_written(self) -> None:
        with pytest.raises(EncodeError) as caught:
            Event({"specversion": "1.0", "id": "1", "source": "s", "type": "t"}, object())
        assert isinstance(caught.value, AnybrokerError)
