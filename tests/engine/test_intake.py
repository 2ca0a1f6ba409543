"""What is received becomes a delivery: what a note says of it, what an inlet says, and what is not started."""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import Any

import pytest
from tests.engine.scripted_adapter import PER_MESSAGE, ScriptedBroker, bus_of, inbound, run, until

from anybroker import Bus, Delivery, Event
from anybroker.adapter import Commit
from anybroker.capabilities import Support
from anybroker.middleware import retry


def noting(bus: Bus, fail: Collection[str] = (), **options: Any) -> list[tuple[str, int]]:
    """A handler that fails at these events; what was started, with its attempt."""
    seen: list[tuple[str, int]] = []

    @bus.subscribe("topic", group="group", **options)
    async def handle(delivery: Delivery) -> None:
        assert isinstance(delivery.event, Event)
        seen.append((delivery.event.id, delivery.attempt))
        if delivery.event.id in fail:
            raise ValueError("no")

    return seen


def test_the_next_member_has_what_is_open_with_its_starts_and_nothing_else() -> None:
    async def main() -> None:
        broker = ScriptedBroker()
        bus = bus_of(broker)
        fail = ["1"]
        seen = noting(bus, fail, middleware=[retry(first=3600.0, cap=3600.0)])
        async with bus:
            (subscription,) = bus.subscriptions
            first = broker.receiver
            lane = first.assign("a")
            first.deliver(*(inbound(lane, at, str(at)) for at in (1, 2, 3)))
            await until(lambda: subscription.stats.acked == 2 and subscription.stats.retried == 1)
            await subscription.stop()
            commit = [item for item in first.settled if isinstance(item, Commit)][-1]
            assert commit.position == 1
            fail.clear()
            await subscription.start()
            second = broker.receiver
            again = second.assign("a", commit.note)
            second.deliver(*(inbound(again, at, str(at)) for at in (1, 2, 3, 4)))
            await until(lambda: subscription.stats.acked == 4)
            assert sorted(seen) == [("1", 1), ("1", 2), ("2", 1), ("3", 1), ("4", 1)]
            assert subscription.stats.skipped_finished == 2

    run(main)


@pytest.mark.parametrize("inlet", [True, False])
def test_starts_in_a_header_count_where_only_the_library_writes(inlet: bool) -> None:
    async def main() -> None:
        broker = ScriptedBroker(**PER_MESSAGE)
        bus = bus_of(broker)
        seen = noting(bus)
        async with bus:
            lane = broker.receiver.assign("a")
            headers = {"anybroker-attempts": "2", "anybroker-not-before": "0"}
            broker.receiver.deliver(inbound(lane, 1, headers=headers, inlet=inlet))
            await until(lambda: len(broker.receiver.settled) == 1)
            assert seen == [("1", 3 if inlet else 1)]
            assert bus.subscriptions[0].stats.not_believed == 0

    run(main)


@pytest.mark.parametrize("text", ["-1", "1e9", "inf", "99999999999999999999", "two", ""])
@pytest.mark.parametrize("name", ["anybroker-attempts", "anybroker-not-before"])
def test_what_the_library_never_writes_into_an_inlet_is_not_believed(name: str, text: str) -> None:
    async def main() -> None:
        broker = ScriptedBroker(**PER_MESSAGE)
        bus = bus_of(broker)
        seen = noting(bus)
        async with bus:
            lane = broker.receiver.assign("a")
            broker.receiver.deliver(inbound(lane, 1, headers={name: text}, inlet=True))
            await until(lambda: len(broker.receiver.settled) == 1)
            assert seen == [("1", 1)]
            past = name == "anybroker-not-before" and text in ("-1", "1e9")  # moments that are over are no wait
            assert bus.subscriptions[0].stats.not_believed == (0 if past else 1)

    run(main)


@pytest.mark.parametrize("deliveries", [5, 6])
def test_what_was_handed_over_too_often_is_dead_lettered_and_not_started(deliveries: int) -> None:
    async def main() -> None:
        broker = ScriptedBroker(**PER_MESSAGE)
        bus = bus_of(broker)
        seen = noting(bus, poison_after=5)
        async with bus:
            lane = broker.receiver.assign("a")
            broker.receiver.deliver(inbound(lane, 1, attempts=3, deliveries=deliveries))
            await until(lambda: len(broker.receiver.settled) == 1)
            if deliveries == 5:
                assert (seen, broker.sent) == ([("1", 4)], [])
            else:
                (letter,) = broker.sent
                assert seen == []
                assert letter.headers is not None
                assert letter.headers["anybroker-dead-attempts"] == "3"

    run(main)


@pytest.mark.parametrize("ahead", [float("inf"), 50_000.0])
def test_a_moment_that_the_broker_cannot_hold_an_event_until_is_not_believed(ahead: float) -> None:
    async def main() -> None:
        broker = ScriptedBroker(**PER_MESSAGE, delay=Support.NATIVE, max_delay=60.0)
        bus = bus_of(broker)
        seen = noting(bus)
        async with bus:
            lane = broker.receiver.assign("a")
            broker.receiver.deliver(inbound(lane, 1, not_before=time.time() + ahead))
            await until(lambda: len(broker.receiver.settled) == 1)
            assert seen == [("1", 1)]
            assert bus.subscriptions[0].stats.not_believed == 1

    run(main)


@pytest.mark.parametrize("attempts", [-1, 10**9])
def test_a_count_of_starts_that_cannot_be_is_not_believed_of_an_adapter_either(attempts: int) -> None:
    async def main() -> None:
        broker = ScriptedBroker(**PER_MESSAGE)
        bus = bus_of(broker)
        seen = noting(bus)
        async with bus:
            lane = broker.receiver.assign("a")
            broker.receiver.deliver(inbound(lane, 1, attempts=attempts))
            await until(lambda: len(broker.receiver.settled) == 1)
            assert seen == [("1", 1)]
            assert bus.subscriptions[0].stats.not_believed == 1

    run(main)
