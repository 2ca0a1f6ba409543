"""Two handlers of one name in one group, on different topics: an event that is on both is handled on both."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from anybroker import Bus, ConfigError, Event, MemoryBroker
from anybroker.idempotency import MemoryStore
from anybroker.middleware import idempotent
from anybroker.testing import Recorder, settled


def same(bus: Bus, seen: list[str], topic: str) -> Callable[..., Any]:
    """Each call makes another function of the same qualified name."""

    async def handle(event: Event[Any]) -> None:
        seen.append(topic)
        await bus.publish("out", {"n": 1}, type="out.v1")

    return handle


@pytest.mark.parametrize("where", ["function", "subscription", "bus"])
def test_idempotent_ones_are_refused(where: str) -> None:
    async def main() -> None:
        bus = Bus(MemoryBroker(), source="test", middleware=[idempotent()] if where == "bus" else [])
        for topic in ("one", "two"):
            handle = same(bus, [], topic)
            if where == "function":
                handle = idempotent()(handle)
            bus.subscribe(topic, group="g", middleware=[idempotent()] if where == "subscription" else [])(handle)
        with pytest.raises(ConfigError) as caught:
            await bus.start()
        assert str(caught.value) == (
            "handler same.<locals>.handle of group 'g': is idempotent on the topics 'one' and 'two': an event that is "
            "on both would be handled on one of them only. Give each its own name=, or put them into different groups."
        )

    asyncio.run(main())


@pytest.mark.parametrize("apart", ["name", "group"])
def test_idempotent_ones_with_names_or_groups_of_their_own_both_run(apart: str) -> None:
    async def main() -> None:
        bus = Bus(MemoryBroker(), source="test", idempotency="memory://")
        seen: list[str] = []
        for topic in ("one", "two"):
            names: dict[str, Any] = {"name": topic, "group": "g"} if apart == "name" else {"group": topic}
            bus.subscribe(topic, **names)(idempotent()(same(bus, seen, topic)))
        async with asyncio.timeout(20), bus:
            for topic in ("one", "two"):
                await bus.publish(topic, {"n": 1}, type="in.v1", id="e-1")
            await settled(bus)
        assert sorted(seen) == ["one", "two"]

    asyncio.run(main())


def test_others_both_run_and_what_they_publish_is_not_taken_for_a_copy() -> None:
    """The topic takes part in the derived id, so that an idempotent consumer has both."""

    async def main() -> None:
        bus = Bus(MemoryBroker(), source="test", idempotency="memory://")
        seen: list[str] = []
        sent = Recorder(bus, "out")
        handled: list[str] = []

        @bus.subscribe("out", group="once")
        @idempotent()
        async def once(event: Event[Any]) -> None:
            handled.append(event.id)

        for topic in ("one", "two"):
            bus.subscribe(topic, group="g")(same(bus, seen, topic))
        async with asyncio.timeout(20), bus:
            for topic in ("one", "two"):
                await bus.publish(topic, {"n": 1}, type="in.v1", id="e-1")
            await sent.wait(2)
            await settled(bus)
        assert sorted(seen) == ["one", "two"]
        assert len(set(handled)) == 2

    asyncio.run(main())


def test_one_idempotent_name_on_two_topics_is_refused(run: Any) -> None:
    bus = Bus(MemoryBroker(), source="shop")

    @idempotent(MemoryStore())
    async def handle(event: Event[Any]) -> None: ...

    bus.subscribe("orders", group="g")(handle)
    bus.subscribe("returns", group="g")(handle)
    with pytest.raises(ConfigError, match="'orders' and 'returns'"):
        run(bus.start())


def test_one_name_on_two_topics_gives_what_it_publishes_ids_of_their_own(run: Any) -> None:
    bus = Bus(MemoryBroker(), source="shop")
    ids: list[str] = []

    async def handle(event: Event[Any]) -> None:
        await bus.publish("next", 1, type="t")

    bus.subscribe("orders", group="g")(handle)
    bus.subscribe("returns", group="g")(handle)

    @bus.subscribe("next", group="g")
    async def collect(event: Event[Any]) -> None:
        ids.append(event.id)

    async def main() -> None:
        async with bus:
            event = Event.create(1, type="t", source="s", id="1")
            await bus.publish("orders", event)
            await bus.publish("returns", event)
            await settled(bus)

    run(main())
    assert len(set(ids)) == 2
