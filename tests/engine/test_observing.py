"""``bus.observe(observer)``: a third party's observer is told of what happens, once, and can break nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any
from unittest.mock import Mock

import pytest
from tests.engine.scripted_adapter import ScriptedBroker, inbound

from anybroker import Backlog, Bus, Delivery, Event, MemoryBroker, Observer, Receipt, Reject, Retry
from anybroker.adapter import Outbound
from anybroker.engine.lag import LagWatch
from anybroker.engine.observing import Observers, StartOutcome
from anybroker.errors import BrokerError, CapabilityError, ConfigError, StateError, Unavailable
from anybroker.middleware import dead_letter, retry
from anybroker.testing import FaultyBroker, delay, fail, settled

Run = Callable[..., Any]
Until = Callable[[Callable[[], object]], Coroutine[Any, Any, None]]


class Notes(Observer):
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def published(self, outbound: Outbound, result: Receipt | BrokerError, seconds: float) -> None:
        assert 0 <= seconds < 30
        copy = " as a copy" if outbound.is_copy else ""
        self.lines.append(f"published {outbound.topic}{copy}: {type(result).__name__}")

    def received(self, topic: str, group: str, count: int) -> None:
        self.lines.append(f"received {count} of {topic}/{group}")

    def started(self, delivery: Delivery) -> None:
        self.lines.append(f"started, attempt {delivery.attempt}")

    def finished(self, delivery: Delivery, outcome: StartOutcome, error: BaseException | None, seconds: float) -> None:
        assert 0 <= seconds < 30
        self.lines.append(f"finished: {outcome}, {error!r}")

    def retried(self, delivery: Delivery, error: BaseException, wait: float) -> None:
        self.lines.append(f"retried after {wait:g} s: {error!r}")

    def dead_lettered(self, delivery: Delivery, error: BaseException) -> None:
        self.lines.append(f"dead-lettered: {type(error).__name__}")

    def unhandled(self, delivery: Delivery) -> None:
        self.lines.append(f"unhandled: {delivery.event.type}")

    def reconnected(self, topic: str, group: str, why: BrokerError) -> None:
        self.lines.append(f"reconnected {topic}/{group}: {why}")

    def lag(self, topic: str, group: str, backlog: Backlog) -> None:
        self.lines.append(f"lag of {topic}/{group}: {backlog.waiting}")


def observed(
    broker: Any, handle: Callable[[Event[str]], Coroutine[Any, Any, None]], **options: Any
) -> tuple[Bus, Notes]:
    """A Bus with this handler of type t, and what is told of it."""
    bus = Bus(broker, source="shop")
    bus.subscription("orders", group="g", **options).on(handle, type="t", middleware=[retry(attempts=2, first=0.0)])
    notes = Notes()
    bus.observe(notes)
    return bus, notes


async def _publish(bus: Bus, *types: str) -> None:
    async with bus:
        for kind in types:
            await bus.publish("orders", "x", type=kind)
        await settled(bus)


def _of_starts(notes: Notes) -> list[str]:
    return [line for line in notes.lines if not line.startswith(("lag", "received"))]


def test_of_what_is_handled(run: Run) -> None:
    async def handle(_: Event[str]) -> None:
        pass

    bus, notes = observed(MemoryBroker(), handle)
    run(_publish(bus, "t"))
    assert _of_starts(notes) == ["published orders: Receipt", "started, attempt 1", "finished: handled, None"]
    assert "received 1 of orders/g" in notes.lines


def test_of_what_fails_and_is_dead_lettered(run: Run) -> None:
    async def handle(_: Event[str]) -> None:
        raise ValueError("no")

    bus, notes = observed(MemoryBroker(), handle)
    run(_publish(bus, "t"))
    assert _of_starts(notes) == [
        "published orders: Receipt",
        "started, attempt 1",
        "retried after 0 s: ValueError('no')",
        "finished: retried, ValueError('no')",
        "started, attempt 2",
        "published orders.g.dlq as a copy: Receipt",
        "dead-lettered: ValueError",
        "finished: dead_lettered, ValueError('no')",
    ]


@pytest.mark.parametrize("unhandled", ["skip", "dead_letter"])
def test_of_a_type_that_no_handler_takes(run: Run, unhandled: Any) -> None:
    async def handle(_: Event[str]) -> None:
        pass

    bus, notes = observed(MemoryBroker(), handle, unhandled=unhandled)
    run(_publish(bus, "other"))
    told = _of_starts(notes)
    assert told[1] == "started, attempt 1"
    assert "unhandled: other" in told
    if unhandled == "skip":
        assert told[2:] == ["unhandled: other", "finished: unhandled, None"]
    else:
        assert told[2:5] == [
            "published orders.g.dlq as a copy: Receipt",
            "unhandled: other",
            "dead-lettered: UnhandledError",
        ]
        assert told[5].startswith("finished: dead_lettered, UnhandledError")


def test_of_a_rejected_event_and_an_uncounted_retry(run: Run) -> None:
    starts: list[int] = []

    async def handle(_: Event[str]) -> None:
        starts.append(1)
        if len(starts) == 1:
            raise Retry(after=0.01)
        raise Reject("not ours")

    bus, notes = observed(MemoryBroker(), handle)
    run(_publish(bus, "t"))
    told = _of_starts(notes)
    assert "finished: retried, None" not in told
    assert told[2].startswith("retried after 0.01 s: Retry")
    assert told[-2] == "dead-lettered: Reject"
    assert told[-1].startswith("finished: dead_lettered, Reject")


def test_of_a_failed_publish(run: Run) -> None:
    async def handle(_: Event[str]) -> None:
        pass

    bus, notes = observed(FaultyBroker(MemoryBroker(), fail("publish", error=Unavailable("down"))), handle)

    async def main() -> None:
        async with bus:
            with pytest.raises(Unavailable):
                await bus.publish("orders", "x", type="t", deadline=0.2)

    run(main())
    assert _of_starts(notes) == ["published orders: Unavailable"]


def test_of_a_receiver_that_died(run: Run, until: Until) -> None:
    bus = Bus(broker := ScriptedBroker(), source="shop", idempotency="memory://")
    notes = Notes()
    bus.observe(notes)

    @bus.subscribe("topic", group="group")
    async def handle(_: Event[Any]) -> None:
        pass

    async def main() -> None:
        async with bus:
            broker.receiver.die(Unavailable("the connection is gone"))
            await until(lambda: "reconnected topic/group: the connection is gone" in notes.lines)

    run(main())


def test_of_a_start_that_was_cut_off(run: Run, until: Until) -> None:
    async def handle(_: Event[str]) -> None:
        await asyncio.Event().wait()

    bus, notes = observed(MemoryBroker(), handle)

    async def main() -> None:
        async with bus:
            await bus.publish("orders", "x", type="t")
            await until(lambda: "started, attempt 1" in notes.lines)
            await bus.close(drain=0)

    run(main())
    assert _of_starts(notes)[-1] == "finished: returned, CancelledError()"


def test_of_the_lag_of_each_group(run: Run, until: Until) -> None:
    async def handle(_: Event[str]) -> None:
        await asyncio.Event().wait()

    bus, notes = observed(MemoryBroker(), handle)

    async def main() -> None:
        async with bus:
            await until(lambda: "lag of orders/g: 0" in notes.lines)
            assert bus.problems == {}

    run(main())


def test_one_that_fails_breaks_nothing_and_is_logged(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    class Fails(Observer):
        def finished(self, *_: Any) -> None:
            raise asyncio.CancelledError

        def started(self, *_: Any) -> None:
            raise KeyboardInterrupt

        def published(self, *_: Any) -> None:
            raise ZeroDivisionError("a bug")

    seen: list[str] = []

    async def handle(event: Event[str]) -> None:
        seen.append(event.data)

    bus, notes = observed(MemoryBroker(), handle)
    bus.observe(Fails())
    run(_publish(bus, "t", "t"))
    assert seen == ["x", "x"]
    assert _of_starts(notes).count("finished: handled, None") == 2, "the others are told all the same"
    assert caplog.text.count("an observer failed: Fails.finished") == 1
    assert caplog.text.count("an observer failed: Fails.published") == 1


def test_what_nobody_wants_to_know_is_not_told() -> None:
    assert all(getattr(Observers(), name) is None for name in Observers.__slots__)
    assert all(getattr(Observers([Observer()]), name) is None for name in Observers.__slots__)
    assert Observers([Observer()]).of_starts() is None

    class One(Observer):
        def unhandled(self, delivery: Delivery) -> None:
            pass

    some = Observers([One()])
    assert [name for name in Observers.__slots__ if getattr(some, name) is not None] == ["unhandled"]


def test_what_is_not_an_observer_and_what_comes_too_late_is_refused(run: Run, bus: Bus) -> None:
    with pytest.raises(ConfigError, match="str is not an Observer"):
        bus.observe("me")  # type: ignore[arg-type]

    async def main() -> None:
        async with bus:
            with pytest.raises(StateError, match="before the start, or after the close"):
                bus.observe(Notes())

    run(main())


def test_the_scripted_broker_is_told_of_batches(run: Run, until: Until) -> None:
    bus = Bus(broker := ScriptedBroker(), source="shop", idempotency="memory://")
    notes = Notes()
    bus.observe(notes)

    @bus.subscribe("topic", group="group")
    async def handle(_: Event[Any]) -> None:
        pass

    async def main() -> None:
        async with bus:
            lane = broker.receiver.assign("a")
            broker.receiver.deliver(inbound(lane, 1), inbound(lane, 2))
            await until(lambda: notes.lines.count("finished: handled, None") == 2)

    run(main())
    assert "received 2 of topic/group" in notes.lines


def test_an_observer_that_would_never_run_is_refused(bus: Bus) -> None:
    class Waits(Observer):
        async def finished(self, *_: Any) -> None:  # type: ignore[override]
            pass

    with pytest.raises(ConfigError, match=r"Waits.finished: is an async function"):
        bus.observe(Waits())
    with pytest.raises(ConfigError, match="is not an Observer"):
        bus.observe(Mock(spec=Observer))


def test_only_what_is_a_dead_letter_is_told_as_one(run: Run, until: Until) -> None:
    """A poisoned event whose handler runs all the same, as dead letters are switched off."""
    bus = Bus(broker := ScriptedBroker(), source="shop", idempotency="memory://")
    notes = Notes()
    bus.observe(notes)

    @bus.subscribe("topic", group="group", poison_after=2)
    @dead_letter(enabled=False)
    async def handle(_: Event[Any]) -> None:
        pass

    async def main() -> None:
        async with bus:
            poisoned = inbound(broker.receiver.assign("a"), 1)
            poisoned.deliveries = 3
            broker.receiver.deliver(poisoned)
            await until(lambda: "finished: handled, None" in notes.lines)

    run(main())
    assert not any("dead" in line for line in notes.lines)


def test_a_publish_ends_once(run: Run) -> None:
    """The broker's word comes after the deadline: that publish has ended already."""
    bus = Bus(FaultyBroker(MemoryBroker(), delay("publish", 0.4)), source="shop", consume=False)
    notes = Notes()
    bus.observe(notes)

    async def main() -> None:
        async with bus:
            with pytest.raises(BrokerError):
                await bus.publish("orders", "x", type="t", deadline=0.1)
            await asyncio.sleep(0.6)

    run(main())
    assert len([line for line in notes.lines if line.startswith("published")]) == 1


def test_the_lag_is_asked_for_again_after_a_bug_of_the_adapter(run: Run, until: Until, monkeypatch: Any) -> None:
    monkeypatch.setattr("anybroker.engine.lag.EVERY", 0.01)
    told: list[int] = []
    answers: list[Any] = [ZeroDivisionError("a bug"), Unavailable("down"), Backlog(3, 0)]

    async def backlog(_topic: str, _group: str) -> Backlog:
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer  # type: ignore[no-any-return]

    async def main() -> None:
        watch = LagWatch(lambda: [("orders", "g")], backlog, lambda _t, _g, waiting: told.append(waiting.waiting))
        await watch.start()
        await until(lambda: watch.problem is not None)
        await until(lambda: bool(told) and watch.problem is None)
        await watch.stop(0)

    run(main())
    assert told[0] == 3


class _Depths(Observer):
    def __init__(self) -> None:
        self.told: dict[str, int] = {}

    def depth(self, topic: str, group: str, dead_letters: int) -> None:
        self.told[f"{topic}/{group}"] = dead_letters


def test_dead_letters_are_counted_of_groups_that_are_there(run: Run, until: Until, monkeypatch: Any) -> None:
    monkeypatch.setattr("anybroker.engine.lag.EVERY", 0.01)
    broker = MemoryBroker()

    async def fail(_: Event[str]) -> None:
        raise ValueError("no")

    async def main() -> None:
        bus, depths = Bus(broker, source="shop"), _Depths()
        bus.subscription("orders", group="g").on(fail, type="t", middleware=[retry(attempts=1)])
        bus.observe(depths)
        bus.watch("orders", group="other")
        async with bus:
            await bus.publish("orders", "x", type="t")
            await until(lambda: depths.told.get("orders/g") == 1)
            assert depths.told == {"orders/g": 1}
            assert "not known: MissingGroup: orders/other: no group 'other'" in bus.problems["lag"]
            bus.watch("orders.g.dlq", group="dlq")
            await bus.declare("orders", groups=["other"])
            await until(lambda: not bus.problems)
            await until(lambda: len(depths.told) == 3)
            assert depths.told == {"orders/g": 1, "orders/other": 0, "orders.g.dlq/dlq": 0}

    run(main())


def test_watching_makes_nothing(run: Run, until: Until, monkeypatch: Any) -> None:
    monkeypatch.setattr("anybroker.engine.lag.EVERY", 0.01)
    broker, depths = MemoryBroker(), _Depths()

    async def main() -> None:
        bus = Bus(broker, source="shop", consume=False)
        bus.observe(depths)
        bus.watch("orders", group="g")
        bus.watch("orders", group="g")
        async with bus:
            await until(lambda: "lag" in bus.problems)
        assert (broker.topics, depths.told) == ({}, {})

    run(main())


def test_all_groups_that_are_missing_are_named_in_one_line(
    run: Run, until: Until, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        bus = Bus(MemoryBroker(), source="shop", consume=False)
        bus.observe(_Depths())
        for number in range(7):
            bus.watch("orders", group=f"g{number}")
        async with bus:
            await until(lambda: "lag" in bus.problems)
            told = bus.problems["lag"]
        assert [f"orders/g{number} is not known" in told for number in range(7)] == [True] * 5 + [False] * 2
        assert told.endswith("; and 2 more groups")
        assert [record.getMessage() for record in caplog.records if record.name == "anybroker.broker"] == [told]

    run(main())


def test_what_cannot_be_watched_is_refused(run: Run) -> None:
    with pytest.raises(ConfigError, match="group"):
        Bus(MemoryBroker(), source="shop").watch("orders", group="G")
    bus = Bus(ScriptedBroker(), source="shop")
    bus.watch("orders", group="g")

    async def main() -> None:
        with pytest.raises(CapabilityError, match=r"bus\.watch\(\)"):
            await bus.start()

    run(main())


def test_a_method_that_is_set_on_the_object_is_called(bus: Bus, run: Any) -> None:
    told: list[tuple[str, str, int]] = []
    observer = Observer()
    observer.received = lambda topic, group, count: told.append((topic, group, count))  # type: ignore[method-assign]
    bus.observe(observer)

    @bus.subscribe("orders", group="g")
    async def handle(_: Event[Any]) -> None: ...

    async def main() -> None:
        async with bus:
            await bus.publish("orders", 1, type="t")
            await settled(bus)

    run(main())
    assert told == [("orders", "g", 1)]
