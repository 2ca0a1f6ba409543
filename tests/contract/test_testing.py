"""``anybroker.testing``: the faulty broker does what it is told and no more; waiting and recording for users."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from anybroker import BrokerError, Bus, MemoryBroker, PublishOutcomeUnknown, Receipt, Rejected, Unavailable
from anybroker.adapter import AdapterContext, BalancesLanes, ExtendsLease, Replays, ReportsBacklog, SubscriptionSpec
from anybroker.errors import ConfigError
from anybroker.testing import (
    FaultyBroker,
    Recorder,
    adapter_of,
    delay,
    drop,
    duplicate,
    fail,
    settled,
)

pytest_plugins = ["anybroker.testing"]

TYPE = "com.example.counted.v1"


def run(test: Callable[[], Awaitable[None]]) -> None:
    """In a separate loop, with a time limit."""

    async def bounded() -> None:
        async with asyncio.timeout(10):
            await test()

    asyncio.run(bounded())


async def publish(bus: Bus, count: int, **options: Any) -> list[Any]:
    """The outcome of each, one after the other."""
    outcomes: list[Any] = []
    for number in range(count):
        try:
            outcomes.append(await bus.publish("orders", {"n": number}, type=TYPE, id=f"o-{number}", **options))
        except BrokerError as exc:
            outcomes.append(exc)
    return outcomes


def test_a_dropped_publish_has_a_receipt_and_does_not_arrive(memory_broker: MemoryBroker) -> None:
    async def test() -> None:
        fault = drop("publish", every=3)
        bus = Bus(FaultyBroker(memory_broker, fault), source="shop")
        recorder = Recorder(bus, "orders")
        async with bus:
            outcomes = await publish(bus, 7)
            await recorder.wait(5)
            await settled(bus)
        assert all(isinstance(outcome, Receipt) for outcome in outcomes)
        assert [event.id for event in recorder.events] == ["o-0", "o-1", "o-3", "o-4", "o-6"]
        assert (fault.count, fault.hits) == (7, 2)

    run(test)


def test_a_duplicate_arrives_twice(memory_broker: MemoryBroker) -> None:
    async def test() -> None:
        bus = Bus(FaultyBroker(memory_broker, duplicate(nth=2)), source="shop")
        recorder = Recorder(bus, "orders")
        async with bus:
            await publish(bus, 3)
            await recorder.wait(4)
            await settled(bus)
        assert sorted(event.id for event in recorder.events) == ["o-0", "o-1", "o-1", "o-2"]

    run(test)


def test_a_failed_publish_ends_with_the_error(memory_broker: MemoryBroker) -> None:
    async def test() -> None:
        bus = Bus(FaultyBroker(memory_broker, fail("publish", Rejected("full"), nth=2)), source="shop")
        recorder = Recorder(bus, "orders")
        async with bus:
            outcomes = await publish(bus, 3)
            await recorder.wait(2)
            await settled(bus)
        assert [type(outcome) for outcome in outcomes] == [Receipt, Rejected, Receipt]
        assert [event.id for event in recorder.events] == ["o-0", "o-2"]

    run(test)


def test_only_what_is_meant_is_counted_and_hit(memory_broker: MemoryBroker) -> None:
    async def test() -> None:
        fault = fail("publish", Rejected("no"), nth=1, when=lambda outbound: outbound.topic == "orders")
        bus = Bus(FaultyBroker(memory_broker, fault), source="shop", topics={"other": {"groups": ["g"]}})
        Recorder(bus, "orders")
        async with bus:
            await bus.publish("other", {"n": 1}, type=TYPE)
            outcomes = await publish(bus, 2)
        assert [type(outcome) for outcome in outcomes] == [Rejected, Receipt]
        assert fault.count == 2

    run(test)


def test_a_delayed_publish_is_unknown_at_its_deadline(memory_broker: MemoryBroker) -> None:
    async def test() -> None:
        bus = Bus(FaultyBroker(memory_broker, delay("publish", 0.5, nth=1)), source="shop", drain=1)
        recorder = Recorder(bus, "orders")
        async with bus:
            (outcome,) = await publish(bus, 1, deadline=0.1)
            await recorder.wait(1)
        assert isinstance(outcome, PublishOutcomeUnknown)

    run(test)


def test_a_dropped_settlement_is_a_redelivery(memory_broker: MemoryBroker) -> None:
    async def test() -> None:
        first = Bus(FaultyBroker(memory_broker, drop("settle")), source="shop")
        before = Recorder(first, "orders")
        async with first:
            await publish(first, 2)
            await before.wait(2)
        second = Bus(memory_broker, source="shop")
        after = Recorder(second, "orders")
        async with second:
            await after.wait(2)
            await settled(second)
        assert [event.id for event in after.events] == ["o-0", "o-1"]

    run(test)


def test_a_failed_delivery_is_another_receiver(memory_broker: MemoryBroker) -> None:
    async def test() -> None:
        bus = Bus(FaultyBroker(memory_broker, fail("deliver", nth=2)), source="shop")
        recorder = Recorder(bus, "orders")
        async with bus:
            await publish(bus, 3)
            await recorder.wait(3)
            await settled(bus)
            assert bus.subscriptions[0].stats.reconnects == 1

    run(test)


def test_a_failed_connect_is_raised_by_the_start(memory_broker: MemoryBroker) -> None:
    async def test() -> None:
        bus = Bus(FaultyBroker(memory_broker, fail("connect", Unavailable("asleep"))), source="shop")
        with pytest.raises(Unavailable, match="asleep"):
            await bus.start()

    run(test)


def test_a_fault_that_cannot_be_had_says_where_it_can() -> None:
    with pytest.raises(ConfigError, match=r"drop\('deliver'\).*'publish', 'settle'"):
        drop("deliver")


def test_faults_may_change_while_it_runs(memory_broker: MemoryBroker) -> None:
    async def test() -> None:
        broker = FaultyBroker(memory_broker, fail("publish", Rejected("no")))
        bus = Bus(broker, source="shop")
        Recorder(bus, "orders")
        async with bus:
            assert [type(outcome) for outcome in await publish(bus, 1)] == [Rejected]
            broker.faults.clear()
            assert [type(outcome) for outcome in await publish(bus, 1)] == [Receipt]

    run(test)


def test_a_wrapper_has_the_optional_protocols_of_what_it_wraps(memory_broker: MemoryBroker) -> None:
    async def test() -> None:
        inner = adapter_of(memory_broker, AdapterContext("shop", "shop-1"))
        outer = FaultyBroker(memory_broker).make_adapter(AdapterContext("shop", "shop-1"))
        for protocol in (ReportsBacklog, Replays):
            assert isinstance(outer, protocol) == isinstance(inner, protocol)
        bus = Bus(memory_broker, source="shop")
        Recorder(bus, "orders")
        async with bus:
            receiver = await outer.open_receiver(SubscriptionSpec("orders", "recorder", True, 4, "new", 10), Ears())
            assert not isinstance(receiver, ExtendsLease)
            assert not isinstance(receiver, BalancesLanes)
            await receiver.close()

    run(test)


class Ears:
    """A LaneListener that only listens."""

    def assigned(self, lane: object, note: str = "") -> None:
        """LaneListener."""

    async def revoked(self, lanes: object, /) -> None:
        """LaneListener."""

    def lost(self, lanes: object, /) -> None:
        """LaneListener."""


def test_a_url_is_made_an_adapter() -> None:
    assert adapter_of("memory://", AdapterContext("shop", "shop-1")).capabilities.adapter == "memory"


def test_settled_waits_for_retries_and_says_who_is_behind(memory_broker: MemoryBroker) -> None:
    async def test() -> None:
        bus = Bus(memory_broker, source="shop", drain=0.1)
        done = asyncio.Event()

        async def wait(n: dict[str, int]) -> None:
            await done.wait()

        bus.subscribe("orders", group="billing")(wait)
        async with bus:
            await publish(bus, 1)
            with pytest.raises(TimeoutError, match="orders/billing: 1 events"):
                await settled(bus, deadline=0.05)
            done.set()
            await settled(bus)

    run(test)


def test_a_recorder_that_waits_in_vain_says_how_many_came(memory_broker: MemoryBroker) -> None:
    async def test() -> None:
        bus = Bus(memory_broker, source="shop")
        recorder = Recorder(bus, "orders")
        async with bus:
            await publish(bus, 1)
            with pytest.raises(TimeoutError, match="1 of 2 events"):
                await recorder.wait(2, deadline=0.1)

    run(test)
