"""What the adapter's receiver may not do, and does: the receiver is taken for dead, counted, and replaced."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from tests.engine.scripted_adapter import ScriptedBroker, inbound, until

from anybroker import Bus, Event
from anybroker.adapter import Ack, Inbound, Settlement
from anybroker.capabilities import Acknowledgement, Support
from anybroker.errors import BrokerError, LeaseLost, Unavailable

PER_MESSAGE: dict[str, Any] = {"acknowledgement": Acknowledgement.PER_MESSAGE}


def bus_of(broker: ScriptedBroker, seen: list[str], gate: asyncio.Event | None = None, **options: Any) -> Bus:
    bus = Bus(broker, source="test", idempotency="memory://", **options)

    @bus.subscribe("topic", group="group")
    async def handle(event: Event[Any]) -> None:
        if gate is not None:
            await gate.wait()
        seen.append(event.id)

    return bus


@pytest.mark.parametrize("where", ["settle", "extend", "members", "receive", "cancelled in settle"])
def test_an_unexpected_exception_reopens_the_receiver(where: str, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        broker = ScriptedBroker(**PER_MESSAGE, lease_extension=Support.NATIVE, balance=Support.NATIVE)
        seen: list[str] = []
        gate = asyncio.Event()
        bus = bus_of(broker, seen, gate, lease=1.0)
        bug = asyncio.CancelledError() if where == "cancelled in settle" else ZeroDivisionError("a bug")
        broken = True

        async def settle(batch: Sequence[Settlement]) -> Sequence[BrokerError | None]:
            if broken and where in ("settle", "cancelled in settle"):
                raise bug
            return [None] * len(batch)

        def extend(batch: Sequence[Inbound]) -> Sequence[BrokerError | None]:
            if broken and where == "extend":
                raise bug
            return [None] * len(batch)

        broker.on_settle, broker.on_extend = settle, extend
        if where == "members":
            broker.members = property(lambda _: 1 / 0)  # type: ignore[assignment] # compared with 2: a TypeError
        async with asyncio.timeout(20), bus:
            first = broker.receiver
            if where != "extend":  # what is handled still has a lease to extend
                gate.set()
            first.deliver(inbound(first.assign("a"), 1))
            if where == "receive":
                error: Any = bug
                first.die(error)
            await until(lambda: bool(bus.problems), "the problem")
            await until(lambda: len(broker.receivers) > 1, "another receiver")
            assert first.closed
            broken = False
            broker.members = 1
            gate.set()
            await until(lambda: bus.problems == {}, "it is well again")
            second = broker.receiver
            second.deliver(inbound(second.assign("a"), 2))
            await until(lambda: [item.inbound.position for item in second.settled if isinstance(item, Ack)] == [2])
            assert bus.subscriptions[0].stats.reconnects >= 1
            assert "2" in seen

    asyncio.run(main())
    assert "the adapter failed" in caplog.text or where == "cancelled in settle"


def test_an_adapter_that_cannot_be_opened_again_for_a_bug_is_tried_again() -> None:
    async def main() -> None:
        broker = ScriptedBroker(**PER_MESSAGE)
        seen: list[str] = []
        bus = bus_of(broker, seen)
        async with asyncio.timeout(20), bus:
            bug: Any = ZeroDivisionError("a bug")
            broker.open_error = bug
            broker.receiver.die(Unavailable("gone"))
            await until(lambda: "ZeroDivisionError" in str(bus.problems), "the problem")
            broker.open_error = None
            await until(lambda: len(broker.receivers) == 2 and bus.problems == {}, "it is well again")

    asyncio.run(main())


def test_a_failed_acknowledgement_is_made_again_with_its_lease_extended() -> None:
    async def main() -> None:
        broker = ScriptedBroker(**PER_MESSAGE, lease_extension=Support.NATIVE)
        seen: list[str] = []
        bus = bus_of(broker, seen, lease=1.0)
        calls: list[list[int]] = []
        down = True

        async def settle(batch: Sequence[Settlement]) -> Sequence[BrokerError | None]:
            calls.append([item.inbound.position for item in batch if isinstance(item, Ack)])
            return [Unavailable("throttled") if down and item.inbound.position == 2 else None for item in batch]  # type: ignore[union-attr] # acks only

        broker.on_settle = settle
        async with asyncio.timeout(20), bus:
            receiver = broker.receiver
            lane = receiver.assign("a")
            receiver.deliver(*(inbound(lane, at, f"k{at}") for at in (1, 2, 3)))
            await until(lambda: sum(call.count(2) for call in calls) >= 3, "it is made again")
            await until(lambda: bool(bus.problems), "the problem")
            assert bus.problems == {"topic/group": "settling fails, and is tried again: throttled"}
            before = len(receiver.extended)
            await until(lambda: len(receiver.extended) > before, "its lease is extended")
            assert [item.position for item in receiver.extended[-1]] == [2]
            down = False
            await until(lambda: bus.problems == {}, "it is well again")
        assert sorted(item.inbound.position for item in receiver.settled if isinstance(item, Ack)) == [1, 2, 3]
        assert sum(call.count(1) for call in calls) == 1
        assert seen == ["1", "2", "3"]
        assert bus.subscriptions[0].stats.failed_settlements >= 3

    asyncio.run(main())


@pytest.mark.parametrize("how", ["lease", "lane"])
def test_a_failed_acknowledgement_is_given_up_with_its_lease(how: str) -> None:
    async def main() -> None:
        broker = ScriptedBroker(**PER_MESSAGE)
        bus = bus_of(broker, [])
        answers: list[BrokerError] = [Unavailable("throttled"), LeaseLost("too late")]
        calls = 0

        async def settle(batch: Sequence[Settlement]) -> Sequence[BrokerError | None]:
            nonlocal calls
            calls += 1
            return [answers[0] if how == "lane" or len(answers) == 1 else answers.pop(0)]

        broker.on_settle = settle
        async with asyncio.timeout(20), bus:
            lane = broker.receiver.assign("a")
            broker.receiver.deliver(inbound(lane, 1))
            await until(lambda: calls >= 1, "a first try")
            if how == "lane":
                broker.receiver.listener.lost([lane])
            await until(lambda: bus.subscriptions[0].stats.stale_settlements == 1, "it is given up")
            made = calls
            await asyncio.sleep(0.3)
            assert calls == made

    asyncio.run(main())


def test_close_tries_a_failed_acknowledgement_again() -> None:
    async def main() -> None:
        broker = ScriptedBroker(**PER_MESSAGE)
        seen: list[str] = []
        bus = bus_of(broker, seen)
        failures = 3

        async def settle(batch: Sequence[Settlement]) -> Sequence[BrokerError | None]:
            nonlocal failures
            failures -= 1
            return [Unavailable("throttled") if failures >= 0 else None for _ in batch]

        broker.on_settle = settle
        async with asyncio.timeout(20):
            await bus.start()
            receiver = broker.receiver
            receiver.deliver(inbound(receiver.assign("a"), 1))
            await until(lambda: seen == ["1"])
            await bus.close()
        assert len(receiver.settled) == 1

    asyncio.run(main())
