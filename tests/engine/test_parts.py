"""``bus.add(part)``: what lives and dies with a Bus, in which order, and what becomes of failures."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextvars import copy_context
from typing import Any

import pytest

from anybroker import Bus, Event, MemoryBroker, Part
from anybroker.errors import ConfigError, StateError, Unavailable
from anybroker.testing import settled

Run = Callable[..., Any]
Until = Callable[[Callable[[], object]], Coroutine[Any, Any, None]]


class Relay:
    """A third party's part: publishes when it starts and when it stops, and notes the order of what happens."""

    def __init__(self, name: str, bus: Bus, log: list[str], fails: str = "") -> None:
        self.name = name
        self.problem: str | None = None
        self._bus = bus
        self._log = log
        self._fails = fails

    async def start(self) -> None:
        if self._fails == "start":
            raise Unavailable("the database does not answer")
        self._log.append(f"{self.name} starts")
        await self._bus.publish("orders", f"{self.name} is there", type="t")

    async def stop(self, drain: float, /) -> None:
        await self._bus.publish("orders", f"{self.name} goes", type="t")
        self._log.append(f"{self.name} stops")
        if self._fails == "stop":
            raise ZeroDivisionError("a bug")


def listening(bus: Bus, log: list[str]) -> None:
    @bus.subscribe("orders", group="log", ordered=False)
    async def handle(event: Event[str]) -> None:
        log.append(f"received: {event.data}")


def test_parts_start_in_order_and_stop_in_reverse_and_can_publish_throughout(bus: Bus, run: Run) -> None:
    log: list[str] = []
    assert isinstance(Relay("a", bus, log), Part)
    bus.topic("orders")
    bus.add(Relay("a", bus, log))
    bus.add(Relay("b", bus, log))

    async def main() -> None:
        for _ in range(2):  # a Bus that starts again starts its parts again
            async with bus:
                assert log == ["a starts", "b starts"]
            assert log == ["a starts", "b starts", "b stops", "a stops"]
            log.clear()

    run(main())
    assert bus.stats.published == 8


def test_subscriptions_start_after_the_parts_and_stop_before_them(run: Run, until: Until) -> None:
    broker = MemoryBroker()
    bus = Bus(broker, source="shop")
    log: list[str] = []
    listening(bus, log)
    bus.add(Relay("a", bus, log))

    async def main() -> None:
        async with bus:
            assert log[0] == "a starts"
            await until(lambda: len(log) == 2)
            assert log[1] == "received: a is there"
        assert log[2:] == ["a stops"]  # what it published in stop() waits for the group

    run(main())


def test_a_part_that_does_not_start_closes_what_was_started(bus: Bus, run: Run) -> None:
    log: list[str] = []
    bus.add(Relay("a", bus, log))
    bus.add(Relay("b", bus, log, fails="start"))

    async def main() -> None:
        with pytest.raises(Unavailable, match="the database does not answer"):
            await bus.start()

    run(main())
    assert log == ["a starts", "a stops"]


def test_a_part_that_fails_to_stop_is_logged_and_the_rest_is_closed(
    bus: Bus, run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    log: list[str] = []
    bus.add(Relay("a", bus, log))
    bus.add(Relay("b", bus, log, fails="stop"))

    async def main() -> None:
        async with bus:
            pass

    run(main())
    assert log[-2:] == ["b stops", "a stops"]
    assert "part b: stopping failed" in caplog.text


def test_a_part_that_hangs_in_stop_does_not_keep_the_bus_open(
    bus: Bus, run: Run, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Hangs(Relay):
        async def stop(self, drain: float, /) -> None:
            await asyncio.Event().wait()

    monkeypatch.setattr("anybroker.engine.parts._STOP_GRACE", 0.05)
    bus.add(Hangs("a", bus, []))

    async def main() -> None:
        await bus.start()
        async with asyncio.timeout(5):
            await bus.close(drain=0)

    run(main())
    assert "part a: stopping took more than" in caplog.text


def test_a_part_is_added_to_a_running_bus(bus: Bus, run: Run) -> None:
    log: list[str] = []

    async def main() -> None:
        async with bus:
            relay = await bus.add(Relay("late", bus, log))
            assert log == ["late starts"]
            assert relay.name == "late"
        assert log == ["late starts", "late stops"]

    run(main())


@pytest.mark.parametrize("awaited", [True, False])
def test_a_late_part_that_does_not_start_is_a_problem_and_not_in_the_bus(
    bus: Bus, run: Run, until: Until, awaited: bool, caplog: pytest.LogCaptureFixture
) -> None:
    log: list[str] = []

    async def main() -> None:
        async with bus:
            added = bus.add(Relay("late", bus, log, fails="start"))
            if awaited:
                with pytest.raises(Unavailable):
                    await added
            else:
                await until(lambda: bus.problems)
            assert "did not start" in bus.problems["late"]
            await bus.add(Relay("late", bus, log))  # its name is free
            assert not bus.problems, "it works now"
        assert log == ["late starts", "late stops"]
        async with bus:
            assert not bus.problems

    run(main())
    assert "late did not start in the running Bus" in caplog.text


def test_a_late_start_under_way_is_cancelled_at_close(bus: Bus, run: Run) -> None:
    ended: list[str] = []

    class Slow(Relay):
        async def start(self) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                ended.append("cancelled")

    async def main() -> None:
        async with bus:
            bus.add(Slow("slow", bus, ended))
            await asyncio.sleep(0)
        assert ended == ["cancelled"]

    run(main())


def test_the_problem_of_a_part_is_one_of_the_bus(bus: Bus, run: Run) -> None:
    relay = Relay("relay", bus, [])
    bus.add(relay)

    async def main() -> None:
        async with bus:
            assert bus.problems == {}
            relay.problem = "the table is\nmissing"
            assert bus.problems == {"relay": "the table is missing"}

    run(main())


def test_what_cannot_be_added_is_refused(bus: Bus, run: Run) -> None:
    bus.add(Relay("a", bus, []))
    with pytest.raises(ConfigError, match="has the name of another part"):
        bus.add(Relay("a", bus, []))
    with pytest.raises(ConfigError, match="str is not a Part"):
        bus.add("relay")  # type: ignore[type-var]

    other = Bus(MemoryBroker(), source="other")
    subscription = other.subscription("orders", group="billing")
    with pytest.raises(ConfigError, match="belongs to another Bus"):
        bus.add(subscription)

    class AddsInStart(Relay):
        async def start(self) -> None:
            self._bus.add(Relay("inner", self._bus, []))

    bus.add(AddsInStart("outer", bus, []))

    async def main() -> None:
        with pytest.raises(StateError, match="the Bus is starting"):
            await bus.start()

    run(main())


def test_a_subscription_that_cannot_start_late_says_why(bus: Bus, run: Run) -> None:
    async def main() -> None:
        async with bus:
            subscription = bus.subscription("orders", group="late")
            with pytest.raises(ConfigError, match="has no handler"):
                await bus.add(subscription)
            with pytest.raises(StateError, match=r"await bus\.add"):
                bus.subscribe("orders", group="other")

    run(main())


def test_one_unfinished_subscription_does_not_keep_others_out(bus: Bus, run: Run) -> None:
    log: list[str] = []

    async def main() -> None:
        async with bus:
            bus.subscription("orders", group="unfinished")
            late = bus.subscription("orders", group="late")

            @late.on
            async def handle(event: Event[str]) -> None:
                log.append(event.data)

            assert "await bus.add(subscription)" in bus.problems["orders/late"]
            await bus.add(late)
            assert list(bus.problems) == ["orders/unfinished"]
            await bus.publish("orders", "1", type="t")
            await settled(bus)
        async with bus:  # nor does one whose add failed keep the Bus from starting again
            await bus.publish("orders", "2", type="t")
            await settled(bus)

    run(main())
    assert log == ["1", "2"]


def test_a_part_that_raises_at_the_call_is_refused_before(bus: Bus) -> None:
    class Plain(Relay):
        def stop(self, drain: float, /) -> None:  # type: ignore[override]
            raise ZeroDivisionError

    with pytest.raises(ConfigError, match=r"async start\(\) and async stop"):
        bus.add(Plain("plain", bus, []))
    with pytest.raises(ConfigError, match="is not a Part"):
        bus.add(Relay)  # type: ignore[type-var]


def test_who_waits_for_a_start_that_the_close_cut_off_is_told(bus: Bus, run: Run) -> None:
    class Slow(Relay):
        async def start(self) -> None:
            if len(self._log) == 0:
                self._log.append("cut off")
                await asyncio.Event().wait()
            self._log.append("started")

    log: list[str] = []

    async def main() -> None:
        async with bus:
            waiting = asyncio.ensure_future(_awaited(bus.add(Slow("slow", bus, log))))
            await asyncio.sleep(0)
            with pytest.raises(StateError, match="is being started already"):
                bus._life.parts.start_now(Slow("slow", bus, log), copy_context())
        with pytest.raises(StateError, match="the Bus was closed before the start had ended"):
            await waiting
        async with bus:  # it is a part of the Bus all the same
            assert log == ["cut off", "started"]

    run(main())


async def _awaited(added: Any) -> None:
    await added


def test_what_a_handler_adds_is_not_a_consequence_of_its_event(bus: Bus, run: Run) -> None:
    published: list[Event[Any] | None] = []

    async def publish(events: list[Event[str]]) -> None:
        published.append((await bus.publish("results", "r", type="t")).event)

    @bus.subscribe("orders", group="starter")
    async def handle(event: Event[str]) -> None:
        late = bus.subscription("others", group="late")
        late.on(publish, batch=1)
        await bus.add(late)

    async def main() -> None:
        async with bus:
            await bus.declare("results", groups="g")
            await bus.publish("orders", "1", type="t")
            await settled(bus)
            await bus.publish("others", "2", type="t")
            await settled(bus)

    run(main())
    (event,) = published
    assert event is not None
    assert "causationid" not in event


def test_giving_up_cuts_a_slow_stop_off(bus: Bus, run: Run, until: Until) -> None:
    class Slow(Relay):
        async def stop(self, drain: float, /) -> None:
            self._log.append("stopping")
            await asyncio.Event().wait()

    log: list[str] = []
    bus.add(Slow("slow", bus, log))

    async def main() -> None:
        await bus.start()
        closing = asyncio.create_task(bus.close(drain=60))
        await until(lambda: len(log) == 2)
        bus._life.give_up()
        async with asyncio.timeout(5):
            await closing

    run(main())
    assert log == ["slow starts", "stopping"]
