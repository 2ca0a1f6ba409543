"""What the adapter's receiver may not do, and does: the receiver is taken for dead, counted, and replaced."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from tests.engine.scripted_adapter import ScriptedAdapter, ScriptedBroker, assert_nothing_open, inbound, until

from anybroker import Bus, Event
from anybroker.adapter import (
    Ack,
    Adapter,
    AdapterContext,
    Inbound,
    LaneListener,
    Receiver,
    Settlement,
    SubscriptionSpec,
)
from anybroker.capabilities import Acknowledgement, Support
from anybroker.errors import BrokerError, ConfigError, LeaseLost, Unavailable
from anybroker.testing import ReceiverWrapper

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
            assert bus.problems == {"topic/group": "settling fails and is tried again: throttled"}
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


@pytest.mark.parametrize("bug", [ZeroDivisionError("a bug"), asyncio.CancelledError()], ids=repr)
@pytest.mark.parametrize("where", ["open", "close"])
def test_what_a_dead_receivers_replacement_raises_does_not_end_the_subscription(bug: Any, where: str) -> None:
    async def main() -> None:
        broker = ScriptedBroker(**PER_MESSAGE)
        bus = bus_of(broker, [])
        async with asyncio.timeout(20), bus:

            async def close() -> None:
                raise bug

            if where == "close":
                broker.on_close = close
            else:
                broker.open_error = bug
            broker.receiver.die(Unavailable("gone"))
            await until(lambda: bool(bus.problems), "the problem")
            await asyncio.sleep(0.3)  # one try at least has failed
            broker.open_error = None
            await until(lambda: len(broker.receivers) == 2 and bus.problems == {}, "it is well again")

    asyncio.run(main())


def test_a_bug_in_stop_does_not_cut_off_the_handlers_at_close() -> None:
    async def main() -> None:
        broker = ScriptedBroker(**PER_MESSAGE)
        seen: list[str] = []
        gate = asyncio.Event()
        bus = bus_of(broker, seen, gate)

        async def stop() -> None:
            gate.set()
            raise ZeroDivisionError("a bug")

        async with asyncio.timeout(20), bus:
            broker.on_stop = stop
            broker.receiver.deliver(inbound(broker.receiver.assign("a"), 1))
            await until(lambda: bus.subscriptions[0].stats.started == 1, "the handler")
        assert seen == ["1"]
        assert [type(item) for item in broker.receiver.settled] == [Ack]

    asyncio.run(main())


def test_what_is_fetched_is_bounded_while_failed_settlements_are_sent_again() -> None:
    async def main() -> None:
        broker = ScriptedBroker(**PER_MESSAGE)
        seen: list[str] = []
        bus = Bus(broker, source="test", idempotency="memory://")
        calls: list[int] = []
        down = True

        @bus.subscribe("topic", group="group", max_ahead=10)
        async def handle(event: Event[Any]) -> None:
            seen.append(event.id)

        async def settle(batch: Sequence[Settlement]) -> Sequence[BrokerError | None]:
            if len(batch) >= 10 and down:
                await asyncio.sleep(0.25)  # longer than a full subscription waits before it looks again
            calls.append(len(batch))
            return [Unavailable("timed out") if down else None for _ in batch]

        broker.on_settle = settle
        async with asyncio.timeout(20), bus:
            receiver = broker.receiver
            lane = receiver.assign("a")
            receiver.deliver(*(inbound(lane, at, f"k{at}") for at in range(10)))
            await until(lambda: 10 in calls, "all of them have failed")
            receiver.deliver(*(inbound(lane, at, f"k{at}") for at in range(10, 100)))
            await until(lambda: len(calls) > 6, "more tries")
            assert len(seen) <= 20  # what failed, and what had been asked for before it did
            down = False
            await until(lambda: len(seen) == 100, "the others")

    asyncio.run(main())


def test_a_lease_that_is_lost_after_its_handler_leaves_nothing_behind() -> None:
    async def main() -> None:
        broker = ScriptedBroker(**PER_MESSAGE, lease_extension=Support.NATIVE)
        seen: list[str] = []
        bus = bus_of(broker, seen, lease=1.0)
        lost = False

        async def settle(batch: Sequence[Settlement]) -> Sequence[BrokerError | None]:
            return [LeaseLost("too late") if lost else Unavailable("throttled") for _ in batch]

        def extend(batch: Sequence[Inbound]) -> Sequence[BrokerError | None]:
            nonlocal lost
            lost = True
            return [LeaseLost("gone") for _ in batch]

        broker.on_settle, broker.on_extend = settle, extend
        async with asyncio.timeout(20), bus:
            broker.receiver.deliver(inbound(broker.receiver.assign("a"), 1))
            stats = bus.subscriptions[0].stats
            await until(lambda: stats.leases_lost == 1 and stats.stale_settlements == 1, "both know")
            pump = bus.subscriptions[0]._pump
            assert pump is not None
            assert not pump._holdings.not_ours

    asyncio.run(main())


def test_a_receiver_is_opened_again_for_as_long_as_it_takes() -> None:
    async def main() -> None:
        broker = ScriptedBroker(**PER_MESSAGE)
        seen: list[str] = []
        bus = bus_of(broker, seen)
        errors: list[Exception] = [Unavailable("down"), ConfigError("topic", "gone", "Make it."), Unavailable("down")]

        async def open_receiver(_: SubscriptionSpec) -> None:
            if errors:
                told.append(str(bus.problems))
                raise errors.pop(0)

        told: list[str] = []
        async with asyncio.timeout(20), bus:
            (subscription,) = bus.subscriptions
            first = broker.receiver
            lane = first.assign("a")
            broker.on_open_receiver = open_receiver
            first.die(Unavailable("gone"))
            await until(lambda: len(broker.receivers) == 2 and bus.problems == {})
            assert first.closed
            assert "reconnecting: gone" in told[0]
            assert "reconnecting: down" in told[1]
            assert "reconnecting: topic: gone" in told[2]
            assert subscription.stats.reconnects == 1
            second = broker.receiver
            second.deliver(inbound(lane, 1), inbound(second.assign("a"), 2))
            await until(lambda: len(second.settled) == 1)
            assert seen == ["2"]  # the lane went with its receiver

    asyncio.run(main())


@pytest.mark.parametrize("drain", [0.0, 1.0])
def test_close_while_a_receiver_is_being_opened_does_not_wait_for_it(drain: float) -> None:
    async def main() -> None:
        broker = ScriptedBroker()
        bus = bus_of(broker, [])
        begun = asyncio.Event()

        async def hang(_: SubscriptionSpec) -> None:
            begun.set()
            await asyncio.Event().wait()

        await bus.start()
        broker.on_open_receiver = hang
        broker.receiver.die(Unavailable("gone"))
        await begun.wait()
        async with asyncio.timeout(5):
            await bus.close(drain)
        assert_nothing_open(broker)
        assert len(broker.receivers) == 1

    asyncio.run(main())


def test_close_while_it_waits_to_open_a_receiver_opens_none() -> None:
    async def main() -> None:
        broker = ScriptedBroker()
        bus = bus_of(broker, [])
        await bus.start()
        broker.open_error = Unavailable("down")
        broker.receiver.die(Unavailable("gone"))
        await until(lambda: "reconnecting: down" in str(bus.problems))
        broker.open_error = None
        async with asyncio.timeout(5):
            await bus.close()
        assert_nothing_open(broker)
        assert len(broker.receivers) == 1
        assert bus.subscriptions[0].stats.reconnects == 0

    asyncio.run(main())


@pytest.mark.parametrize("error", [Unavailable("gone"), ZeroDivisionError("a bug")])
def test_what_a_receive_raises_once_the_receiver_is_stopped_cuts_nothing_off(error: Any) -> None:
    async def main() -> None:
        broker = ScriptedBroker(**PER_MESSAGE)
        seen: list[str] = []
        gate = asyncio.Event()
        bus = bus_of(broker, seen, gate)

        async def stop(*_: object) -> None:
            broker.receiver.error = error

        broker.on_stop = stop
        async with asyncio.timeout(20):
            await bus.start()
            receiver = broker.receiver
            receiver.deliver(inbound(receiver.assign("a"), 1))
            (subscription,) = bus.subscriptions
            await until(lambda: subscription.running == 1 and len(receiver.asked) == 2)
            closing = asyncio.create_task(bus.close())
            await until(lambda: receiver.error is not None)
            for _ in range(20):
                await asyncio.sleep(0)
            gate.set()
            await closing
        assert_nothing_open(broker)
        assert broker.receivers == [receiver]
        assert [type(item) for item in receiver.settled] == [Ack]
        assert (seen, subscription.stats.reconnects) == (["1"], 0)

    asyncio.run(main())


class Bare(ReceiverWrapper):
    """Has nothing that an adapter declares."""

    def __new__(cls, inner: Receiver, *_: Any) -> Bare:
        return object.__new__(cls)


class BareBroker(ScriptedBroker):
    """Its adapter declares what its receivers do not have."""

    def make_adapter(self, context: AdapterContext) -> Adapter:
        class Declares(ScriptedAdapter):
            async def open_receiver(self, subscription: SubscriptionSpec, listener: LaneListener, /) -> Any:
                return Bare(await super().open_receiver(subscription, listener))

        return Declares(self)


@pytest.mark.parametrize(("capability", "method"), [("lease_extension", "extend"), ("balance", "members")])
def test_an_adapter_that_declares_what_its_receiver_does_not_have_is_named(capability: str, method: str) -> None:
    async def main() -> None:
        broker = BareBroker(**PER_MESSAGE, **{capability: Support.NATIVE})
        bus = bus_of(broker, [])
        with pytest.raises(TypeError, match=rf"scripted: declares {capability}, but its Receiver has no {method}\(\)"):
            await bus.start()
        assert broker.closed

    asyncio.run(main())


@pytest.mark.parametrize("capability", ["lease_extension", "balance"])
def test_a_receiver_that_is_refused_is_closed(capability: str) -> None:
    async def main() -> None:
        broker = BareBroker(**PER_MESSAGE, **{capability: Support.NATIVE})
        with pytest.raises(TypeError):
            await bus_of(broker, []).start()
        assert_nothing_open(broker)

    asyncio.run(main())
