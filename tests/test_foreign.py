"""A message that is no CloudEvent keeps what it came with, and nothing of how it was found out; it may die raw."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
from tests.engine.scripted_adapter import ScriptedBroker, bus_of, inbound, run, until, with_handler

from anybroker import Event
from anybroker.adapter import Foreign, Inbound
from anybroker.cloudevents import parse_json
from anybroker.errors import InvalidEvent


class Local:
    """Something that is there on the way."""


def test_what_was_read_on_the_way_goes_with_the_message() -> None:
    """Not only when the garbage collector finds the circle of the exception, its frames and the message."""

    def read() -> tuple[Foreign, weakref.ref[Local]]:
        local = Local()
        seen = weakref.ref(local)
        try:
            try:
                raise KeyError(local)
            except KeyError:
                parse_json(b"{")
        except InvalidEvent as exc:
            return Foreign(b"{", (), None, exc), seen
        raise AssertionError

    gc.disable()
    try:
        foreign, seen = read()
        assert foreign.reason is not None
        assert "not a CloudEvent" in str(foreign.reason)
        assert seen() is None
    finally:
        gc.enable()


def test_a_foreign_message_that_cannot_be_wrapped_is_dead_lettered_raw() -> None:
    async def main() -> None:
        broker = ScriptedBroker()
        bus = bus_of(broker, topics={"topic": {"foreign": "wrap"}})
        seen: list[str] = []

        @bus.subscribe("topic", group="group")
        async def handle(event: Event[Any]) -> None:
            seen.append(event.id)

        async with bus:
            lane = broker.receiver.assign("a")
            broker.receiver.deliver(inbound(lane, 1, "a\x01" * 300, foreign=True), inbound(lane, 2))
            await until(lambda: broker.receiver.position(lane) == 3, "both are finished")
            assert not bus.problems

    run(main)


def test_it_is_dead_lettered_as_it_came_and_counted() -> None:
    async def main() -> None:
        broker = ScriptedBroker()
        bus = with_handler(bus_of(broker))
        async with bus:
            lane = broker.receiver.assign("a")
            message = inbound(lane, 1, foreign=True)
            broker.receiver.deliver(message, inbound(lane, 2))
            await until(lambda: broker.receiver.position(lane) == 3)
            (letter,) = broker.sent
            assert letter.topic == "topic.group.dlq"
            assert isinstance(letter.event, Foreign)
            assert isinstance(message.event, Foreign)
            assert (letter.event.body, letter.event.key) == (message.event.body, message.event.key)
            stats = bus.subscriptions[0].stats
            assert (stats.foreign, stats.dead_lettered, stats.acked) == (1, 1, 2)

    run(main)


@pytest.mark.parametrize(
    ("headers", "content_type"),
    [((), "application/octet-stream"), ((("Content-Type", b"application/x-a"),), "application/x-a")],
)
def test_it_is_wrapped_where_the_topic_says_so(headers: tuple[tuple[str, bytes], ...], content_type: str) -> None:
    async def main() -> None:
        broker = ScriptedBroker()
        bus = bus_of(broker, topics={"topic": {"foreign": "wrap"}})
        seen: list[Event[Any]] = []

        @bus.subscribe("topic", group="group", type="io.anybroker.foreign.v1")
        async def handle(event: Event[Any]) -> None:
            seen.append(event)

        async with bus:
            lane = broker.receiver.assign("a")
            broker.receiver.deliver(Inbound(Foreign(b"\xff", headers, "k"), lane, 1, "k", {}, None, None))
            await until(lambda: broker.receiver.position(lane) == 2)
            (event,) = seen
            assert event.datacontenttype == content_type
            assert (event.source, event.id, event.key) == ("test/foreign/topic", "a@1", "k")
            assert bytes(event.data) == b"\xff"
            assert bus.subscriptions[0].stats.foreign == 1
            assert broker.sent == []

    run(main)
