"""What becomes of a delivery that was not acked: held, released, kept or given back."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.engine.scripted_adapter import PER_MESSAGE, ScriptedBroker, bus_of, inbound, run, until

from anybroker import Bus, Delivery, Event, Receipt
from anybroker.adapter import Ack, Release
from anybroker.capabilities import Support
from anybroker.errors import Rejected
from anybroker.middleware import Handler, dead_letter, middleware, retry

QUICK = [retry(attempts=2, first=0.0)]


def test_emulated_releases_under_way_take_no_worker_places() -> None:
    async def main() -> None:
        broker = ScriptedBroker(release=Support.EMULATED)
        bus = bus_of(broker)
        seen: list[str] = []
        stay = asyncio.Event()
        held_back: list[Any] = []

        def send(item: Any) -> bool:
            held_back.append(item)
            return False

        broker.on_send = send

        @bus.subscribe(
            "topic", group="group", max_in_flight=2, ordered=False, middleware=[retry(mode="release", first=0.0)]
        )
        async def handle(event: Event[Any]) -> None:
            seen.append(event.id)
            if event.id == "2":
                raise ValueError("release it")
            await stay.wait()

        async with bus:
            lane = broker.receiver.assign("a")
            broker.receiver.deliver(inbound(lane, 2))
            await until(lambda: len(held_back) == 1, "the copy is under way")
            broker.receiver.deliver(inbound(lane, 3), inbound(lane, 4))
            await until(lambda: bus.subscriptions[0].running == 2, "two handlers run")
            stay.set()
            await bus.close(drain=0)

    run(main)


def test_a_verdict_given_back_has_the_starts_that_it_had() -> None:
    async def main() -> None:
        broker = ScriptedBroker(**PER_MESSAGE)
        bus = bus_of(broker)
        broker.on_send = lambda _: Rejected("no")
        starts: list[str] = []

        @bus.subscribe("topic", group="group", poison_after=5, middleware=QUICK)
        async def handle(event: Event[Any]) -> None:
            starts.append(event.id)
            raise ValueError("no")

        await bus.start()
        lane = broker.receiver.assign("a")
        broker.receiver.deliver(inbound(lane, 1, "a"))
        await until(lambda: bool(bus.problems))
        broker.receiver.deliver(inbound(lane, 2, "b", deliveries=9))
        await until(lambda: bus.subscriptions[0].buffered == 2)
        await bus.close()
        releases = [item for item in broker.receiver.settled if isinstance(item, Release)]
        released = {item.inbound.position: item.attempts for item in releases}
        assert released == {1: 2, 2: 0}

    run(main)


def test_dead_letters_switched_off_keep_the_event_and_its_count() -> None:
    async def main() -> None:
        broker = ScriptedBroker(**PER_MESSAGE)
        bus = bus_of(broker)
        attempts: list[int] = []

        @bus.subscribe("topic", group="group", middleware=[dead_letter(enabled=False), retry(attempts=1)])
        async def handle(event: Event[Any]) -> None:
            attempts.append(1)
            if len(attempts) < 2:
                raise ValueError("no")

        async with bus:
            lane = broker.receiver.assign("a")
            broker.receiver.deliver(inbound(lane, 1))
            await until(lambda: any(isinstance(item, Ack) for item in broker.receiver.settled))
            assert not bus.problems

    run(main)


RELEASE = [retry(attempts=5, mode="release", first=0.0)]


def failing_once(bus: Bus, **options: Any) -> list[tuple[str, int]]:
    """A handler that releases the event "1" at its first start; what was started, with its attempt."""
    seen: list[tuple[str, int]] = []

    @bus.subscribe("topic", group="group", ordered=False, **options)
    async def handle(delivery: Delivery) -> None:
        event = delivery.event
        assert isinstance(event, Event)
        seen.append((event.id, delivery.attempt))
        if event.id == "1" and delivery.attempt == 1:
            raise ValueError("no")

    return seen


@pytest.mark.parametrize("per_message", [True, False])
def test_an_emulated_release_is_a_copy_in_the_inlet_and_then_the_original_is_done(per_message: bool) -> None:
    async def main() -> None:
        capabilities = {**(PER_MESSAGE if per_message else {}), "release": Support.EMULATED}
        broker = ScriptedBroker(**capabilities)
        broker.on_send = lambda _: confirmed
        confirmed = False
        bus = bus_of(broker)
        seen = failing_once(bus, middleware=RELEASE)
        async with bus:
            receiver = broker.receiver
            lane = receiver.assign("a")
            receiver.deliver(inbound(lane, 1))
            await until(lambda: len(broker.sent) == 1)
            (copy,) = broker.sent
            assert (copy.topic, copy.group) == ("topic", "group")
            assert copy.headers is not None
            assert copy.headers["anybroker-attempts"] == "1"
            assert receiver.settled == []
            sender = broker.senders[0]
            assert sender.report is not None
            sender.report(copy, Receipt("topic", "1"))
            await until(lambda: len(receiver.settled) == 1)
            if per_message:
                assert [type(item) for item in receiver.settled] == [Ack]
            else:
                assert receiver.position(lane) == 2
            assert bus.subscriptions[0].buffered == 0
            assert (seen, bus.subscriptions[0].stats.released) == ([("1", 1)], 1)

    run(main)


def test_an_emulated_release_that_cannot_be_sent_is_held_instead(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        broker = ScriptedBroker(release=Support.EMULATED)
        broker.on_send = lambda _: Rejected("no permission")
        bus = bus_of(broker)
        seen = failing_once(bus, middleware=RELEASE)
        async with bus:
            lane = broker.receiver.assign("a")
            broker.receiver.deliver(inbound(lane, 1))
            await until(lambda: broker.receiver.position(lane) == 2)
            assert seen == [("1", 1), ("1", 2)]
            assert bus.problems == {}

    run(main)
    assert "a delayed release could not be sent" in caplog.text


def test_an_emulated_release_that_is_cut_off_at_close_is_given_back_with_its_starts() -> None:
    async def main() -> None:
        broker = ScriptedBroker(**{**PER_MESSAGE, "release": Support.EMULATED})
        broker.on_send = lambda _: False
        bus = bus_of(broker)
        failing_once(bus, middleware=RELEASE)
        await bus.start()
        broker.receiver.deliver(inbound(broker.receiver.assign("a"), 1))
        await until(lambda: len(broker.sent) == 1)
        await bus.close(drain=0)
        assert [(type(item), item.attempts) for item in broker.receiver.settled if isinstance(item, Release)] == [
            (Release, 1)
        ]
        assert bus.subscriptions[0].stats.returned == 1

    run(main)


@pytest.mark.parametrize("result", ["confirmed", "refused"])
def test_an_emulated_release_of_a_lane_that_is_lost_meanwhile_settles_nothing(result: str) -> None:
    async def main() -> None:
        broker = ScriptedBroker(release=Support.EMULATED)
        broker.on_send = lambda _: False
        bus = bus_of(broker)
        failing_once(bus, middleware=RELEASE)
        async with bus:
            receiver = broker.receiver
            lane = receiver.assign("a")
            receiver.deliver(inbound(lane, 1))
            await until(lambda: len(broker.sent) == 1)
            receiver.listener.lost([lane])
            sender = broker.senders[0]
            assert sender.report is not None
            sender.report(broker.sent[0], Receipt("topic", "1") if result == "confirmed" else Rejected("no"))
            (subscription,) = bus.subscriptions
            await until(lambda: subscription.buffered == 0)
            assert receiver.settled == []
            stats = subscription.stats
            assert (stats.stale_settlements, stats.returned) == ((1, 0) if result == "confirmed" else (0, 1))
            assert bus.problems == {}
            other = receiver.assign("a")
            receiver.deliver(inbound(other, 2))
            await until(lambda: receiver.position(other) == 3)

    run(main)


def test_what_fails_while_the_bus_closes_is_given_back_with_the_start_it_had() -> None:
    async def main() -> None:
        broker = ScriptedBroker(**PER_MESSAGE)
        bus = bus_of(broker)
        begun, go = asyncio.Event(), asyncio.Event()

        @bus.subscribe("topic", group="group", middleware=QUICK)
        async def handle(event: Event[Any]) -> None:
            begun.set()
            await go.wait()
            raise ValueError("no")

        await bus.start()
        lane = broker.receiver.assign("a")
        broker.receiver.deliver(inbound(lane, 1), inbound(lane, 2))
        await begun.wait()
        closing = asyncio.create_task(bus.close())
        await until(lambda: broker.receiver.stopped)
        go.set()
        await closing
        released = {
            item.inbound.position: item.attempts for item in broker.receiver.settled if isinstance(item, Release)
        }
        assert released == {1: 1, 2: 0}
        assert broker.sent == []

    run(main)


def test_what_a_middleware_exits_with_keeps_the_event_and_stops_no_worker() -> None:
    async def main() -> None:
        broker = ScriptedBroker()
        tries: list[int] = []

        @middleware
        async def leave(delivery: Delivery, call_next: Handler) -> None:
            tries.append(delivery.attempt)
            if len(tries) == 1:
                raise SystemExit(7)
            await call_next(delivery)

        bus = bus_of(broker, middleware=[dead_letter(enabled=False), retry(attempts=1), leave])

        @bus.subscribe("topic", group="group", max_in_flight=1)
        async def handle(event: Event[Any]) -> None:
            pass

        async with bus:
            lane = broker.receiver.assign("a")
            broker.receiver.deliver(inbound(lane, 1), inbound(lane, 2))
            await until(lambda: broker.receiver.position(lane) == 3)
            assert len(tries) == 3
            assert bus.subscriptions[0].stats.stuck == 1
            assert bus.problems == {}

    run(main)
