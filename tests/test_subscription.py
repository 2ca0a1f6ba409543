"""Subscriptions: their settings, their handlers, and what becomes of an event that none of these is to have."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest
from tests.engine.scripted_adapter import ScriptedBroker, bus_of, inbound, run, until, with_handler

from anybroker import Bus, ConfigError, Event, MemoryBroker
from anybroker.capabilities import Support


def error(call: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        call()
    return str(caught.value)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"lanes": 0}, "subscription orders/billing, lanes=: 0 is not a whole number from 1 to 64"),
        ({"lanes": True}, "lanes=: True is not a whole number from 1 to 64"),
        ({"max_in_flight": 0}, "max_in_flight=: 0 is not a whole number from 1 to 100000"),
        ({"max_ahead": 1.5}, "max_ahead=: 1.5 is not a whole number from 1 to 1000000"),
        ({"poison_after": 1}, "poison_after=: 1 is not a whole number from 2 to 1000000"),
        ({"unhandled": "drop"}, "unhandled=: 'drop' is neither 'skip' nor 'dead_letter'"),
        ({"start": "latest"}, "start=: 'latest' is not a start. Use 'new', 'earliest' or a datetime."),
        ({"start": datetime(2026, 1, 1)}, "start=: the datetime has no time zone. Use datetime(…, tzinfo=UTC)."),  # noqa: DTZ001, RUF100
    ],
)
def test_wrong_subscriptions(options: dict[str, Any], text: str) -> None:
    bus = Bus(MemoryBroker(), source="shop")
    assert text in error(lambda: bus.subscription("orders", group="billing", **options))
    assert bus.subscriptions == ()


def test_a_subscription_asked_for_again() -> None:
    bus = Bus(MemoryBroker(), source="shop")
    first = bus.subscription("orders", group="billing", lanes=2)
    assert bus.subscription("orders", group="billing", lanes=2) is first
    assert error(lambda: bus.subscription("orders", group="billing", lanes=3)) == (
        "subscription orders/billing: is there already with other settings. Give them in one place."
    )


def test_an_ordered_subscription_of_an_unordered_topic() -> None:
    bus = Bus(MemoryBroker(), source="shop", topics={"orders": {"ordered": False}})

    @bus.subscribe("orders", group="billing", ordered=True)
    async def charge(number: int) -> None: ...

    assert error(lambda: asyncio.run(bus.start())) == (
        "subscription orders/billing, ordered=True: the topic is configured with ordered = false. "
        "Leave ordered= out, or drop 'ordered = false' from the topic's configuration."
    )


@pytest.mark.parametrize(
    ("start", "text"),
    [
        ("earliest", "start='earliest': the memory adapter has no 'retains'. Use start='new'."),
        (
            datetime(2026, 1, 1, tzinfo=UTC),
            "start=2026-01-01T00:00:00+00:00: the memory adapter has no 'start_at_time'.",
        ),
    ],
)
def test_a_start_that_the_broker_cannot_have(start: Any, text: str) -> None:
    bus = Bus(MemoryBroker(), source="shop")

    @bus.subscribe("orders", group="billing", start=start)
    async def charge(number: int) -> None: ...

    assert text in error(lambda: asyncio.run(bus.start()))


# --------------------------------------------------------------------------------------------------------- settings


def test_what_is_not_said_is_as_the_topic_says() -> None:
    topics = {"orders": {"ordered": False, "lanes": 8, "dead_letter": "dead"}}
    bus = Bus(MemoryBroker(), source="shop", topics=topics)
    plain = bus.subscription("orders", group="plain")
    assert (plain.ordered, plain.lanes, plain.dead_letter_topic) == (False, 8, "dead")
    own = bus.subscription("orders", group="own", ordered=True, lanes=2)
    assert (own.ordered, own.lanes) == (True, 2)
    other = bus.subscription("other", group="plain")
    assert (other.ordered, other.lanes, other.dead_letter_topic) == (True, None, "other.plain.dlq")


def test_max_in_flight_and_max_ahead_are_its_own_or_the_topics() -> None:
    async def main() -> None:
        topics = {"topic": {"max_in_flight": 2}}
        for options, most in (({}, 2), ({"max_in_flight": 3}, 3)):
            broker = ScriptedBroker()
            bus = bus_of(broker, topics=topics)
            go = asyncio.Event()

            @bus.subscribe("topic", group="group", **options)
            async def handle(event: Event[Any], go: asyncio.Event = go) -> None:
                await go.wait()

            async with bus:
                lane = broker.receiver.assign("a")
                broker.receiver.deliver(*(inbound(lane, at, str(at)) for at in range(1, 9)))
                await until(lambda: bus.subscriptions[0].buffered == 8)  # noqa: B023 - awaited in the loop
                await until(lambda: bus.subscriptions[0].running == most)  # noqa: B023 - as above
                go.set()
                await until(lambda: broker.receiver.position(lane) == 9)  # noqa: B023 - as above
                assert bus.subscriptions[0].running == 0

    run(main)


def test_two_numbers_of_lanes_for_one_topic_are_refused_at_the_start() -> None:
    async def main() -> None:
        broker = ScriptedBroker()
        bus = with_handler(bus_of(broker), "other")
        for group, lanes in (("one", 2), ("two", 3)):
            bus.subscription("topic", group=group, lanes=lanes).on(_nothing)
        with pytest.raises(ConfigError, match=r"topic 'topic', lanes.* 2 and 3"):
            await bus.start()
        assert (broker.declared, broker.receivers) == ([], [])

    run(main)


def test_a_broker_without_order_serves_unordered_subscriptions() -> None:
    async def main() -> None:
        broker = ScriptedBroker(ordering=Support.ABSENT)
        bus = bus_of(broker)
        bus.subscription("topic", group="group", ordered=False).on(_nothing)
        async with bus:
            lane = broker.receiver.assign("a")
            broker.receiver.deliver(inbound(lane, 1))
            await until(lambda: broker.receiver.position(lane) == 2)

    run(main)


# --------------------------------------------------------------------------------------------------------- handlers


async def _nothing(event: Event[Any]) -> None:
    pass


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"batch": 0}, "batch="),
        ({"batch": True}, "batch="),
        ({"batch": 1.5}, "batch="),
        ({"within": 0}, "within="),
        ({"within": float("inf")}, "within="),
        ({"within": float("nan")}, "within="),
        ({"type": []}, "type"),
        ({"middleware": [7]}, "middleware"),
        ({"batch": 2}, "_nothing"),
    ],
)
def test_a_handler_that_is_refused_is_not_added(options: dict[str, Any], names: str) -> None:
    subscription = Bus(MemoryBroker(), source="shop").subscription("orders", group="billing")
    with pytest.raises(ConfigError) as caught:
        subscription.on(_nothing, **options)
    assert names in str(caught.value)
    assert repr(subscription) == "<Subscription orders/billing, 0 handlers>"
    assert subscription.on(_nothing) is _nothing
    assert repr(subscription) == "<Subscription orders/billing, 1 handlers>"


def test_a_decorated_handler_stays_directly_callable() -> None:
    bus = Bus(MemoryBroker(), source="shop")
    subscription = bus.subscription("orders", group="billing")

    @subscription.on
    async def rest(number: int) -> None: ...

    @subscription.on(type="b.v1", name="named")
    async def some(number: int) -> int:
        return number + 1

    assert asyncio.run(some(1)) == 2
    assert bus.subscriptions == (subscription,)


def test_a_started_subscription_takes_no_new_handler() -> None:
    async def main() -> None:
        broker = ScriptedBroker()
        bus = with_handler(bus_of(broker))
        async with bus:
            (subscription,) = bus.subscriptions
            with pytest.raises(ConfigError, match="subscription topic/group: is started already"):
                subscription.on(_nothing, type="b.v1")
            assert bus.subscription("topic", group="group") is subscription
            assert repr(subscription) == "<Subscription topic/group, 1 handlers>"

    run(main)


# --------------------------------------------------------------------------------------------- not for any handler


@pytest.mark.parametrize(
    ("expiry", "dies"),
    [
        ("2020-01-01T00:00:00Z", True),
        ("2020-01-01T00:00:00+02:00", True),
        ("9999-01-01T00:00:00Z", False),
        ("2020-01-01T00:00:00", False),  # in which time zone is not said
        ("yesterday", False),
    ],
)
def test_an_event_that_has_expired_is_dead_lettered_and_not_started(expiry: str, dies: bool) -> None:
    async def main() -> None:
        broker = ScriptedBroker()
        bus = bus_of(broker)
        seen: list[str] = []

        @bus.subscribe("topic", group="group")
        async def handle(event: Event[Any]) -> None:
            seen.append(event.id)

        async with bus:
            lane = broker.receiver.assign("a")
            broker.receiver.deliver(inbound(lane, 1, extensions={"expirytime": expiry}), inbound(lane, 2))
            await until(lambda: broker.receiver.position(lane) == 3)
            assert seen == (["2"] if dies else ["1", "2"])
            assert bus.subscriptions[0].stats.dead_lettered == dies
            for letter in broker.sent:
                assert letter.topic == "topic.group.dlq"
                assert letter.headers is not None
                assert letter.headers["anybroker-dead-attempts"] == "0"
            assert len(broker.sent) == dies

    run(main)


@pytest.mark.parametrize("unhandled", ["skip", "dead_letter"])
def test_what_no_handler_takes_is_skipped_or_dead_lettered_and_counted(unhandled: Any) -> None:
    async def main() -> None:
        broker = ScriptedBroker()
        bus = bus_of(broker)
        bus.subscription("topic", group="group", unhandled=unhandled).on(_nothing, type="other.v1")
        async with bus:
            lane = broker.receiver.assign("a")
            broker.receiver.deliver(inbound(lane, 1))
            await until(lambda: broker.receiver.position(lane) == 2)
            stats = bus.subscriptions[0].stats
            assert (stats.unhandled, stats.dead_lettered) == (1, unhandled == "dead_letter")
            assert [item.topic for item in broker.sent] == ["topic.group.dlq"] * (unhandled == "dead_letter")

    run(main)
