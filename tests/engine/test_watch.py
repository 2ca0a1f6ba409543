"""What is seen from outside: slow handlers, a blocked event loop, an event that keeps its place, since when."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from anybroker import Bus, Delivery, Event, MemoryBroker, Observer, Retry
from anybroker.engine import watch
from anybroker.engine.observing import Observers

Run = Callable[..., Any]
Until = Callable[[Callable[[], object]], Coroutine[Any, Any, None]]


class Seen(Observer):
    def __init__(self) -> None:
        self.told: list[tuple[str, str | None, float]] = []

    def slow(self, delivery: Delivery, seconds: float) -> None:
        self.told.append(("slow", delivery.handler, seconds))

    def blocked(self, seconds: float, delivery: Delivery | None) -> None:
        self.told.append(("blocked", None if delivery is None else delivery.handler, seconds))


def _bus(handle: Callable[[Event[str]], Coroutine[Any, Any, None]], **options: Any) -> tuple[Bus, Seen]:
    bus, seen = Bus(MemoryBroker(), source="shop", **options), Seen()
    bus.subscription("orders", group="g").on(handle, name="handle")
    bus.observe(seen)
    return bus, seen


def test_a_handler_that_runs_for_longer_than_slow_after_is_told_each_time_that_its_time_has_doubled(
    run: Run, until: Until
) -> None:
    async def main() -> None:
        async def handle(event: Event[str]) -> None:
            if event.data == "slow":
                await until(lambda: len(seen.told) == 3)

        bus, seen = _bus(handle, slow_after=1.0)
        async with bus:
            await bus.publish("orders", "slow", type="t")
            await bus.publish("orders", "quick", type="t")
            await until(lambda: bus.subscriptions[0].stats.acked == 2)
        assert {(what, handler) for what, handler, _ in seen.told} == {("slow", "handle")}
        first, second, third = (seconds for _, _, seconds in seen.told)
        assert first >= 0.5
        assert second >= 1.5
        assert third >= 3.5

    run(main())


def test_a_handler_that_hangs_and_stops_the_fetching_is_a_problem_until_it_ends(
    run: Run, until: Until, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        go = asyncio.Event()

        async def handle(event: Event[str]) -> None:
            if event.data == "hang":
                await go.wait()

        bus = Bus(MemoryBroker(), source="shop", slow_after=1.0)
        subscription = bus.subscription("orders", group="g", max_in_flight=2)
        subscription.on(handle, type="t")
        async with bus:
            await bus.publish("orders", "hang", type="t", key="a")
            for _ in range(3):  # one fewer than are fetched ahead
                await bus.publish("orders", "x", type="t", key="a")
            await until(lambda: (subscription.unfinished_age or 0.0) > 1.0)
            assert bus.problems == {}
            await bus.publish("orders", "x", type="t", key="a")
            await bus.publish("orders", "x", type="t", key="b")
            await until(lambda: bus.problems)
            assert bus.problems["orders/g"].startswith("4 events wait behind handlers that still run, and no more")
            assert subscription.stats.acked == 0
            assert bus.health().ready  # as where a lane waits behind a failing event
            go.set()
            await until(lambda: subscription.stats.acked == 6)
            await until(lambda: not bus.problems)

    run(main())
    said = [record.getMessage() for record in caplog.records if record.name == "anybroker.broker"]
    assert len(said) == 1
    assert "@timeout()" in said[0]


def test_half_the_lease_is_slow_by_default() -> None:
    bus = Bus(MemoryBroker(), source="shop", lease=8.0)
    assert bus.subscription("orders", group="g").slow_after == 4.0


def test_a_blocked_loop_is_logged_while_it_is_blocked_with_the_handler_and_its_line(
    run: Run, until: Until, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async def handle(_: Event[str]) -> None:
            time.sleep(2.9)  # noqa: ASYNC251 - it is to block
            logging.getLogger("test").warning("the handler has ended")

        bus, seen = _bus(handle)
        async with bus:
            await bus.publish("orders", "x", type="t", id="e-1")
            await until(lambda: bus.subscriptions[0].stats.acked == 1)
            await until(lambda: seen.told)
        ((what, handler, seconds),) = seen.told
        assert (what, handler) == ("blocked", "handle")
        assert 1.0 <= seconds <= 9.0

    run(main())
    lines = [record.getMessage() for record in caplog.records if record.name in ("anybroker.loop", "test")]
    assert "by the handler handle of orders/g, with the event 'e-1' of type 't'" in lines[0]
    assert "test_watch.py" in lines[0]
    assert lines[1] == "the handler has ended"
    assert lines[2].startswith("the event loop goes on after ")


def test_a_loop_that_stays_blocked_is_said_again_and_each_record_has_the_facts(
    run: Run, until: Until, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When it lasts ten times as long; a later block begins anew."""
    monkeypatch.setattr(watch, "BLOCKED", 0.2)
    monkeypatch.setattr(watch, "_BEAT", 0.05)

    async def main() -> None:
        async def handle(event: Event[str]) -> None:
            time.sleep(3.0 if event.id == "long" else 0.4)  # noqa: ASYNC251 - it is to block

        bus, seen = _bus(handle)
        async with bus:
            await bus.publish("orders", "x", type="t", id="long")
            await until(lambda: len(seen.told) == 1)
            await bus.publish("orders", "x", type="t", id="short")
            await until(lambda: len(seen.told) == 2)

    run(main())
    records = [record for record in caplog.records if "has been blocked" in record.getMessage()]
    assert [record.event_id for record in records] == ["long", "long", "short"]  # type: ignore[attr-defined]
    seconds = [float(record.getMessage().split(" for ")[1].split(" s")[0]) for record in records]
    assert seconds[1] >= 9 * seconds[0]
    assert seconds[2] < 1.0


def test_a_loop_that_was_stopped_or_closed_is_not_blocked(caplog: pytest.LogCaptureFixture) -> None:
    """A program that leaves its Bus open and goes on without the event loop is not told so for ever."""

    async def handle(_: Event[str]) -> None: ...

    bus, seen = _bus(handle)
    before = threading.enumerate()
    with asyncio.Runner() as runner:
        runner.run(bus.start())
        guards = [each for each in threading.enumerate() if each not in before and each.name == "anybroker guard"]
        assert len(guards) == 1
        time.sleep(1.6)
        runner.run(asyncio.sleep(0.6))
    assert seen.told == []
    for thread in guards:
        thread.join(2.0)
    assert not any(thread.is_alive() for thread in guards)
    assert "blocked" not in caplog.text


def test_a_loop_that_is_blocked_by_something_else_names_no_handler(
    run: Run, until: Until, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async def handle(_: Event[str]) -> None: ...

        bus, seen = _bus(handle)
        async with bus:
            time.sleep(2.9)  # noqa: ASYNC251 - it is to block
            await until(lambda: seen.told)
        assert [(what, handler) for what, handler, _ in seen.told] == [("blocked", None)]

    run(main())
    assert "not by a handler" in caplog.text


def test_an_event_that_keeps_its_place_ages_and_one_that_is_finished_does_not(run: Run, until: Until) -> None:
    async def main() -> None:
        async def handle(event: Event[str]) -> None:
            if event.data == "bad":
                raise Retry(after=600.0)

        bus, _ = _bus(handle)
        subscription = bus.subscriptions[0]
        async with bus:
            for number in range(20):
                await bus.publish("orders", "good", type="t", key=str(number))
            await until(lambda: subscription.stats.acked == 20)
            await asyncio.sleep(1.2)
            assert subscription.unfinished_age is None
            await bus.publish("orders", "bad", type="t", key="a")  # the next start is in a minute
            await until(lambda: (subscription.unfinished_age or 0) > 1.5)
        assert subscription.state == "stopped"

    run(main())


def test_since_when_there_is_a_problem(run: Run, until: Until) -> None:
    class Broken:
        name = "relay"
        problem: str | None = None

        async def start(self) -> None: ...

        async def stop(self, _drain: float, /) -> None: ...

    async def main() -> None:
        async def handle(_: Event[str]) -> None: ...

        bus, _ = _bus(handle)
        part = Broken()
        bus.add(part)
        async with bus:
            await asyncio.sleep(0)
            assert bus.problems_since == {}
            part.problem = "it is away"
            began = time.time()
            await until(lambda: bus.problems_since)
            assert 0 <= bus.problems_since["relay"] - began <= 3.0
            part.problem = None
            await until(lambda: not bus.problems_since)

    run(main())


def test_what_makes_the_bus_unready_is_said_once_and_its_end_too(
    run: Run, until: Until, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What comes and goes all the time does not fill the log; something else that is away is said all the same."""
    monkeypatch.setattr(watch, "_EVERY", 0.02)
    caplog.set_level(logging.INFO, "anybroker.health")
    away: dict[str, str] = {}

    async def main() -> None:
        watching = watch.Watch(lambda: (), lambda: away, lambda: away, Observers([]), lambda: None)
        watching.start()

        async def shown(*names: str) -> None:
            away.clear()
            away.update(dict.fromkeys(names, "gone"))
            await until(lambda: set(watching.since) == set(names))

        for names in (("orders/g",), (), ("orders/g",), (), ("orders/g", "publish"), ()):
            await shown(*names)
        watching.stop()

    run(main())
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("WARNING", "orders/g: not ready: gone"),
        ("INFO", "orders/g: ready again, after 0 s"),
        ("WARNING", "publish: not ready: gone"),
        ("INFO", "publish: ready again, after 0 s"),
    ]


def test_what_waits_for_its_batch_is_not_slow_and_a_batch_may_be(run: Run, until: Until) -> None:
    async def main() -> None:
        bus, seen = Bus(MemoryBroker(), source="shop", slow_after=1.0), Seen()
        bus.observe(seen)
        waits, begun = 0.0, asyncio.Event()

        async def handle(events: list[Event[str]]) -> None:
            begun.set()
            await asyncio.sleep(waits)

        bus.subscription("orders", group="g").on(handle, name="handle", batch=9, within=2.8)
        async with bus:
            await bus.publish("orders", "one", type="t")
            await until(begun.is_set)
            assert seen.told == []
            waits = 2.4
            await bus.publish("orders", "two", type="t")
            await until(lambda: bus.subscriptions[0].stats.acked == 2)
        assert {what for what, _, _ in seen.told} == {"slow"}

    run(main())
