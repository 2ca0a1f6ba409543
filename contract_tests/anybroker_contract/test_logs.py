"""logs: what fails says so by default, with the facts to find it by, and a flood stays readable."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest

from anybroker import Delivery
from anybroker.middleware import retry
from anybroker.observe import EventContext

from ._kit import TYPE, Kit, counted
from ._waiting import eventually

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


async def refuses_every_order(_: Delivery) -> None:
    """A handler that fails every time."""
    raise ValueError("broken on\npurpose")


def said(caplog: pytest.LogCaptureFixture, topic: str) -> list[Any]:
    """What was logged of the topic's events."""
    return [
        record
        for record in caplog.records
        if record.name == "anybroker.handler" and getattr(record, "topic", None) == topic
    ]


async def counted_up(kit: Kit, number: Callable[[], int], to: int) -> None:
    """Return when a count is that high."""

    async def reached() -> bool:
        return number() >= to

    await eventually(reached, kit.patience + to / 10, f"a count of {to}")


async def test_what_fails_says_so_with_its_facts(kit: Kit, caplog: pytest.LogCaptureFixture) -> None:
    """Each retry is one WARNING, the dead letter one ERROR with the traceback that names the handler's function; they
    carry the event's facts, and so does what the handler logs itself. Payloads and keys are in none of them."""
    caplog.set_level(logging.WARNING)
    caplog.handler.addFilter(context := EventContext())
    topic = kit.topic()
    bus = kit.bus()

    async def behave(delivery: Delivery) -> None:
        logging.getLogger("shop").warning("refused")
        await refuses_every_order(delivery)

    log = kit.subscribe(bus, topic, behave=behave, middleware=[retry(attempts=3, first=0.01)])
    event = counted(7, key="secret-key").replace(data="secret-payload")
    try:
        async with bus:
            await bus.publish(topic, event, headers={"traceparent": PARENT})
            await counted_up(kit, lambda: bus.subscriptions[0].stats.dead_lettered, 1)
    finally:
        caplog.handler.removeFilter(context)
    assert log.attempts("w-7") == [1, 2, 3]
    first, second, dead = said(caplog, topic)
    own: list[Any] = [record for record in caplog.records if record.name == "shop"]
    assert [record.levelname for record in (first, second, dead)] == ["WARNING", "WARNING", "ERROR"]
    for attempt, record in ((1, first), (2, second), (3, dead), *enumerate(own, 1)):
        found = {name: getattr(record, name) for name in ("event_id", "event_type", "source", "topic", "group")}
        assert found == {
            "event_id": "w-7",
            "event_type": TYPE,
            "source": event.source,
            "topic": topic,
            "group": "g",
        }
        assert (record.attempt, record.trace_id, record.correlation_id) == (attempt, PARENT[3:35], "w-7")
    for attempt, record in ((1, first), (2, second)):
        text = record.getMessage()
        assert f"attempt {attempt} of 3" in text
        assert "ValueError: broken on purpose" in text
        assert record.exc_info is None
    assert f"{topic}.g.dlq" in dead.getMessage()
    assert "in refuses_every_order" in logging.Formatter().format(dead)
    assert "secret" not in "".join(logging.Formatter().format(record) for record in said(caplog, topic))


async def test_an_unknown_type_is_said_once_and_counted(kit: Kit, caplog: pytest.LogCaptureFixture) -> None:
    """Events of a type that no handler takes: one WARNING, and how many more there were."""
    topic = kit.topic()
    bus = kit.bus()
    bus.subscription(topic, group="g").on(kit.log().handler("", None), type="com.example.other", name="contract")
    async with bus:
        await kit.publish(bus, topic, 5)
        await counted_up(kit, lambda: bus.subscriptions[0].stats.unhandled, 5)
        await kit.drained(bus, topic)
    once, more = said(caplog, topic)
    assert (once.levelname, more.levelname) == ("WARNING", "WARNING")
    assert repr(TYPE) in once.getMessage()
    assert more.lines == bus.subscriptions[0].stats.unhandled - 1


async def test_a_flood_is_bounded_and_its_counts_add_up(kit: Kit, caplog: pytest.LogCaptureFixture) -> None:
    """500 events that fail twice each: a few lines, and summaries that stand for all others."""
    topic = kit.topic()
    bus = kit.bus()
    kit.subscribe(bus, topic, behave=refuses_every_order, middleware=[retry(attempts=2, first=0.01)])
    stats = bus.subscriptions[0].stats
    async with bus:
        await kit.publish(bus, topic, 500, keys=50)
        await counted_up(kit, lambda: stats.dead_lettered, 500)
    lines = said(caplog, topic)
    assert len(lines) <= 30
    for level, count in (("WARNING", stats.retried), ("ERROR", stats.dead_lettered)):
        assert count >= 500
        assert sum(getattr(record, "lines", 1) for record in lines if record.levelname == level) == count
