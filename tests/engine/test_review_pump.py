"""Bugs found by reading the pump: each test failed before its fix."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import pytest
from tests.engine.scripted_adapter import ScriptedBroker, inbound, until

from anybroker import Bus, Event
from anybroker.adapter import Ack, Inbound, Lane, Release, Settlement
from anybroker.capabilities import Acknowledgement, Support
from anybroker.errors import BatchFailed, BrokerError, LeaseLost, Rejected, Unavailable
from anybroker.middleware import dead_letter, retry

PER_MESSAGE: dict[str, Any] = {"acknowledgement": Acknowledgement.PER_MESSAGE, "release": Support.NATIVE}
QUICK = [retry(attempts=2, first=0.0)]


def bus_of(broker: ScriptedBroker, **options: Any) -> Bus:
    return Bus(broker, source="test", idempotency="memory://", **options)


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(20):
            await main()

    asyncio.run(bounded())


def test_a_handler_that_fails_while_its_lane_is_revoked_leaves_its_key_open() -> None:
    async def main() -> None:
        broker = ScriptedBroker()
        bus = bus_of(broker)
        begun, go, seen = asyncio.Event(), asyncio.Event(), []

        @bus.subscribe("topic", group="group", middleware=QUICK)
        async def handle(event: Event[Any]) -> None:
            seen.append(event.id)
            if event.id == "1":
                begun.set()
                await go.wait()
                raise ValueError("no")

        async with bus:
            receiver = broker.receiver
            lane = receiver.assign("a")
            receiver.deliver(inbound(lane, 1), inbound(lane, 2))
            await begun.wait()
            revoking = asyncio.create_task(receiver.listener.revoked([lane]))
            await asyncio.sleep(0)
            go.set()
            await revoking
            assert bus.subscriptions[0].buffered == 0
            again = receiver.assign("a")
            receiver.deliver(inbound(again, 3))
            await until(lambda: "3" in seen, "the key's next event")

    run(main)


def test_a_handler_that_raises_cancelled_error_by_itself_has_failed() -> None:
    async def main() -> None:
        broker = ScriptedBroker()
        bus = bus_of(broker)
        seen: list[str] = []

        @bus.subscribe("topic", group="group", middleware=QUICK)
        async def handle(event: Event[Any]) -> None:
            seen.append(event.id)
            if event.id == "1":
                raise asyncio.CancelledError

        async with bus:
            lane = broker.receiver.assign("a")
            broker.receiver.deliver(inbound(lane, 1), inbound(lane, 2))
            await until(lambda: broker.receiver.position(lane) == 3, "both are finished")
            assert seen == ["1", "1", "2"]
            assert [item.topic for item in broker.sent] == ["topic.group.dlq"]

    run(main)


def test_a_cancelled_batch_ends_with_its_deliveries() -> None:
    async def main() -> None:
        broker = ScriptedBroker()
        bus = bus_of(broker)
        begun, ended = asyncio.Event(), asyncio.Event()

        @bus.subscribe("topic", group="group", batch=2)
        async def handle(events: list[Event[Any]]) -> None:
            begun.set()
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()

        await bus.start()
        lane = broker.receiver.assign("a")
        broker.receiver.deliver(inbound(lane, 1, "a"), inbound(lane, 2, "b"))
        await begun.wait()
        await bus.close(drain=0)
        assert ended.is_set()

    run(main)


def test_a_batch_that_is_still_collected_is_handled_at_close_and_not_after_it() -> None:
    async def main() -> None:
        broker = ScriptedBroker()
        bus = bus_of(broker)
        seen: list[list[str]] = []

        @bus.subscribe("topic", group="group", batch=100, within=3.0)
        async def handle(events: list[Event[Any]]) -> None:
            seen.append([event.id for event in events])

        await bus.start()
        lane = broker.receiver.assign("a")
        broker.receiver.deliver(inbound(lane, 1, "a"), inbound(lane, 2, "b"))
        await until(lambda: bus.subscriptions[0].running == 2)
        await bus.close(drain=1)
        assert seen == [["1", "2"]]
        assert broker.receivers[0].position(lane) == 3

    run(main)


@pytest.mark.parametrize("failure", ["text", StopIteration()])
def test_a_batch_that_names_what_is_no_failure_does_not_hang(failure: Any) -> None:
    async def main() -> None:
        broker = ScriptedBroker()
        bus = bus_of(broker)

        @bus.subscribe("topic", group="group", batch=2, middleware=[retry(attempts=1)])
        async def handle(events: list[Event[Any]]) -> None:
            raise BatchFailed({0: failure})

        async with bus:
            lane = broker.receiver.assign("a")
            broker.receiver.deliver(inbound(lane, 1, "a"), inbound(lane, 2, "b"))
            await until(lambda: broker.receiver.position(lane) == 3, "both are finished")
            assert len(broker.sent) >= 1

    run(main)


def test_what_two_batches_publish_never_has_one_id() -> None:
    async def main() -> None:
        broker = ScriptedBroker()
        bus = bus_of(broker)
        batches: list[list[str]] = []

        @bus.subscribe("topic", group="group", batch=2, within=5.0, middleware=[retry(attempts=3, first=0.0)])
        async def handle(events: list[Event[Any]]) -> None:
            batches.append([event.id for event in events])
            for event in events:
                await bus.publish("next", {"of": event.id}, type="next")
            if len(batches) == 1:
                raise BatchFailed({1: ValueError("again")})

        async with bus:
            lane = broker.receiver.assign("a")
            broker.receiver.deliver(inbound(lane, 1, "a"), inbound(lane, 2, "b"))
            await until(lambda: len(batches) == 1)
            await until(lambda: bus.subscriptions[0].stats.retried == 1)
            broker.receiver.deliver(inbound(lane, 3, "c"))
            await until(lambda: broker.receiver.position(lane) == 4)
            ids: dict[str, set[str]] = {}
            for item in broker.sent:
                assert isinstance(item.event, Event)
                ids.setdefault(item.event.id, set()).add(item.event.data["of"])
            assert all(len(causes) == 1 for causes in ids.values()), ids

    run(main)


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


def test_a_lost_lease_leaves_nothing_behind() -> None:
    async def main() -> None:
        broker = ScriptedBroker(**PER_MESSAGE, lease_extension=Support.NATIVE)
        broker.on_extend = lambda batch: [LeaseLost("gone")] * len(batch)
        bus = bus_of(broker, lease=1)
        go = asyncio.Event()

        @bus.subscribe("topic", group="group")
        async def handle(event: Event[Any]) -> None:
            await go.wait()

        async with bus:
            lane = broker.receiver.assign("a")
            broker.receiver.deliver(inbound(lane, 1))
            pump = bus.subscriptions[0]._pump
            assert pump is not None
            await until(lambda: pump.stats.leases_lost == 1)
            go.set()
            await until(lambda: pump.buffered == 0)
            assert not pump._not_ours

    run(main)


def test_a_lost_lease_ends_the_wait_for_the_next_start() -> None:
    async def main() -> None:
        broker = ScriptedBroker(**PER_MESSAGE, lease_extension=Support.NATIVE)
        broker.on_extend = lambda batch: [LeaseLost("gone")] * len(batch)
        bus = bus_of(broker, lease=1)
        seen: list[str] = []

        @bus.subscribe("topic", group="group", middleware=[retry(first=3600.0, cap=3600.0)])
        async def handle(event: Event[Any]) -> None:
            seen.append(event.id)
            if event.id == "1":
                raise ValueError("later")

        async with bus:
            lane = broker.receiver.assign("a")
            broker.receiver.deliver(inbound(lane, 1), inbound(lane, 2, "other"))
            await until(lambda: "2" in seen and "1" in seen)
            await until(lambda: bus.subscriptions[0].buffered == 0, "the held event is forgotten")
            broker.receiver.deliver(inbound(lane, 3))
            await until(lambda: "3" in seen, "the key's next event")

    run(main)


def test_an_extension_that_fails_once_is_made_again() -> None:
    async def main() -> None:
        broker = ScriptedBroker(**PER_MESSAGE, lease_extension=Support.NATIVE)
        calls: list[int] = []

        def extend(batch: Sequence[Inbound]) -> Sequence[BrokerError | None]:
            calls.append(len(batch))
            if len(calls) == 1:
                raise Unavailable("for a moment")
            return [None] * len(batch)

        broker.on_extend = extend
        bus = bus_of(broker, lease=1)
        go = asyncio.Event()

        @bus.subscribe("topic", group="group")
        async def handle(event: Event[Any]) -> None:
            await go.wait()

        async with bus:
            lane = broker.receiver.assign("a")
            broker.receiver.deliver(inbound(lane, 1))
            await until(lambda: len(calls) == 2, "a second extension")
            assert not bus.problems
            go.set()

    run(main)


@pytest.mark.parametrize("way", ["revoked", "lost", "late"])
def test_leases_of_lanes_that_are_gone_are_not_extended(way: str) -> None:
    async def main() -> None:
        broker = ScriptedBroker(**PER_MESSAGE, lease_extension=Support.NATIVE)
        bus = bus_of(broker, lease=1)
        begun, go = asyncio.Event(), asyncio.Event()

        @bus.subscribe("topic", group="group")
        async def handle(event: Event[Any]) -> None:
            begun.set()
            await go.wait()

        async with bus:
            receiver = broker.receiver
            lane = receiver.assign("a")
            kept = receiver.assign("b")
            if way != "late":
                receiver.deliver(inbound(lane, 1), inbound(lane, 2))
                await begun.wait()
            receiver.deliver(inbound(kept, 3, "other"))
            await begun.wait()
            if way == "revoked":
                go.set()
                await receiver.listener.revoked([lane])
                go.clear()
                receiver.deliver(inbound(kept, 4, "other"))
            else:
                receiver.listener.lost([lane])
            if way == "late":
                receiver.deliver(inbound(lane, 1))
            await until(lambda: not receiver.inbox)
            before = len(receiver.extended)
            await until(lambda: len(receiver.extended) >= before + 1, "an extension")
            assert {item.lane for item in receiver.extended[-1]} == {kept}
            go.set()

    run(main)


def test_a_dead_letter_that_fails_after_its_lane_was_lost_is_no_problem_of_ours() -> None:
    async def main() -> None:
        broker = ScriptedBroker()
        bus = bus_of(broker)
        broker.on_send = lambda _: Rejected("no")
        begun, go = asyncio.Event(), asyncio.Event()

        @bus.subscribe("topic", group="group", middleware=[retry(attempts=1)])
        async def handle(event: Event[Any]) -> None:
            begun.set()
            await go.wait()
            raise ValueError("no")

        async with bus:
            lane = broker.receiver.assign("a")
            broker.receiver.deliver(inbound(lane, 1))
            await begun.wait()
            broker.receiver.listener.lost([lane])
            go.set()
            await until(lambda: bus.subscriptions[0].running == 0)
            assert not bus.problems

    run(main)


def test_a_subscription_that_stopped_itself_goes_on_when_the_event_is_no_longer_its_own() -> None:
    async def main() -> None:
        broker = ScriptedBroker()
        bus = bus_of(broker)
        broker.on_send = lambda _: Rejected("no")
        seen: list[str] = []

        @bus.subscribe("topic", group="group", middleware=[retry(attempts=1)])
        async def handle(event: Event[Any]) -> None:
            seen.append(event.id)
            if event.id == "1":
                raise ValueError("no")

        async with bus:
            lane = broker.receiver.assign("a")
            broker.receiver.deliver(inbound(lane, 1))
            await until(lambda: bool(bus.problems))
            broker.receiver.listener.lost([lane])
            other = broker.receiver.assign("a")
            broker.receiver.deliver(inbound(other, 2))
            await until(lambda: "2" in seen or bool(bus.problems), "it runs, or says why not")

    run(main)


def test_what_may_not_start_yet_does_not_start_when_the_one_before_it_ends() -> None:
    async def main() -> None:
        broker = ScriptedBroker()
        bus = bus_of(broker)
        begun, go, seen = asyncio.Event(), asyncio.Event(), []

        @bus.subscribe("topic", group="group")
        async def handle(event: Event[Any]) -> None:
            seen.append(event.id)
            begun.set()
            await go.wait()

        async with bus:
            lane = broker.receiver.assign("a")
            moment = time.time() + 0.5
            broker.receiver.deliver(inbound(lane, 1), inbound(lane, 2, not_before=moment), inbound(lane, 3))
            await begun.wait()
            await until(lambda: bus.subscriptions[0].buffered == 3)
            go.set()
            await until(lambda: seen == ["1", "3"], "the others go on")
            await until(lambda: seen == ["1", "3", "2"])
            assert time.time() >= moment

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


def test_two_revocations_of_one_lane_both_end_with_its_handler() -> None:
    async def main() -> None:
        broker = ScriptedBroker()
        bus = bus_of(broker)
        begun, go = asyncio.Event(), asyncio.Event()

        @bus.subscribe("topic", group="group")
        async def handle(event: Event[Any]) -> None:
            begun.set()
            await go.wait()

        async with bus:
            lane = broker.receiver.assign("a")
            broker.receiver.deliver(inbound(lane, 1))
            await begun.wait()
            both = [asyncio.create_task(broker.receiver.listener.revoked([lane])) for _ in range(2)]
            await asyncio.sleep(0)
            go.set()
            async with asyncio.timeout(5):
                await asyncio.gather(*both)

    run(main)


def test_balancing_goes_on_after_a_lane_could_not_be_given_back() -> None:
    async def main() -> None:
        broker = ScriptedBroker(balance=Support.EMULATED)
        broker.members = 2

        async def give_back(lane: Lane) -> None:
            if len(broker.receiver.given_back) == 1:
                raise Unavailable("for a moment")

        broker.on_give_back = give_back
        bus = bus_of(broker)

        @bus.subscribe("topic", group="group", lanes=2)
        async def handle(event: Event[Any]) -> None:
            pass

        async with bus:
            for name in "abc":
                broker.receiver.assign(name)
            await until(lambda: len(broker.receiver.given_back) == 2, "the second lane is given back")
            assert not bus.problems

    run(main)


def test_a_lane_with_a_handler_in_it_is_not_given_to_another_member_and_nothing_more_is_fetched_of_it() -> None:
    async def main() -> None:
        broker = ScriptedBroker(balance=Support.EMULATED, acknowledgement=Acknowledgement.PER_MESSAGE)
        broker.members = 2
        go, begun = asyncio.Event(), asyncio.Event()
        bus = bus_of(broker, drain=0.01)

        @bus.subscribe("topic", group="group", lanes=2)
        async def handle(event: Event[Any]) -> None:
            begun.set()
            await go.wait()

        async with bus:
            receiver = broker.receiver
            kept, surplus = (receiver.assign(name) for name in "ab")
            receiver.deliver(inbound(surplus, 1))
            await begun.wait()
            await until(lambda: receiver.deliver() or receiver.asked.count([kept]) > 20, "the lane is left out")
            assert receiver.given_back == []
            go.set()
            await until(lambda: receiver.given_back == [surplus], "the lane is given back, once the handler has ended")
            assert [settlement.inbound.lane for settlement in receiver.settled] == [surplus]

    run(main)


def test_a_flush_does_not_wait_for_what_comes_after_it() -> None:
    async def main() -> None:
        broker = ScriptedBroker()
        bus = bus_of(broker)

        @bus.subscribe("topic", group="group")
        async def handle(event: Event[Any]) -> None:
            pass

        async with bus:
            receiver = broker.receiver
            lane, busy = receiver.assign("a"), receiver.assign("b")
            positions = iter(range(1, 1_000_000))

            async def settle(batch: Sequence[Settlement]) -> Sequence[BrokerError | None]:
                state = bus.subscriptions[0].stats.acked
                receiver.deliver(inbound(busy, next(positions), None))
                await until(lambda: bus.subscriptions[0].stats.acked > state)
                return [None] * len(batch)

            broker.on_settle = settle
            receiver.deliver(inbound(lane, 1))
            await until(lambda: receiver.position(lane) == 2)
            async with asyncio.timeout(2):
                await receiver.listener.revoked([lane])

            async def well(batch: Sequence[Settlement]) -> Sequence[BrokerError | None]:
                return [None] * len(batch)

            broker.on_settle = well

    run(main)


@pytest.mark.parametrize("call", ["on_stop", "on_close"])
@pytest.mark.parametrize("way", ["raises", "hangs"])
def test_a_receiver_that_cannot_be_left_does_not_keep_the_bus_open(
    call: str, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("anybroker.engine.pump._LEAVE_TIMEOUT", 0.1, raising=False)

    async def main() -> None:
        broker = ScriptedBroker()
        bus = bus_of(broker)

        async def bad(*_: object) -> None:
            if way == "raises":
                raise Unavailable("gone")
            await asyncio.Event().wait()

        setattr(broker, call, bad)

        @bus.subscribe("topic", group="group")
        async def handle(event: Event[Any]) -> None:
            pass

        await bus.start()
        lane = broker.receiver.assign("a")
        broker.receiver.deliver(inbound(lane, 1))
        await until(lambda: bus.subscriptions[0].stats.acked == 1)
        async with asyncio.timeout(5):
            await bus.close(drain=1)
        assert broker.receiver.closed
        assert broker.receiver.position(lane) == 2
        assert broker.closed

    run(main)


def test_close_does_not_wait_for_the_settlements_of_a_dead_receiver() -> None:
    async def main() -> None:
        broker = ScriptedBroker()
        bus = bus_of(broker)
        settling = asyncio.Event()

        async def settle(batch: Sequence[Settlement]) -> Sequence[BrokerError | None]:
            settling.set()
            await asyncio.Event().wait()
            return ()

        broker.on_settle = settle

        @bus.subscribe("topic", group="group")
        async def handle(event: Event[Any]) -> None:
            pass

        await bus.start()
        receiver = broker.receiver
        lane = receiver.assign("a")
        receiver.deliver(inbound(lane, 1))
        await settling.wait()
        receiver.deliver(inbound(lane, 2))
        await until(lambda: bus.subscriptions[0].stats.acked == 2)
        broker.open_error = Unavailable("down")
        receiver.die(Unavailable("dead"))
        await until(lambda: receiver.closed)
        loop = asyncio.get_running_loop()
        begun = loop.time()
        await bus.close(drain=8)
        assert loop.time() - begun < 3

    run(main)


def test_a_handler_that_ignores_its_cancellation_does_not_keep_the_bus_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("anybroker.engine.pump._CANCEL_GRACE", 0.1, raising=False)

    async def main() -> None:
        broker = ScriptedBroker()
        bus = bus_of(broker)
        begun, go, ended = asyncio.Event(), asyncio.Event(), asyncio.Event()

        @bus.subscribe("topic", group="group")
        async def handle(event: Event[Any]) -> None:
            begun.set()
            while not go.is_set():
                try:
                    await go.wait()
                except asyncio.CancelledError:
                    pass
            ended.set()

        await bus.start()
        lane = broker.receiver.assign("a")
        broker.receiver.deliver(inbound(lane, 1))
        await begun.wait()
        try:
            async with asyncio.timeout(3):
                await bus.close(drain=0)
        finally:
            go.set()
        await ended.wait()
        await asyncio.sleep(0)
        assert broker.receiver.position(lane) in (None, 1)

    run(main)


def test_a_cancelled_stop_leaves_the_group_all_the_same() -> None:
    async def main() -> None:
        broker = ScriptedBroker()
        bus = bus_of(broker)
        begun, ended = asyncio.Event(), asyncio.Event()

        @bus.subscribe("topic", group="group")
        async def handle(event: Event[Any]) -> None:
            begun.set()
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()

        async with bus:
            lane = broker.receiver.assign("a")
            broker.receiver.deliver(inbound(lane, 1))
            await begun.wait()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await bus.subscriptions[0].stop()
            await until(lambda: broker.receiver.closed and ended.is_set(), "the receiver is closed")

    run(main)


def test_close_waits_for_a_stop_that_is_under_way() -> None:
    async def main() -> None:
        broker = ScriptedBroker()
        bus = bus_of(broker)
        begun, go, order = asyncio.Event(), asyncio.Event(), []

        @bus.subscribe("topic", group="group")
        async def handle(event: Event[Any]) -> None:
            begun.set()
            await go.wait()
            await bus.publish("next", 1, type="t")
            order.append("handled")

        await bus.start()
        lane = broker.receiver.assign("a")
        broker.receiver.deliver(inbound(lane, 1))
        await begun.wait()
        stopping = asyncio.create_task(bus.subscriptions[0].stop())
        await until(lambda: broker.receiver.stopped)
        closing = asyncio.create_task(bus.close())
        for _ in range(20):
            await asyncio.sleep(0)
        go.set()
        await asyncio.gather(stopping, closing)
        assert order == ["handled"]
        assert broker.receiver.position(lane) == 2

    run(main)


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


def test_a_commit_that_failed_during_a_flush_is_made_again() -> None:
    async def main() -> None:
        broker = ScriptedBroker()
        bus = bus_of(broker)
        fail = True
        entered = asyncio.Event()
        go = asyncio.Event()

        async def settle(batch: Sequence[Settlement]) -> Sequence[BrokerError | None]:
            entered.set()
            await go.wait()
            return [Unavailable("for a moment") if fail else None] * len(batch)

        broker.on_settle = settle

        @bus.subscribe("topic", group="group")
        async def handle(event: Event[Any]) -> None:
            pass

        async with bus:
            receiver = broker.receiver
            lane, leaving = receiver.assign("a"), receiver.assign("b")
            receiver.deliver(inbound(lane, 1))
            await entered.wait()
            revoking = asyncio.create_task(receiver.listener.revoked([leaving]))
            await asyncio.sleep(0)
            go.set()
            await revoking
            fail = False
            await until(lambda: receiver.position(lane) == 2, "the commit")

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


def test_a_full_lane_is_left_out_and_comes_back() -> None:
    async def main() -> None:
        broker = ScriptedBroker()
        bus = bus_of(broker)
        go, seen = asyncio.Event(), []

        @bus.subscribe("topic", group="group", max_ahead=4, max_in_flight=2)
        async def handle(event: Event[Any]) -> None:
            if event.id == "1":
                await go.wait()
            seen.append(event.id)

        async with bus:
            receiver = broker.receiver
            full, other = receiver.assign("a"), receiver.assign("b")
            receiver.deliver(*(inbound(full, at, str(at)) for at in range(1, 5)))
            await until(lambda: seen == ["2", "3", "4"])
            await until(lambda: receiver.asked[-1] == [other], "the full lane is left out")
            receiver.deliver(*(inbound(full, at, str(at)) for at in range(5, 8)), inbound(other, 100))
            await until(lambda: "100" in seen)
            assert "5" not in seen
            go.set()
            await until(lambda: receiver.position(full) == 8)

    run(main)


def test_a_lane_whose_lost_lease_waits_behind_another_leaves_nothing_behind() -> None:
    async def main() -> None:
        broker = ScriptedBroker(**PER_MESSAGE, lease_extension=Support.NATIVE)
        bus = bus_of(broker, lease=1)
        go = asyncio.Event()

        @bus.subscribe("topic", group="group")
        async def handle(event: Event[Any]) -> None:
            await go.wait()

        async with bus:
            lane = broker.receiver.assign("a")
            broker.receiver.deliver(inbound(lane, 1), inbound(lane, 2))
            pump = bus.subscriptions[0]._pump
            assert pump is not None
            await until(lambda: pump.buffered == 2)
            broker.on_extend = lambda batch: [LeaseLost("gone") if item.position == 2 else None for item in batch]
            await until(lambda: pump.stats.leases_lost == 1)
            broker.receiver.listener.lost([lane])
            go.set()
            await until(lambda: pump.buffered == 0)
            assert not pump._not_ours

    run(main)
