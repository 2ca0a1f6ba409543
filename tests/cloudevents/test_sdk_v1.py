"""Against the API of the CloudEvents Python SDK 1.x, which 2.x still ships as ``cloudevents.v1``.

``ANYBROKER_TEST_CE1_PYTHON`` may name an interpreter with a real 1.x and this library's dependencies; the same
exchange then runs there as well, in a separate process.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import anybroker
from anybroker.cloudevents import HeaderBinding, format_json, parse_json
from anybroker.event import ABSENT, Event

pytest.importorskip("cloudevents.v1")

from cloudevents.v1 import kafka
from cloudevents.v1.conversion import to_json, to_structured
from cloudevents.v1.http import CloudEvent, from_http, from_json

KAFKA = HeaderBinding(bytes, prefix="ce_")
HTTP = HeaderBinding(str, prefix="ce-", percent=True)


def event(data: Any = ABSENT, **changes: Any) -> Event[Any]:
    return Event.create(
        data,
        **{"source": "/shop", "type": "t", "id": "1", "time": "2018-04-05T17:31:00.123Z", "subject": "s", **changes},
    )


def alike(found: Event[Any], ours: Event[Any]) -> None:
    """The same attributes and the same data; the SDK writes JSON with other blanks and escapes."""
    assert found.replace(data=ABSENT) == ours.replace(data=ABSENT)
    assert found.data == ours.data


OURS = [
    event({"a": [1, "ä", None, 1.5]}, extensions={"n": 5, "b": True, "raw": b"\xff"}),
    event(["a", 1]),
    event("täxt", datacontenttype="text/plain"),
    event(b"\xff\x00", datacontenttype="image/png"),
]


@pytest.mark.parametrize("ours", [*OURS, event()])
def test_as_objects(ours: Event[Any]) -> None:
    theirs = ours.to_cloudevent(CloudEvent)
    assert isinstance(theirs, CloudEvent)
    assert theirs["time"] == "2018-04-05T17:31:00.123Z"
    assert all(isinstance(value, str) for value in theirs.get_attributes().values())
    assert theirs.get_data() == ours.data
    assert Event.from_cloudevent(theirs) == ours


@pytest.mark.parametrize("ours", OURS)
def test_json(ours: Event[Any]) -> None:
    theirs = from_json(format_json(ours))
    assert theirs["id"] == ours.id
    assert Event.from_cloudevent(theirs).get("subject") == "s"
    alike(parse_json(to_json(ours.to_cloudevent(CloudEvent))), ours)


@pytest.mark.parametrize("ours", OURS)
def test_http_structured(ours: Event[Any]) -> None:
    headers, body = to_structured(ours.to_cloudevent(CloudEvent))
    alike(HTTP.parse(list(headers.items()), body), ours)


@pytest.mark.parametrize("ours", OURS[:2])
def test_http_binary(ours: Event[Any]) -> None:
    theirs = from_http(dict(HTTP.binary_headers(ours)), ours.body)
    assert theirs.get_data() == ours.data
    assert Event.from_cloudevent(theirs) == ours


@pytest.mark.parametrize("ours", OURS[:2])
def test_kafka_binary(ours: Event[Any]) -> None:
    theirs = kafka.from_binary(kafka.KafkaMessage(dict(KAFKA.binary_headers(ours)), None, ours.body or b""))
    assert Event.from_cloudevent(theirs) == ours
    message = kafka.to_binary(ours.to_cloudevent(CloudEvent))
    found = KAFKA.parse(list(message.headers.items()), message.value if isinstance(message.value, bytes) else b"")
    assert found.data == ours.data
    assert dict(found.attributes) == dict(Event.from_cloudevent(theirs).attributes)


def test_a_record_key_in_bytes() -> None:
    message = kafka.KafkaMessage(dict(KAFKA.binary_headers(OURS[0])), "schlüssel".encode(), OURS[0].body or b"")
    assert Event.from_cloudevent(kafka.from_binary(message)).key == "schlüssel"


EXCHANGE = """
from cloudevents.http import CloudEvent, from_json
from cloudevents.conversion import to_json
from anybroker.event import Event
from anybroker.cloudevents import format_json, parse_json

ours = Event.create({"a": 1}, source="/shop", type="t", key="k")
assert Event.from_cloudevent(ours.to_cloudevent()) == ours
assert type(ours.to_cloudevent()) is CloudEvent
assert Event.from_cloudevent(from_json(format_json(ours))) == ours
assert parse_json(to_json(ours.to_cloudevent())).data == ours.data
print("exchanged")
"""


def test_a_real_1_x() -> None:
    python = os.environ.get("ANYBROKER_TEST_CE1_PYTHON")
    if not python:
        pytest.skip("set ANYBROKER_TEST_CE1_PYTHON to an interpreter with cloudevents 1.x and pydantic")
    source = Path(anybroker.__file__).parent.parent
    done = subprocess.run(
        [python, "-c", EXCHANGE],
        env={**os.environ, "PYTHONPATH": str(source)},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.stdout.strip() == "exchanged", done.stderr
    assert python != sys.executable
