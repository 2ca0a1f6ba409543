"""Against the CloudEvents Python SDK 2.x: both ways, as objects, as JSON, and on each binding that it has."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from anybroker.cloudevents import (
    HeaderBinding,
    format_json,
    from_cloudevent,
    parse_json,
    to_cloudevent,
)
from anybroker.errors import ConfigError, InvalidEvent
from anybroker.event import ABSENT, Event

pytest.importorskip("cloudevents.core")

from cloudevents.core.base import BaseCloudEvent, EventFactory
from cloudevents.core.bindings import amqp, kafka, rabbitmq
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent

FORMAT = JSONFormat()
KAFKA = HeaderBinding(bytes, prefix="ce_")
AMQP = HeaderBinding(
    str,
    prefix="cloudEvents_",
    also_read=("cloudEvents:", "ce-"),
    content_type="property",
    null_body=False,
)
RABBITMQ = HeaderBinding(
    str,
    prefix="ce-",
    also_read=("cloudEvents_", "cloudEvents:"),
    content_type="property",
    null_body=False,
)


def event(data: Any = ABSENT, **changes: Any) -> Event[Any]:
    return Event.create(
        data,
        **{
            "source": "/shop",
            "type": "t",
            "id": "1",
            "time": "2018-04-05T17:31:00.123456Z",
            "subject": "ä 100%",
            "dataschema": "https://example.com/s",
            "extensions": {"traceparent": "00-01"},
            "key": "k",
            **changes,
        },
    )


def alike(found: Event[Any], ours: Event[Any]) -> None:
    """The same attributes and the same data; the SDK writes JSON with other blanks and escapes."""
    assert found.replace(data=ABSENT) == ours.replace(data=ABSENT)
    assert found.data == ours.data


# Data that the SDK carries through all of its modes.
SHARED = [
    event({"a": [1, "ä", None, 1.5]}),
    event("täxt", datacontenttype="text/plain"),
    event(b"\xff\x00", datacontenttype="image/png"),
]
# Data that it cannot write as JSON in binary mode, and that therefore reach it as bytes.
AS_BYTES = [event(["a", "b"]), event("text"), event(None), event(5), event(True)]


def test_event_is_what_the_sdk_calls_an_event() -> None:
    checked: BaseCloudEvent = SHARED[0]  # for the type checkers
    factory: EventFactory = Event
    assert callable(factory)
    for name in vars(BaseCloudEvent):
        if name.startswith("get_"):
            assert callable(getattr(checked, name))
    assert checked.get_id() == "1"
    assert checked.get_source() == "/shop"
    assert checked.get_type() == "t"
    assert checked.get_specversion() == "1.0"
    assert checked.get_datacontenttype() == "application/json"
    assert checked.get_dataschema() == "https://example.com/s"
    assert checked.get_subject() == "ä 100%"
    assert checked.get_time() == datetime(2018, 4, 5, 17, 31, 0, 123_456, UTC)
    assert checked.get_extension("traceparent") == "00-01"
    assert checked.get_extension("missing") is None
    assert checked.get_data() == {"a": [1, "ä", None, 1.5]}
    assert checked.get_attributes()["time"] == checked.get_time()


def test_attributes_reach_the_sdk_in_their_canonical_form() -> None:
    typed = event(extensions={"n": 5, "b": True, "raw": b"\xff"})
    assert typed.get_attributes()["b"] == "true"
    assert typed.get_attributes()["raw"] == "/w=="
    assert typed.get_attributes()["n"] == 5
    message = kafka.to_binary(typed, FORMAT)
    assert KAFKA.parse(list(message.headers.items()), None) == typed
    assert parse_json(FORMAT.write(typed)) == typed


@pytest.mark.parametrize("ours", [*SHARED, *AS_BYTES, event()])
def test_as_objects(ours: Event[Any]) -> None:
    theirs = ours.to_cloudevent()
    assert type(theirs) is CloudEvent
    assert theirs.get_time() == ours.time
    back = Event.from_cloudevent(theirs)
    assert back == ours
    assert from_cloudevent(to_cloudevent(ours, CloudEvent)) == ours


def test_conversion_to_and_from_event_itself() -> None:
    assert Event.from_cloudevent(SHARED[0]) is SHARED[0]
    assert SHARED[0].to_cloudevent(Event) is SHARED[0]


def test_theirs_to_ours() -> None:
    theirs = CloudEvent(
        {"source": "s", "type": "t", "id": "1", "time": datetime(2020, 1, 1, tzinfo=UTC), "n": 5}, {"a": 1}
    )
    ours = Event.from_cloudevent(theirs)
    assert dict(ours.attributes) == {
        "source": "s",
        "type": "t",
        "id": "1",
        "time": "2020-01-01T00:00:00Z",
        "n": 5,
        "specversion": "1.0",
        "datacontenttype": "application/json",
    }
    assert ours.data == {"a": 1}
    assert Event.from_cloudevent(CloudEvent({"source": "s", "type": "t"}, b"x")).datacontenttype is None
    assert Event.from_cloudevent(CloudEvent({"source": "s", "type": "t"})).body is None


@pytest.mark.parametrize("other", [None, {}, "event", object()])
def test_what_is_no_event(other: object) -> None:
    with pytest.raises(InvalidEvent, match="is not a CloudEvent"):
        from_cloudevent(other)


def test_without_the_sdk(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr("anybroker.cloudevents.sdk.import_module", missing)
    with pytest.raises(ConfigError, match=r"pip install 'anybroker\[cloudevents\]'"):
        SHARED[0].to_cloudevent()
    assert SHARED[0].to_cloudevent(lambda attributes, data: data) == SHARED[0].data


class TestJson:
    @pytest.mark.parametrize("ours", [*SHARED, *AS_BYTES, event()])
    def test_they_read_ours(self, ours: Event[Any]) -> None:
        theirs = FORMAT.read(None, format_json(ours))
        assert isinstance(theirs, CloudEvent)
        assert theirs.get_id() == ours.id
        assert theirs.get_time() == ours.time
        assert theirs.get_subject() == ours.subject
        assert theirs.get_data() == ours.data

    @pytest.mark.parametrize("ours", [*SHARED, event()])
    def test_we_read_theirs(self, ours: Event[Any]) -> None:
        alike(parse_json(FORMAT.write(ours.to_cloudevent())), ours)
        alike(parse_json(FORMAT.write(ours)), ours)  # their writer, our object

    @pytest.mark.parametrize("ours", SHARED)
    def test_our_class_as_their_factory(self, ours: Event[Any]) -> None:
        found = FORMAT.read(Event, format_json(ours))
        assert isinstance(found, Event)
        assert found == ours


class TestKafka:
    @pytest.mark.parametrize("ours", SHARED)
    @pytest.mark.parametrize("mode", ["binary", "structured"])
    def test_they_read_ours(self, ours: Event[Any], mode: str) -> None:
        if mode == "binary":
            headers, body = KAFKA.binary_headers(ours), ours.body
        else:
            headers, body = KAFKA.structured(ours)
        message = kafka.KafkaMessage(dict(headers), b"k", body or b"")
        theirs = kafka.from_kafka(message, FORMAT)
        assert theirs.get_data() == ours.data
        assert theirs.get_time() == ours.time
        assert Event.from_cloudevent(theirs) == ours
        assert kafka.from_kafka(message, FORMAT, Event) == ours

    @pytest.mark.parametrize("ours", [*SHARED, *AS_BYTES])
    @pytest.mark.parametrize("write", [kafka.to_binary, kafka.to_structured])
    def test_we_read_theirs(self, ours: Event[Any], write: Any) -> None:
        for theirs in (ours.to_cloudevent(), ours):
            if theirs is ours and ours in AS_BYTES and write is kafka.to_binary:
                continue  # the SDK writes repr() of such data; to_cloudevent() is the way round
            message = write(theirs, FORMAT)
            assert message.key == "k"
            found = KAFKA.parse(list(message.headers.items()), message.value)
            assert found.id == ours.id
            alike(found, ours)


class TestAmqp:
    @pytest.mark.parametrize("ours", SHARED)
    def test_they_read_ours(self, ours: Event[Any]) -> None:
        message = amqp.AMQPMessage(
            {"content-type": ours.datacontenttype}, dict(AMQP.binary_headers(ours)), ours.body or b""
        )
        assert Event.from_cloudevent(amqp.from_amqp(message, FORMAT)) == ours

    @pytest.mark.parametrize("ours", SHARED)
    @pytest.mark.parametrize("write", [amqp.to_binary, amqp.to_structured])
    def test_we_read_theirs(self, ours: Event[Any], write: Any) -> None:
        message = write(ours.to_cloudevent(), FORMAT)
        found = AMQP.parse(
            list(message.application_properties.items()),
            message.application_data,
            content_type=message.properties["content-type"],
        )
        if write is amqp.to_binary:  # their timestamps are milliseconds
            assert found.time == datetime(2018, 4, 5, 17, 31, 0, 123_000, UTC)
            found = found.replace(time=ours.time_raw)
        alike(found, ours)


class TestRabbitmq:
    @pytest.mark.parametrize("ours", SHARED)
    def test_they_read_ours(self, ours: Event[Any]) -> None:
        headers = dict(RABBITMQ.binary_headers(ours))
        message = rabbitmq.RabbitMQMessage(headers, ours.datacontenttype, ours.body or b"")
        assert Event.from_cloudevent(rabbitmq.from_binary(message, FORMAT)) == ours

    @pytest.mark.parametrize("ours", SHARED)
    def test_we_read_theirs(self, ours: Event[Any]) -> None:
        message = rabbitmq.to_binary(ours.to_cloudevent(), FORMAT)
        for binding in (RABBITMQ, AMQP):
            found = binding.parse(list(message.headers.items()), message.body, content_type=message.content_type)
            alike(found, ours)
