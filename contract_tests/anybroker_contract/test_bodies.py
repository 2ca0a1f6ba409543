"""bodies: bytes are bytes; absent, null and empty stay different; the size limit is checked before sending."""

from __future__ import annotations

from typing import Any

import pytest

from anybroker import ABSENT, Event, Receipt
from anybroker.errors import EventTooLarge

from ._kit import TYPE, Kit, counted
from .marks import requires

JSON = "application/json"
BODIES: dict[str, tuple[Any, str | None]] = {
    "absent": (ABSENT, None),
    "null": (None, None),
    "empty-string": ("", None),
    "empty-bytes": (b"", "application/octet-stream"),
    "object": ({"a": 1, "b": [True, None, 1.5, "ä"]}, None),
    "array": ([], None),
    "zero": (0, None),
    "text": ("Grüße\r\n\tund mehr ", "text/plain"),
    "xml": (b"<a>\xc3\xa4</a>", "application/xml"),
    "all-bytes": (bytes(range(256)), "application/octet-stream"),
    "not-utf-8": (b"\xff\xfe\x00\xc3", "text/plain"),
    # Blanks around a JSON value are not part of it, and structured mode carries the value: none here.
    "spaced-json": (b'{ "a" :  1 }', JSON),
    "duplicate-json": (b'{"a":1,"a":2}', JSON),
    "event": (b'{"specversion":"1.0","id":"2","source":"/s","type":"t"}', "application/cloudevents+json"),
    "vendor-json": (b'{"n":12345678901234567890}', "application/vnd.acme+json"),
}


def of_body(name: str) -> Event[Any]:
    """The event of that name."""
    data, content_type = BODIES[name]
    return Event.create(data, source="contract", type=TYPE, id=name, datacontenttype=content_type)


async def test_every_body_arrives_byte_for_byte(kit: Kit) -> None:
    """JSON, text and binary bodies, also those that are not UTF-8, arrive with the same bytes and content type."""
    topic = kit.topic()
    bus = kit.bus()
    log = kit.subscribe(bus, topic)
    events = [of_body(name) for name in BODIES]
    async with bus:
        for event in events:
            await bus.publish(topic, event)
        await log.wait_done(BODIES)
    arrived = {handling.id: (handling.event.body, handling.event.datacontenttype) for handling in log.handlings}
    assert arrived == {event.id: (event.body, event.datacontenttype) for event in events}


async def test_absent_null_and_empty_stay_different(kit: Kit) -> None:
    """No data, JSON null, an empty JSON string and empty bytes arrive as four different things."""
    topic = kit.topic()
    bus = kit.bus()
    log = kit.subscribe(bus, topic)
    names = ["absent", "null", "empty-string", "empty-bytes"]
    async with bus:
        for name in names:
            await bus.publish(topic, of_body(name))
        await log.wait_done(names)
    arrived = {handling.id: handling.event.body for handling in log.handlings}
    assert arrived == {"absent": None, "null": b"null", "empty-string": b'""', "empty-bytes": b""}


@requires("null_body_with_key")
async def test_an_event_without_data_may_have_a_key(kit: Kit) -> None:
    """An event without data keeps its key like any other event."""
    topic = kit.topic()
    bus = kit.bus()
    log = kit.subscribe(bus, topic)
    async with bus:
        await bus.publish(topic, type=TYPE, id="w-0", key="k")
        await log.wait_done(["w-0"])
    (handling,) = log.handlings
    assert (handling.event.body, handling.key, handling.event.has_data) == (None, "k", False)


@pytest.mark.parametrize("size", [64 * 1024, 200 * 1024])
async def test_large_bodies_pass(kit: Kit, size: int) -> None:
    """Bodies of 64 KiB pass on every broker, and larger ones where its limit allows."""
    limit = kit.capabilities.max_event_bytes
    topic = kit.topic()
    bus = kit.bus()
    log = kit.subscribe(bus, topic)
    body = bytes(number % 251 for number in range(size))
    event = Event.create(body, source="contract", type=TYPE, id="w-0", datacontenttype="application/octet-stream")
    async with bus:
        if limit is not None and size * 4 / 3 + 16 * 1024 > limit:
            with pytest.raises(EventTooLarge):
                await bus.publish(topic, event)
            return
        await bus.publish(topic, event)
        await log.wait_done(["w-0"])
    assert log.handlings[0].event.body == body


@requires("max_event_bytes")
async def test_the_size_limit_is_exact_and_told_before_the_wire(kit: Kit) -> None:
    """An event that just fits passes; one byte more is EventTooLarge with size and limit; the Bus still works."""
    topic = kit.topic()
    bus = kit.bus()
    log = kit.subscribe(bus, topic)
    limit = kit.capabilities.max_event_bytes
    assert limit is not None

    def sized(size: int, name: str) -> Event[Any]:
        body, moment = b"x" * size, "2026-01-01T00:00:00Z"
        return Event.create(body, source="contract", type=TYPE, id=name, time=moment, datacontenttype="text/plain")

    async with bus:
        fits = limit
        for _ in range(2):  # twice: what lengths take to write is less near the limit than above it
            with pytest.raises(EventTooLarge) as caught:
                await bus.publish(topic, sized(fits + 16, "big-00"))
            fits += 16 - (caught.value.size - caught.value.limit)
        await bus.publish(topic, sized(fits, "fits-0"))
        with pytest.raises(EventTooLarge) as caught:
            await bus.publish(topic, sized(fits + 1, "over-0"))
        assert caught.value.size == caught.value.limit + 1
        await bus.publish(topic, counted(1))
        await log.wait_done(["fits-0", "w-1"])
    assert {handling.id for handling in log.handlings} == {"fits-0", "w-1"}
    assert len(next(handling.event.body for handling in log.handlings if handling.id == "fits-0")) == fits


@requires("max_event_bytes")
async def test_one_bad_entry_of_a_batch_fails_alone(kit: Kit) -> None:
    """``publish_many`` with one event over the limit returns its error in its place, and receipts for the others."""
    topic = kit.topic()
    bus = kit.bus()
    log = kit.subscribe(bus, topic)
    limit = kit.capabilities.max_event_bytes
    assert limit is not None
    big = Event.create(b"x" * limit, source="contract", type=TYPE, id="big", datacontenttype="text/plain")
    events = [counted(0, key="k"), counted(1, key="k"), big, counted(3, key="k"), counted(4)]
    async with bus:
        results = await bus.publish_many(topic, events)
        assert [type(result) for result in results] == [Receipt, Receipt, EventTooLarge, Receipt, Receipt]
        await log.wait_done(["w-0", "w-1", "w-3", "w-4"])
    assert "big" not in log.started
