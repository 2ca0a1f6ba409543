"""``bus.health()``: what it says of a Bus in each state, in any thread, and what publishing that fails is called."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Coroutine
from dataclasses import FrozenInstanceError
from typing import Any

import pytest

from anybroker import Backlog, Bus, Event, MemoryBroker, Observer, Reject
from anybroker.engine import lag, trouble
from anybroker.engine.trouble import Progressing, Trouble, sentence
from anybroker.errors import EventTooLarge, Rejected, Unavailable
from anybroker.middleware import dead_letter
from anybroker.middleware.layer import Chain, Handler, Layer
from anybroker.observe import Health
from anybroker.testing import FaultyBroker, fail

Run = Callable[..., Any]
Until = Callable[[Callable[[], object]], Coroutine[Any, Any, None]]


def handled(bus: Bus, fails: Exception | None = None, **options: Any) -> None:
    @bus.subscribe("orders", group="g", **options)
    async def handle(_: Event[Any]) -> None:
        if fails is not None:
            raise fails


class Part:
    name = "relay"
    problem: str | None = None

    async def start(self) -> None: ...

    async def stop(self, drain: float, /) -> None: ...


def test_the_states_of_a_bus(bus: Bus, run: Run) -> None:
    handled(bus)
    seen: list[tuple[str, bool, bool]] = []

    def look() -> None:
        health = bus.health()
        seen.append((health.state, health.live, health.ready))

    class Looks(Part):
        async def start(self) -> None:
            look()

        async def stop(self, drain: float, /) -> None:
            look()

    async def main() -> None:
        look()
        async with bus:
            look()
        look()

    bus.add(Looks())
    run(main())
    assert seen == [
        ("new", True, False),
        ("starting", True, False),
        ("started", True, True),
        ("closing", True, False),
        ("closed", False, False),
    ]
    assert bus.health().why == ("the Bus is closed",)


def test_since_is_the_last_change_of_state(bus: Bus, run: Run) -> None:
    async def main() -> None:
        made = bus.health().since
        async with bus:
            assert made <= bus.health().since <= time.time()

    run(main())


def test_a_start_that_fails_leaves_it_dead(run: Run) -> None:
    bus = Bus(FaultyBroker(MemoryBroker(), fail("connect")), source="shop")

    async def main() -> None:
        with pytest.raises(Unavailable):
            await bus.start()

    run(main())
    assert not bus.health().live


def test_it_is_data(bus: Bus, run: Run) -> None:
    handled(bus)

    async def main() -> Health:
        async with bus:
            return bus.health()

    health = run(main())
    with pytest.raises(FrozenInstanceError):
        health.live = False
    as_dict = json.loads(health.as_json())
    assert as_dict == health.as_dict()
    assert (as_dict["live"], as_dict["ready"], as_dict["state"], as_dict["problems"]) == (True, True, "started", {})
    assert as_dict["since"].endswith("Z")
    (subscription,) = as_dict["subscriptions"]
    assert subscription == {
        "topic": "orders",
        "group": "g",
        "state": "running",
        "ready": True,
        "problem": None,
        "since": None,
        "lag": None,
        "unfinished_age": None,
        "running": 0,
        "buffered": 0,
        "held_lanes": subscription["held_lanes"],
    }


def test_a_bus_that_only_publishes_is_ready_without_its_subscriptions(run: Run) -> None:
    bus = Bus(MemoryBroker(), source="shop", consume=False)
    handled(bus)

    async def main() -> None:
        async with bus:
            assert bus.health().ready

    run(main())


def test_a_subscription_that_was_stopped_on_purpose_does_not_matter(bus: Bus, run: Run) -> None:
    handled(bus)

    async def main() -> None:
        async with bus:
            await bus.subscriptions[0].stop()
            health = bus.health()
            assert (health.ready, health.subscriptions[0].state) == (True, "stopped")
            bus.subscriptions[0].pause()
            await bus.subscriptions[0].start()
            health = bus.health()
            assert (health.ready, health.subscriptions[0].state) == (True, "paused")

    run(main())


def test_the_problem_of_a_part_is_told_and_leaves_the_bus_ready(bus: Bus, run: Run) -> None:
    part = Part()
    bus.add(part)

    async def main() -> None:
        async with bus:
            part.problem = "the table is missing"
            health = bus.health()
            assert health.ready
            assert health.problems["relay"].what == "the table is missing"
            assert not health.problems["relay"].unready

    run(main())


def test_a_part_that_fails_at_saying_how_it_is_fails_alone(bus: Bus) -> None:
    class Breaks(Part):
        broken = False

        @property
        def problem(self) -> str | None:  # type: ignore[override]
            if self.broken:
                raise ZeroDivisionError("a bug")
            return None

    part = bus.add(Breaks()).part
    part.broken = True
    assert "a bug" in bus.health().problems["relay"].what


def test_problems_have_the_time_at_which_they_were_first_seen(bus: Bus, run: Run, until: Until) -> None:
    part = Part()
    bus.add(part)

    async def main() -> None:
        async with bus:
            part.problem = "it is away"
            began = time.time()
            assert bus.health().problems["relay"].since is None
            await until(lambda: bus.health().problems["relay"].since is not None)
            assert began - 1 <= (bus.health().problems["relay"].since or 0.0) <= time.time()

    run(main())


@pytest.mark.parametrize("unavailable", [False, True])
def test_a_layer_says_whether_its_problem_matters_for_all(run: Run, until: Until, unavailable: bool) -> None:
    class Breaker(Layer):
        kind = "breaker"
        after = "retry"

        def bind(self, call_next: Handler, chain: Chain) -> Handler:
            async def run(delivery: Any) -> None:
                chain.problem("the circuit is open", unavailable=unavailable)
                await call_next(delivery)

            return run

    bus = Bus(MemoryBroker(), source="shop")
    handled(bus, middleware=[Breaker()])

    async def main() -> None:
        async with bus:
            await bus.publish("orders", 1, type="t")
            await until(lambda: bus.problems)
            health = bus.health()
            assert health.ready is not unavailable
            assert health.subscriptions[0].ready is not unavailable
            assert health.why == (("orders/g: the circuit is open",) if unavailable else ())

    run(main())


def test_a_handler_that_fails_without_dead_letters_leaves_the_bus_ready(run: Run, until: Until) -> None:
    bus = Bus(MemoryBroker(), source="shop", middleware=[dead_letter(enabled=False)])
    handled(bus, OSError("no"))

    async def main() -> None:
        async with bus:
            await bus.publish("orders", 1, type="t")
            await until(lambda: bus.problems)
            assert bus.health().ready

    run(main())


@pytest.mark.parametrize(
    ("error", "ready"),
    [(Rejected("full"), False), (EventTooLarge("too large", size=2, limit=1), True)],
    ids=["refused", "no letter has room for it"],
)
def test_a_dead_letter_that_cannot_be_sent(run: Run, until: Until, error: Rejected, ready: bool) -> None:
    refuse = fail("publish", error, when=lambda outbound: outbound.topic.endswith(".dlq"))
    bus = Bus(FaultyBroker(MemoryBroker(), refuse), source="shop")
    handled(bus, Reject("poison"))

    async def main() -> None:
        async with bus:
            await bus.publish("orders", 1, type="t")
            await until(lambda: bus.problems)
            assert bus.health().ready is ready

    run(main())


def test_a_member_without_lanes_is_ready_after_a_while(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    bus = Bus(MemoryBroker(), source="shop")
    handled(bus)

    async def main() -> None:
        async with bus:
            session = bus.subscriptions[0]._pump._session  # type: ignore[union-attr]
            session._had_lane = False
            health = bus.health()
            assert not health.ready
            assert health.why == ("orders/g: it has not joined its group yet",)
            session._opened -= 11.0
            assert bus.health().ready

    run(main())


def test_the_lag_is_what_the_broker_said_last(run: Run, until: Until, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lag, "EVERY", 0.01)

    class WantsLag(Observer):
        def lag(self, topic: str, group: str, backlog: Backlog) -> None: ...

    bus = Bus(MemoryBroker(), source="shop")
    handled(bus)
    bus.observe(WantsLag())

    async def main() -> None:
        async with bus:
            bus.subscriptions[0].pause()
            for number in range(3):
                await bus.publish("orders", number, type="t")

            def known() -> bool:
                told = bus.health().subscriptions[0].lag
                return told is not None and told.events == 3

            await until(known)
            bus.subscriptions[0].resume()

    run(main())


def test_it_may_be_called_in_any_thread_while_everything_changes(run: Run) -> None:
    bus = Bus(MemoryBroker(), source="shop")
    for number in range(20):
        bus.subscription(f"orders{number}", group="g").on(_nothing, name="handle")
    seen: list[Health] = []
    ended = threading.Event()

    def look() -> None:
        while not ended.is_set():
            seen.append(bus.health())

    async def main() -> None:
        looking = [threading.Thread(target=look) for _ in range(3)]
        for thread in looking:
            thread.start()
        for _ in range(3):
            async with bus:
                await asyncio.gather(*(bus.publish(f"orders{n % 20}", n, type="t", key=str(n)) for n in range(200)))
        ended.set()
        for thread in looking:
            thread.join()

    run(main())
    assert len(seen) > 10
    assert {why for health in seen for why in health.why if "could not be looked at" in why} == set()


async def _nothing(_: Event[Any]) -> None: ...


def test_what_cannot_be_looked_at_is_told_and_not_raised(bus: Bus, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    handled(bus)

    async def main() -> None:
        async with bus:
            for error in (RuntimeError("changed"), ZeroDivisionError("a bug")):

                def broken(_: object, error: Exception = error) -> int:
                    raise error

                monkeypatch.setattr(type(bus.subscriptions[0]), "buffered", property(broken))
                health = bus.health()
                assert (health.live, health.ready) == (True, False)
                assert "could not be looked at" in health.why[0]

    run(main())


def test_a_subscription_that_died_of_a_defect_is_not_live(bus: Bus, run: Run, until: Until) -> None:
    handled(bus)

    async def main() -> None:
        async with bus:
            pump = bus.subscriptions[0]._pump
            assert pump is not None

            def broken() -> int:
                raise ZeroDivisionError("a bug")

            pump._room = broken  # type: ignore[method-assign]
            await bus.publish("orders", 1, type="t")
            await until(lambda: not bus.health().live)
            assert not bus.health().ready
            assert "fetching stopped" in bus.health().problems["orders/g"].what

    run(main())


# --------------------------------------------------------------------------------------------------------- publishing


def test_publishing_that_died_of_a_defect_is_not_live(bus: Bus, run: Run, until: Until) -> None:
    async def main() -> None:
        async with bus:
            publisher = bus._core.publisher
            assert publisher is not None
            publisher._task.cancel()
            await until(lambda: not bus.health().live)

    run(main())


def test_a_topic_is_a_problem_once_it_has_failed_for_some_seconds() -> None:
    topic = Trouble()
    assert not topic.lasts(100.0, True)
    topic.failed("away", 100.0, 100.0)
    assert not topic.lasts(104.0, True)
    assert topic.lasts(105.0, True)
    assert not topic.lasts(105.0, False), "one failure, and nothing waits"
    topic.failed("away", 105.0, 105.0)
    assert topic.lasts(105.0, False)
    assert topic.lasts(165.0, False)
    assert not topic.lasts(165.1, False), "nobody has published there for a minute"
    topic.over()
    assert not topic.lasts(105.0, True)


def test_nothing_confirmed_for_some_seconds_is_a_problem() -> None:
    progressing = Progressing()

    def looks(published: int, in_flight: int, count: int) -> list[bool]:
        said = []
        for _ in range(count):
            progressing.look(published, in_flight)
            said.append(progressing.stands_still(published, in_flight))
        return said

    assert looks(0, 1, 7) == [False] * 5 + [True] * 2
    assert not progressing.stands_still(1, 1), "one was confirmed since the last look"
    assert not progressing.stands_still(0, 0), "nothing is in flight since the last look"
    assert looks(1, 1, 6) == [False] * 5 + [True]
    assert looks(1, 0, 1) == [False], "nothing is in flight"


def test_many_topics_are_named_in_part() -> None:
    troubles = {f"t{number}": Trouble() for number in range(5)}
    for each in troubles.values():
        each.failed("a\nway", 0.0, 0.0)
    said = sentence(troubles)
    assert said.startswith("the topic 't0' accepts no events: a way; the topic 't1'")
    assert said.endswith("; and 2 more topics")


def test_a_publish_that_missed_its_deadline_unconfirmed_is_a_problem_until_one_succeeds(
    run: Run, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trouble, "AWAY_AFTER", 0.3)
    from anybroker.testing import delay

    broker = FaultyBroker(MemoryBroker(), delay("publish", 30.0))
    bus = Bus(broker, source="shop", consume=False, publish_deadline=0.5)

    async def main() -> None:
        async with bus:
            bus.topic("orders")
            with pytest.raises(Exception, match="deadline"):
                await bus.publish("orders", 1, type="t")
            await until(lambda: "publish" in bus.health().problems)
            assert not bus.health().ready
            assert bus.health().live
            assert "'orders'" in bus.problems["publish"]

    run(main())


def test_failing_and_recovering_topics(run: Run, until: Until, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trouble, "AWAY_AFTER", 0.5)
    broker = FaultyBroker(
        MemoryBroker(), fail("publish", Unavailable("no"), when=lambda outbound: outbound.topic == "bad")
    )
    bus = Bus(broker, source="shop", consume=False, publish_deadline=0.8)

    async def main() -> None:
        async with bus:
            with pytest.raises(Unavailable):
                await bus.publish("bad", 1, type="t")
            await until(lambda: not bus.health().ready)
            await bus.publish("good", 1, type="t")
            await asyncio.sleep(1.1)
            assert "'bad'" in bus.problems["publish"], "another topic says nothing about it"
            broker.faults.clear()
            await bus.publish("bad", 2, type="t")
            await until(lambda: bus.health().ready)
            assert bus.problems == {}

    run(main())


def test_a_topic_that_nobody_publishes_to_any_more_is_forgotten(
    run: Run, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trouble, "AWAY_AFTER", 0.3)
    monkeypatch.setattr(trouble, "FORGET_AFTER", 2.0)
    bus = Bus(FaultyBroker(MemoryBroker(), fail("publish")), source="shop", consume=False, publish_deadline=0.5)

    async def main() -> None:
        async with bus:
            with pytest.raises(Unavailable):
                await bus.publish("orders", 1, type="t")
            await until(lambda: not bus.health().ready)
            await until(lambda: bus.health().ready)

    run(main())
