"""headers and attributes: what is written beside an event, and on it, arrives exactly."""

from __future__ import annotations

from typing import Any

import pytest

from anybroker import Event
from anybroker.errors import InvalidEvent

from ._kit import TYPE, Kit, counted

VALUES = {
    "plain": "value",
    "empty": "",
    "spaces": "  leading and trailing  ",
    "quotes": "\"double\" 'single' `back`",
    "percent": "100% %41 %zz %",
    "unicode": "Grüße, 世界, 🎉 и привет",
    "separators": "a,b;c=d:e/f?g&h",
    "json": '{"a": [1, "two"]}',
    "long": "x" * 8192,
    "backslash": "C:\\temp\\n",
}


async def test_transport_headers_arrive_exactly(kit: Kit) -> None:
    """Unicode, quotes, percent signs, spaces at both ends, empty values and 8 KiB values arrive unchanged."""
    topic = kit.topic()
    bus = kit.bus()
    log = kit.subscribe(bus, topic)
    sent = {f"x-{name}": value for name, value in VALUES.items()}
    async with bus:
        await bus.publish(topic, counted(0), headers=sent)
        await log.wait_done(["w-0"])
    (handling,) = log.handlings
    assert {name: handling.headers.get(name) for name in sent} == sent


async def test_an_event_without_headers_has_none(kit: Kit) -> None:
    """No transport header is added."""
    topic = kit.topic()
    bus = kit.bus()
    log = kit.subscribe(bus, topic)
    async with bus:
        await bus.publish(topic, counted(0, key="k"))
        await log.wait_done(["w-0"])
    assert log.handlings[0].headers == {}


async def test_attribute_values_arrive_exactly(kit: Kit) -> None:
    """The same values as ``subject`` and as extensions: every character of them."""
    topic = kit.topic()
    bus = kit.bus()
    log = kit.subscribe(bus, topic)
    events = [
        Event.create(
            {"n": 0},
            source="contract",
            type=TYPE,
            id=name,
            subject=value or None,
            extensions={"comment": value},
        )
        for name, value in VALUES.items()
        if name != "long"
    ]
    async with bus:
        for event in events:
            await bus.publish(topic, event)
        await log.wait_done(event.id for event in events)
    assert {handling.id: handling.event for handling in log.handlings} == {event.id: event for event in events}


async def test_eleven_extensions_of_every_type_arrive(kit: Kit) -> None:
    """Eleven extensions, strings, integers, booleans and bytes among them, keep name and canonical value."""
    topic = kit.topic()
    bus = kit.bus()
    log = kit.subscribe(bus, topic)
    extensions: dict[str, Any] = {f"ext{number}": f"value {number}" for number in range(6)}
    extensions |= {
        "anumber": -2147483648,
        "another": 2147483647,
        "yes": True,
        "no": False,
        "blob": b"\x00\xff\x10",
    }
    event = Event.create({"n": 0}, source="contract", type=TYPE, id="w-0", extensions=extensions)
    async with bus:
        await bus.publish(topic, event)
        await log.wait_done(["w-0"])
    assert log.handlings[0].event == event
    assert len(log.handlings[0].event.extensions) == 11


async def test_every_attribute_arrives(kit: Kit) -> None:
    """id, source, type, subject, time to the last digit, dataschema and content type arrive as they were published."""
    topic = kit.topic()
    bus = kit.bus()
    log = kit.subscribe(bus, topic)
    event = Event.create(
        b"<a/>",
        source="https://example.com/shop?region=eu#1",
        type="com.example.thing.v1",
        id="0001/äß €",
        time="2024-02-29T23:59:59.123456789+05:30",
        subject="über/path with spaces",
        key="Kunde 7 ä",
        datacontenttype='application/xml; charset="utf-8"',
        dataschema="https://example.com/schema#thing",
    )
    async with bus:
        await bus.publish(topic, event)
        await log.wait_done([event.id])
    (handling,) = log.handlings
    assert dict(handling.event.attributes) == dict(event.attributes)
    assert handling.event.time_raw == "2024-02-29T23:59:59.123456789+05:30"
    assert (handling.event.body, handling.key) == (b"<a/>", "Kunde 7 ä")


async def test_a_wrong_attribute_is_refused_before_anything_is_sent(kit: Kit) -> None:
    """An attribute that breaks CloudEvents is an InvalidEvent that names it, and nothing arrives."""
    topic = kit.topic()
    bus = kit.bus()
    log = kit.subscribe(bus, topic)
    async with bus:
        with pytest.raises(InvalidEvent, match="subject"):
            await bus.publish(topic, {"n": 1}, type=TYPE, subject="a\x00b")
        with pytest.raises(InvalidEvent, match="not-a-name"):
            await bus.publish(topic, {"n": 1}, type=TYPE, extensions={"not-a-name": "x"})
        await bus.publish(topic, counted(2))
        await log.wait_done(["w-2"])
    assert log.started == ["w-2"]
