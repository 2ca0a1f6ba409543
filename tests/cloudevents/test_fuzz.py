"""More than a hundred thousand broken messages: each gives an event or InvalidEvent, and nothing else.

Seeded, so that a failure comes back.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from fuzz.mutate import mutate

from anybroker.cloudevents import (
    HeaderBinding,
    filter_attributes,
    format_json,
    format_json_batch,
    format_text,
    parse_json,
    parse_json_batch,
    parse_text,
)
from anybroker.errors import DecodeError, InvalidEvent
from anybroker.event import Event

ROUNDS = 12_500  # of each of the nine targets

MOST = 1_000_000
"""Bytes: more than any of these inputs grows to."""
SEEDS = [
    Event.create({"a": [1, "ä", None]}, source="/shop", type="t", subject="s", key="k", extensions={"n": 5, "b": True}),
    Event.create("text", source="s", type="t", datacontenttype="text/plain; charset=latin-1"),
    Event.create(b"\xff\x00", source="s", type="t", extensions={"raw": b"\x01"}),
    Event.create(source="s", type="t", time="2016-12-31T23:59:60.123+01:00"),
]
KAFKA = HeaderBinding(bytes, prefix="ce_")
AMQP = HeaderBinding(
    str, prefix="cloudEvents_", also_read=("cloudEvents:", "ce-"), content_type="property", null_body=False
)
NATS = HeaderBinding(str, prefix="ce-", content_type="attribute", percent=True, null_body=False, headerless=True)
NATIVE: list[Any] = [None, True, -1, 2**40, 1.5, [], {}, [b"x"], bytearray(b"\xff"), memoryview(b"x"), 10**40, ""]


def raw(rng: random.Random, valid: bytes) -> bytes:
    return rng.randbytes(rng.randrange(60)) if rng.random() < 0.1 else mutate(rng, valid, MOST)


def loose(rng: random.Random, valid: bytes | str) -> str:
    data = raw(rng, valid.encode("utf-8", "surrogatepass") if isinstance(valid, str) else valid)
    return data.decode("utf-8", rng.choice(("replace", "surrogateescape", "ignore")))


def headers(rng: random.Random, valid: list[tuple[str, Any]], typed: bool) -> list[tuple[str, Any]]:
    result: list[tuple[str, Any]] = []
    for name, value in valid:
        if rng.random() < 0.05:
            continue
        if rng.random() < 0.1:
            name = loose(rng, name)
        if rng.random() < 0.3:
            value = raw(rng, value) if isinstance(value, bytes) else loose(rng, value)
        if typed and rng.random() < 0.1:
            value = rng.choice(NATIVE)
        result.append((name, value))
    if rng.random() < 0.2:
        result.append(
            ("content-type", rng.choice((b"application/cloudevents+json", "text/plain", loose(rng, "a/b"), b"\xff")))
        )
    rng.shuffle(result)
    return result


def json_documents(rng: random.Random, event: Event[Any]) -> Any:
    document = raw(rng, format_json(event))
    return document if rng.random() < 0.8 else document.decode("utf-8", "surrogateescape")


def batches(rng: random.Random, event: Event[Any]) -> Any:
    return raw(rng, format_json_batch([event, rng.choice(SEEDS)]))


def kafka(rng: random.Random, event: Event[Any]) -> Event[Any]:
    return KAFKA.parse(headers(rng, KAFKA.binary_headers(event), typed=False), rng.choice((event.body, None, b"")))


def kafka_in_less_time(rng: random.Random, event: Event[Any]) -> Event[Any]:
    """The short way gives what the long way gives, or nothing."""
    sent = headers(rng, KAFKA.binary_headers(event), typed=False)
    try:
        found = KAFKA.parse(sent, event.body)
    except InvalidEvent:
        assert KAFKA.parse_usual(sent, event.body) == (None, 0)
        raise
    usual, count = KAFKA.parse_usual(sent, event.body)
    assert usual is None or (usual == found and count == len(usual.attributes))
    if usual is not None and count == len(sent) and all(type(value) is bytes for _, value in sent):
        assert KAFKA.binary_headers(usual) == sent
    return found


def kafka_structured(rng: random.Random, event: Event[Any]) -> Event[Any]:
    announced, body = KAFKA.structured(event)
    return KAFKA.parse(headers(rng, [*announced, ("ce_id", b"x")], typed=False), raw(rng, body))


def amqp(rng: random.Random, event: Event[Any]) -> Event[Any]:
    content_type = rng.choice((None, "", event.datacontenttype, loose(rng, "application/cloudevents+json")))
    found = headers(rng, AMQP.binary_headers(event), typed=True)
    return AMQP.parse(found, rng.choice((event.body or b"", format_json(event))), content_type=content_type)


def nats(rng: random.Random, event: Event[Any]) -> Event[Any]:
    found = headers(rng, NATS.binary_headers(event), typed=False) if rng.random() < 0.9 else []
    return NATS.parse(found, rng.choice((event.body or b"", raw(rng, format_json(event)))))


def text(rng: random.Random, event: Event[Any]) -> Event[Any]:
    attributes = dict(
        headers(rng, [(str(name), value) for name, value in filter_attributes(event).items()], typed=True)
    )
    body = loose(rng, format_text(event))
    return parse_text(body if rng.random() < 0.9 else body.encode("utf-8", "replace"), attributes)


def envelope(rng: random.Random, event: Event[Any]) -> Event[Any]:
    attributes = ",".join(
        f'"{name}":{{"Type":"String","Value":"{value}"}}' for name, value in filter_attributes(event).items()
    )
    message = format_text(event).replace("\\", "\\\\").replace('"', '\\"')
    whole = f'{{"Type":"Notification","Message":"{message}","MessageAttributes":{{{attributes}}}}}'
    return parse_text(loose(rng, whole), {})


TARGETS: dict[str, Callable[[random.Random, Event[Any]], list[Event[Any]]]] = {
    "json": lambda rng, event: [parse_json(json_documents(rng, event))],
    "batch": lambda rng, event: parse_json_batch(batches(rng, event)),
    "kafka": lambda rng, event: [kafka(rng, event)],
    "kafka-usual": lambda rng, event: [kafka_in_less_time(rng, event)],
    "kafka-structured": lambda rng, event: [kafka_structured(rng, event)],
    "amqp": lambda rng, event: [amqp(rng, event)],
    "nats": lambda rng, event: [nats(rng, event)],
    "text": lambda rng, event: [text(rng, event)],
    "envelope": lambda rng, event: [envelope(rng, event)],
}


@pytest.mark.parametrize("target", TARGETS)
def test_an_event_or_our_error(target: str) -> None:
    rng = random.Random(f"anybroker {target}")
    read = TARGETS[target]
    accepted = 0
    refused: list[str] = []
    for _ in range(ROUNDS):
        try:
            events = read(rng, rng.choice(SEEDS))
        except InvalidEvent as error:
            refused.append(str(error))
            continue
        accepted += 1
        for event in events:
            # Whatever was let in can be shown, dated, decoded, and written and read again.
            assert repr(event)
            assert event.time is None or event.time.tzinfo is not None
            try:
                _ = event.data
            except DecodeError:
                pass
            assert parse_json(format_json(event)).id == event.id
            assert KAFKA.parse(KAFKA.binary_headers(event), event.body) == event
    assert accepted > ROUNDS / 100, "the mutations leave nothing valid: the test proves little"
    assert len(refused) > ROUNDS / 100, "the mutations break nothing: the test proves little"
    assert all(0 < len(text) < 600 for text in refused)
