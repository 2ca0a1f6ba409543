"""One start of a handler in the engine: how many run at once, when the held ones start, what a stall says."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from typing import Any

import pytest
from tests.engine.scripted_adapter import ScriptedBroker, bus_of, inbound, run, until

from anybroker import Bus, Event
from anybroker.capabilities import Acknowledgement
from anybroker.middleware import retry

PER_MESSAGE: dict[str, Any] = {"acknowledgement": Acknowledgement.PER_MESSAGE}


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with Python 3.12")
@pytest.mark.skipif(os.environ.get("ANYBROKER_TEST_LOOP") == "uvloop", reason="uvloop has no eager tasks of its own")
@pytest.mark.parametrize("max_in_flight", [1, 3])
def test_eager_tasks_do_not_run_more_handlers_at_once(max_in_flight: int) -> None:
    async def main() -> None:
        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined,unused-ignore] # 3.12
        broker = ScriptedBroker(**PER_MESSAGE)
        bus = Bus(broker, source="test", idempotency="memory://")
        running = most = ended = 0

        @bus.subscribe("topic", group="group", max_in_flight=max_in_flight)
        async def handle(event: Event[Any]) -> None:
            nonlocal running, most, ended
            running += 1
            most = max(most, running)
            await asyncio.sleep(0.001)
            running -= 1
            ended += 1

        async with asyncio.timeout(20), bus:
            lane = broker.receiver.assign("a")
            broker.receiver.deliver(*(inbound(lane, at, f"k{at}") for at in range(20)))
            await until(lambda: ended == 20)
        assert most == max_in_flight

    asyncio.run(main())


def test_a_delayed_event_never_starts_early_by_the_wall_clock() -> None:
    async def main() -> None:
        broker = ScriptedBroker(**PER_MESSAGE)
        bus = Bus(broker, source="test", idempotency="memory://")
        early: list[float] = []
        ended = 0

        @bus.subscribe("topic", group="group")
        async def handle(event: Event[Any]) -> None:
            nonlocal ended
            ended += 1
            if (ahead := moments[event.id] - time.time()) > 0:
                early.append(ahead)

        async with asyncio.timeout(20), bus:
            lane = broker.receiver.assign("a")
            now = time.time()
            moments = {str(at): now + 0.05 + at * 0.0005 for at in range(200)}
            broker.receiver.deliver(*(inbound(lane, at, None, not_before=moments[str(at)]) for at in range(200)))
            await until(lambda: ended == 200)
        assert early == []

    asyncio.run(main())


def test_an_event_that_was_delayed_while_the_clock_was_wrong_starts_when_it_is_right(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def main() -> None:
        offset = -7200.0  # two hours back
        real = time.time
        monkeypatch.setattr("anybroker.engine.intake.time.time", lambda: real() + offset)
        monkeypatch.setattr("anybroker.engine.lanes.LOOK_AGAIN", 0.05)
        broker = ScriptedBroker(**PER_MESSAGE)
        bus = Bus(broker, source="test", idempotency="memory://")
        seen: list[str] = []

        @bus.subscribe("topic", group="group")
        async def handle(event: Event[Any]) -> None:
            seen.append(event.id)

        async with asyncio.timeout(20), bus:
            lane = broker.receiver.assign("a")
            broker.receiver.deliver(inbound(lane, 1, "a", not_before=real() + 0.1), inbound(lane, 2, "a"))
            await until(lambda: seen == ["2"], "the one that is due")
            await asyncio.sleep(0.3)
            assert seen == ["2"]
            offset = 0.0
            await until(lambda: seen == ["2", "1"], "the other, when the clock is right")

    asyncio.run(main())


@pytest.mark.parametrize("cumulative", [True, False])
def test_a_stall_behind_one_failing_key_is_said_and_counted(cumulative: bool, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        broker = ScriptedBroker(**({} if cumulative else PER_MESSAGE))
        bus = Bus(broker, source="test", idempotency="memory://")
        seen: list[str] = []
        fixed = False

        @bus.subscribe("topic", group="group", max_ahead=20, middleware=[retry(attempts=1000, first=0.02, cap=0.02)])
        async def handle(event: Event[Any]) -> None:
            if event.key == "bad" and not fixed:
                raise ValueError("no")
            seen.append(event.id)

        async with asyncio.timeout(20), bus:
            lane = broker.receiver.assign("a")
            bad = [inbound(lane, at, "bad") for at in range(20)]
            broker.receiver.deliver(*bad, *(inbound(lane, at, f"k{at}") for at in range(20, 40)))
            await until(lambda: bool(bus.problems), "the problem")
            (problem,) = bus.problems.values()
            assert "max_ahead=20 is reached" in problem
            assert "the key with hash" in problem
            assert "bad" not in problem
            assert bus.subscriptions[0].stats.stalled == 1
            fixed = True
            await until(lambda: len(seen) == 40, "everything else")
            await until(lambda: bus.problems == {}, "it is well again")

    asyncio.run(main())
    assert "max_ahead=20 is reached" in caplog.text


def test_slow_handlers_are_not_a_stall() -> None:
    async def main() -> None:
        broker = ScriptedBroker()
        bus = Bus(broker, source="test", idempotency="memory://")
        free = asyncio.Event()

        @bus.subscribe("topic", group="group", max_ahead=5)
        async def handle(event: Event[Any]) -> None:
            await free.wait()

        async with asyncio.timeout(20), bus:
            lane = broker.receiver.assign("a")
            broker.receiver.deliver(*(inbound(lane, at, "k") for at in range(20)))
            await until(lambda: bus.subscriptions[0].buffered >= 5)
            await asyncio.sleep(0.5)
            assert bus.problems == {}
            free.set()

    asyncio.run(main())


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


@pytest.mark.parametrize("way", ["lost", "handled"])
def test_a_lane_of_which_the_broker_hands_over_no_more_is_said(way: str) -> None:
    async def main() -> None:
        broker = ScriptedBroker(**PER_MESSAGE)
        broker.window = 2
        bus = bus_of(broker)
        fails = True

        @bus.subscribe("topic", group="group", middleware=[retry(first=0.3, cap=0.3, attempts=100)])
        async def handle(event: Event[Any]) -> None:
            if fails and event.id == "1":
                raise ValueError("no")

        async with bus:
            (subscription,) = bus.subscriptions
            receiver = broker.receiver
            lane, other = receiver.assign("a"), receiver.assign("b")
            receiver.deliver(inbound(other, 9, "other"))
            receiver.deliver(inbound(lane, 1), inbound(lane, 2))
            await until(lambda: receiver.deliver() or bool(bus.problems))
            problem = bus.problems["topic/group"]
            assert "2 events of a lane are out" in problem
            assert "the lane a waits behind a failing event" in problem
            assert subscription.stats.stalled == 1
            if way == "lost":
                receiver.listener.lost([lane])
            else:
                fails = False
            await until(lambda: receiver.deliver() or bus.problems == {})
            assert subscription.stats.stalled == 1

    run(main)
