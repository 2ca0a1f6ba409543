"""The official vectors of the JSON format and of the JSON batch format: all of them."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from anybroker.cloudevents import format_json, format_json_batch, parse_json, parse_json_batch
from anybroker.errors import InvalidEvent
from anybroker.event import Event

FOLDER = Path(__file__).parent / "conformance" / "json-format"

_CORE = {"specversion": "1.0", "type": "io.cloudevents.test", "source": "https://cloudevents.io"}
_MOMENT = datetime(2018, 4, 5, 17, 31, tzinfo=UTC)

# What the vectors' `sampleId` stands for. They name the events and leave them to each implementation.
SAMPLES: dict[str, dict[str, Any]] = {
    "minimal": {**_CORE, "id": "minimal"},
    "minimalWithTime": {**_CORE, "id": "minimalWithTime", "time": _MOMENT},
    "minimalWithRelativeSource": {**_CORE, "id": "minimalWithRelativeSource", "source": "#fragment"},
    "simpleTextData": {
        **_CORE,
        "id": "simpleTextData",
        "datacontenttype": "text/plain",
        "data": "Simple text",
    },
    "allCore": {
        **_CORE,
        "id": "allCore",
        "datacontenttype": "text/plain",
        "dataschema": "https://cloudevents.io/dataschema",
        "subject": "tests",
        "time": _MOMENT,
    },
    "allExtensionTypes": {
        **_CORE,
        "id": "allExtensionTypes",
        "extinteger": 10,
        "extboolean": True,
        "extstring": "text",
        "exturi": "https://cloudevents.io",
        "exturiref": "//authority/path",
        "exttimestamp": "2023-03-31T15:12:00Z",
        "extbinary": "TWE=",
    },
}
BATCHES = {
    "empty": [],
    "minimal": ["minimal"],
    "minimal2": ["minimal", "minimal"],
    "minimalAndAllCore": ["minimal", "allCore"],
    "minimalAndAllExtensionTypes": ["minimal", "allExtensionTypes"],
}


def vectors(name: str) -> list[Any]:
    document = json.loads((FOLDER / f"{name}.json").read_text())
    return [pytest.param(test, id=test["id"]) for test in document["tests"]]


def seen(event: Event[Any]) -> dict[str, Any]:
    """The event as the samples above write it: the moment instead of its spelling, and the data."""
    result: dict[str, Any] = dict(event.attributes)
    if event.time is not None:
        result["time"] = event.time.astimezone(UTC)
    if event.has_data:
        result["data"] = event.data
    return result


def test_there_are_43_vectors() -> None:
    names = ("valid-events", "invalid-events", "valid-batches", "invalid-batches")
    assert sum(len(vectors(name)) for name in names) == 43


@pytest.mark.parametrize("vector", vectors("valid-events"))
def test_valid_event(vector: dict[str, Any]) -> None:
    event = parse_json(json.dumps(vector["event"]))
    assert seen(event) == SAMPLES[vector["sampleId"]]
    assert parse_json(format_json(event)) == event


@pytest.mark.parametrize("vector", vectors("invalid-events"))
def test_invalid_event(vector: dict[str, Any]) -> None:
    with pytest.raises(InvalidEvent):
        parse_json(json.dumps(vector["event"]))


@pytest.mark.parametrize("vector", vectors("valid-batches"))
def test_valid_batch(vector: dict[str, Any]) -> None:
    events = parse_json_batch(json.dumps(vector["batch"]))
    assert [seen(event) for event in events] == [SAMPLES[name] for name in BATCHES[vector["sampleId"]]]
    assert parse_json_batch(format_json_batch(events)) == events


@pytest.mark.parametrize("vector", vectors("invalid-batches"))
def test_invalid_batch(vector: dict[str, Any]) -> None:
    with pytest.raises(InvalidEvent):
        parse_json_batch(json.dumps(vector["batch"]))
