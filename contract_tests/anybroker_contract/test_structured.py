"""structured mode: one JSON document a message keeps what binary mode keeps, and readers take both."""

from __future__ import annotations

from typing import Any

import pytest

from anybroker import Event
from anybroker.middleware import retry

from ._checkers import inversions
from ._kit import TYPE, Kit, counted
from .harness import Mode
from .marks import needs_harness
from .test_bodies import BODIES, of_body
from .test_dead_letter import broken, letters


def rich_event(name: str = "0001/äß €", key: str | None = "Kunde 7 ä") -> Event[Any]:
    """Every attribute, and eleven extensions of every type."""
    extensions: dict[str, Any] = {f"ext{number}": f"value {number} %41 \"q\" 'ä'" for number in range(5)}
    extensions |= {"anumber": -2147483648, "another": 2147483647, "yes": True, "no": False, "blob": b"\x00\xff\x10"}
    return Event.create(
        {"n": 1, "text": "ä"},
        source="https://example.com/shop?region=eu#1",
        type=TYPE,
        id=name,
        time="2024-02-29T23:59:59.123456789+05:30",
        subject="über/path with spaces",
        key=key,
        datacontenttype="application/json; charset=utf-8",
        dataschema="https://example.com/schema#thing",
        extensions={**extensions, "empty": ""},
    )


@needs_harness("in_mode")
async def test_structured_mode_keeps_every_attribute_and_extension(kit: Kit) -> None:
    """Attributes to the last digit, extensions of every type, key and transport headers arrive as they were published
    in structured mode."""
    topic = kit.topic()
    bus = kit.bus(target=kit.in_mode("structured"))
    log = kit.subscribe(bus, topic)
    event = rich_event()
    async with bus:
        await bus.publish(topic, event, headers={"x-origin": "contract ä"})
        await log.wait_done([event.id])
    (handling,) = log.handlings
    assert (handling.event, handling.event.body, handling.key) == (event, event.body, "Kunde 7 ä")
    assert handling.event.time_raw == event.time_raw
    assert handling.headers == {"x-origin": "contract ä"}


@needs_harness("in_mode")
async def test_structured_mode_keeps_every_body(kit: Kit) -> None:
    """JSON, text and binary bodies pass structured mode byte for byte; absent, null and empty stay different."""
    topic = kit.topic()
    bus = kit.bus(target=kit.in_mode("structured"))
    log = kit.subscribe(bus, topic)
    events = [of_body(name) for name in BODIES]
    async with bus:
        for event in events:
            await bus.publish(topic, event)
        await log.wait_done(BODIES)
    arrived = {handling.id: (handling.event.body, handling.event.datacontenttype) for handling in log.handlings}
    assert arrived == {event.id: (event.body, event.datacontenttype) for event in events}


@needs_harness("in_mode")
async def test_structured_mode_keeps_order_and_dead_letters(kit: Kit) -> None:
    """Keys keep their order in structured mode; a dead letter is the unchanged event, and its replay is handled."""
    topic = kit.topic()
    bus = kit.bus(target=kit.in_mode("structured"))
    poison = rich_event("poison", key="k1")
    fixed = False

    async def fail_until_fixed(delivery: Any) -> None:
        if delivery.event.id == "poison" and not fixed:
            await broken(delivery)

    log = kit.subscribe(bus, topic, behave=fail_until_fixed, middleware=[retry(attempts=2, first=0.01)])
    async with bus:
        await bus.publish(topic, poison, headers={"x-origin": "contract"})
        published = await kit.publish(bus, topic, 40, keys=4)
        await log.wait_done(id_ for _, id_ in published)
        (letter,) = await letters(kit, bus, topic, 1)
        fixed = True
        queue = bus.dead_letters(topic, "g")
        queue.patience = kit.brief
        assert [each.id for each in await queue.replay()] == ["poison"]
        await log.wait_done(["poison"])
    assert (letter.event, letter.attempts, letter.reason) == (poison, 2, "ValueError: broken on purpose")
    assert letter.headers["x-origin"] == "contract"
    assert inversions(published, log.handlings) == []
    assert log.attempts("poison") == [1, 2, 1]
    assert log.handlings[-1].event == poison


@needs_harness("in_mode")
@pytest.mark.parametrize("mode", ["binary", "structured"])
async def test_each_mode_is_read_whatever_is_written(kit: Kit, mode: Mode) -> None:
    """A consumer reads both modes, whichever it writes itself."""
    topic = kit.topic()
    other: Mode = "structured" if mode == "binary" else "binary"
    reader = kit.bus(target=kit.in_mode(other))
    log = kit.subscribe(reader, topic)
    writer = kit.bus(target=kit.in_mode(mode), consume=False)
    events = [
        counted(0, key="k"),
        counted(1),
        Event.create("ä", source="c", type=TYPE, id="w-2", datacontenttype="text/plain"),
    ]
    async with reader, writer:
        for event in events:
            await writer.publish(topic, event, headers={"x-mode": mode})
        await log.wait_done(event.id for event in events)
    assert {handling.id: handling.event for handling in log.handlings} == {event.id: event for event in events}
    assert [handling.headers for handling in log.handlings] == [{"x-mode": mode}] * 3
