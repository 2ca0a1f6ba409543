"""What a Bus makes and says of topics and groups: declare, backlog, seek, dead letters, problems."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Coroutine, Mapping
from datetime import UTC, datetime
from typing import Any

import pytest
from tests.engine.scripted_adapter import (
    PER_MESSAGE,
    ScriptedAdapter,
    ScriptedBroker,
    bus_of,
    inbound,
    run,
    until,
    with_handler,
)

from anybroker import Bus, ConfigError, Event, MemoryBroker
from anybroker.adapter import Adapter, AdapterContext, Backlog, Start
from anybroker.capabilities import Support
from anybroker.errors import CapabilityError, MissingGroup, Rejected, StateError, Unavailable
from anybroker.middleware import dead_letter, retry


class Counting(ScriptedAdapter):
    """Has backlog, seek and groups; the group "gone" is not there, and "down" cannot be asked for."""

    async def backlog(self, topic: str, group: str, /) -> Backlog:
        self._find(group)
        return Backlog(3, 4)

    async def seek(self, topic: str, group: str, to: Start, /) -> None:
        self._find(group)
        self.native.sought.append((topic, group, to))  # type: ignore[attr-defined] # a CountingBroker

    async def groups(self) -> Mapping[str, Collection[str]]:
        error: Exception | None = self.native.list_error  # type: ignore[attr-defined] # as above
        if error is not None:
            raise error
        return {"topic": ["gone-by"], "other": ["group"], "topic.gone.dlq": ["dlq"]}

    def _find(self, group: str) -> None:
        if group == "gone":
            raise MissingGroup("topic/gone", "is not there", "Declare it.")
        if group == "down":
            raise Unavailable("down")


class CountingBroker(ScriptedBroker):
    """Makes adapters that count."""

    def __init__(self) -> None:
        super().__init__(backlog=Support.NATIVE, seek=Support.NATIVE)
        self.sought: list[tuple[str, str, Start]] = []
        self.list_error: Exception | None = None

    def make_adapter(self, context: AdapterContext) -> Adapter:
        return Counting(self)


CALLS: dict[str, Callable[[Bus, str], Coroutine[Any, Any, Any]]] = {
    "backlog": lambda bus, group: bus.backlog("topic", group),
    "seek": lambda bus, group: bus.seek("topic", group, "earliest"),
}


# --------------------------------------------------------------------------------------------------------- declare


def test_what_is_declared_is_there_from_then_on() -> None:
    async def main() -> None:
        bus = Bus(MemoryBroker(), source="test", topics={"kept": {"ordered": False}})
        async with bus:
            await bus.declare("new", groups=["a", "b"])
            await bus.declare("new", groups="c")
            await bus.declare("kept", groups="a")
            await bus.declare("bare")
            for topic in ("new", "kept", "bare"):
                await bus.publish(topic, 1, type="t")
            found = {group: (await bus.backlog("new", group)).waiting for group in "abc"}
            assert found == {"a": 1, "b": 1, "c": 1}
            assert (await bus.backlog("kept", "a")).waiting == 1
            assert (await bus.backlog("new.a.dlq", "dlq")).waiting == 0
            assert bus.stats.without_group == 1

    run(main)


@pytest.mark.parametrize("ordered", [None, True, False])
def test_a_declared_group_is_ordered_as_it_says_or_as_its_topic(ordered: bool | None) -> None:
    async def main() -> None:
        broker = ScriptedBroker()
        async with bus_of(broker, topics={"unordered": {"ordered": False}}) as bus:
            for topic, by_default in (("new", True), ("unordered", False)):
                await bus.declare(topic, groups="group", ordered=ordered)
                group = broker.declared[-1][0].topics[0].groups[0]
                assert group.ordered is (by_default if ordered is None else ordered)

    run(main)


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (("Orders", "group"), "topic"),
        (("topic", "Group"), "group"),
        (("topic", ["a", "B"]), "group"),
        (("topic", 7), "declare(groups=)"),
        (("topic", [7]), "declare(groups=)"),
    ],
)
def test_wrong_declarations_make_nothing(arguments: tuple[str, Any], names: str) -> None:
    async def main() -> None:
        broker = ScriptedBroker()
        async with bus_of(broker) as bus:
            before = len(broker.declared)
            topic, groups = arguments
            with pytest.raises(ConfigError) as caught:
                await bus.declare(topic, groups=groups)
            assert str(caught.value).startswith(names)
            assert len(broker.declared) == before

    run(main)


def test_a_declaration_that_fails_is_the_callers_error_and_may_be_made_again() -> None:
    async def main() -> None:
        broker = ScriptedBroker()
        errors = [Unavailable("down"), Rejected("no permission")]

        async def declare(*_: object) -> None:
            if errors:
                raise errors.pop(0)

        async with bus_of(broker) as bus:
            broker.on_declare = declare
            with pytest.raises(Unavailable, match="down"):
                await bus.declare("topic", groups="group")
            with pytest.raises(Rejected, match="no permission"):
                await bus.declare("topic", groups="group")
            await bus.declare("topic", groups="group")
            topic = broker.declared[-1][0].topics[0]
            assert (topic.name, [group.name for group in topic.groups]) == ("topic", ["group"])

    run(main)


# ------------------------------------------------------------------------------------------------- backlog and seek


@pytest.mark.parametrize("call", ["declare", "backlog", "seek"])
def test_before_the_start_and_after_the_end(call: str) -> None:
    async def main() -> None:
        broker = CountingBroker()
        bus = bus_of(broker)

        async def ask() -> None:
            await (bus.declare("topic", groups="group") if call == "declare" else CALLS[call](bus, "group"))

        with pytest.raises(StateError, match=f"^{call}: the Bus is not started"):
            await ask()
        async with bus:
            await ask()
        declared = len(broker.declared)
        with pytest.raises(StateError, match=f"^{call}: the Bus is closed"):
            await ask()
        assert len(broker.declared) == declared
        assert len(broker.sought) == (call == "seek")

    run(main)


@pytest.mark.parametrize("call", ["backlog", "seek"])
def test_a_broker_that_cannot_is_named(call: str) -> None:
    async def main() -> None:
        async with bus_of(ScriptedBroker()) as bus:
            with pytest.raises(CapabilityError, match=rf"bus\.{call}\(\): the scripted adapter has no '{call}'"):
                await CALLS[call](bus, "group")

    run(main)


@pytest.mark.parametrize("call", ["backlog", "seek"])
def test_a_group_that_is_not_there_is_said_with_near_names(call: str) -> None:
    async def main() -> None:
        broker = CountingBroker()
        async with bus_of(broker) as bus:
            with pytest.raises(MissingGroup, match="near names: topic/gone-by") as caught:
                await CALLS[call](bus, "gone")
            assert isinstance(caught.value.__cause__, MissingGroup)
            assert "dlq" not in str(caught.value)
            broker.list_error = Rejected("no permission to list")  # the names are a help only
            with pytest.raises(MissingGroup) as caught:
                await CALLS[call](bus, "gone")
            assert "near names" not in str(caught.value)
            with pytest.raises(Unavailable, match="down"):
                await CALLS[call](bus, "down")
            assert broker.sought == []

    run(main)


def test_what_the_adapter_is_asked() -> None:
    async def main() -> None:
        broker = CountingBroker()
        moment = datetime(2026, 1, 1, tzinfo=UTC)
        async with bus_of(broker) as bus:
            backlog = await bus.backlog("topic", "group")
            assert (backlog.waiting, backlog.in_flight, backlog.lag) == (3, 4, 7)
            starts: list[Start] = ["new", "earliest", moment]
            for to in starts:
                await bus.seek("topic", "group", to)
            assert broker.sought == [("topic", "group", to) for to in starts]

    run(main)


# ----------------------------------------------------------------------------------------------------- dead letters


@pytest.mark.parametrize(("topic", "group"), [("Orders", "billing"), ("orders", "Billing"), ("o" * 40, "b" * 40)])
def test_dead_letters_of_wrong_names_are_refused(topic: str, group: str) -> None:
    with pytest.raises(ConfigError):
        bus_of(ScriptedBroker()).dead_letters(topic, group)


@pytest.mark.parametrize(("settings", "place"), [({}, "orders.billing.dlq"), ({"dead_letter": "dead"}, "dead")])
def test_dead_letters_are_read_where_they_are_put(settings: dict[str, str], place: str) -> None:
    async def main() -> None:
        broker = MemoryBroker()
        bus = Bus(broker, source="test", topics={"orders": settings})

        @bus.subscribe("orders", group="billing", middleware=[retry(attempts=1)])
        async def charge(number: int) -> None:
            raise ValueError("no")

        async with bus:
            await bus.publish("orders", 7, type="t")
            await until(lambda: bus.subscriptions[0].stats.dead_lettered == 1)
            (letter,) = await bus.dead_letters("orders", "billing").list()
            assert letter.reason.endswith("no")
            assert (await bus.backlog(place, "dlq")).lag == 1
        assert bus.subscriptions[0].dead_letter_topic == place

    run(main)


# --------------------------------------------------------------------------------------------------------- problems


def test_problems_are_named_by_what_has_them_and_go_with_them() -> None:
    async def main() -> None:
        broker = ScriptedBroker(**PER_MESSAGE)
        bus = with_handler(bus_of(broker), "one")

        @bus.subscribe("two", group="group", middleware=[dead_letter(enabled=False), retry(attempts=1)])
        async def handle(event: Event[Any]) -> None:
            if down:
                raise ValueError("down\x1b[2J")

        down = True
        assert bus.problems == {}
        async with bus:
            assert bus.problems == {}
            broker.hindrance = "the broker has no memory left"
            assert bus.problems == {"publish": "the broker has no memory left"}
            receiver = broker.receivers[1]
            receiver.deliver(inbound(receiver.assign("a"), 1))
            await until(lambda: len(bus.problems) == 2)
            assert "down" in bus.problems["two/group"]
            assert bus.problems["two/group"].isprintable()
            down, broker.hindrance = False, None
            await until(lambda: bus.problems == {})
            down = True
            receiver.deliver(inbound(receiver.assign("b"), 2))
            await until(lambda: bool(bus.problems))
            await bus.subscriptions[1].stop(0)
            assert bus.problems == {}
        assert bus.problems == {}

    run(main)


def test_what_a_bus_shows() -> None:
    async def main() -> None:
        broker = ScriptedBroker()
        bus = with_handler(bus_of(broker), "one", "two")
        with pytest.raises(StateError, match="not started"):
            _ = bus.adapter
        assert bus.source == "test"
        assert [subscription.topic for subscription in bus.subscriptions] == ["one", "two"]
        async with bus:
            adapter: Any = bus.adapter
            assert adapter.native is broker
        assert adapter is bus.adapter  # to read its capabilities
        await asyncio.sleep(0)

    run(main)
