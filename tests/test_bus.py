"""The Bus: starting and closing, in every order and state."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from tests.engine.scripted_adapter import (
    PER_MESSAGE,
    ScriptedBroker,
    assert_nothing_open,
    bus_of,
    inbound,
    run,
    with_handler,
)

from anybroker import Bus, CapabilityError, ConfigError, Event
from anybroker.adapter import Release, SubscriptionSpec
from anybroker.capabilities import Support
from anybroker.errors import StateError, Unavailable
from anybroker.idempotency import MemoryStore
from anybroker.middleware import idempotent


def hanging(begun: asyncio.Event) -> Callable[..., Any]:
    """An answer that never comes."""

    async def hang(*_: object) -> None:
        begun.set()
        await asyncio.Event().wait()

    return hang


# ----------------------------------------------------------------------------------------------------------- start


@pytest.mark.parametrize("state", ["starting", "started", "closing"])
def test_a_bus_that_lives_is_not_started_again(state: str) -> None:
    async def main() -> None:
        broker = ScriptedBroker()
        bus = with_handler(bus_of(broker))
        begun, go = asyncio.Event(), asyncio.Event()

        async def wait(*_: object) -> None:
            begun.set()
            await go.wait()

        others: list[asyncio.Task[None]] = []
        if state == "starting":
            broker.on_connect = wait
            others.append(asyncio.create_task(bus.start()))
            await begun.wait()
        else:
            await bus.start()
        if state == "closing":
            broker.on_close = wait
            others.append(asyncio.create_task(bus.close()))
            await begun.wait()
        receivers = len(broker.receivers)
        with pytest.raises(StateError, match=f"the Bus is {state} already"):
            await bus.start()
        assert len(broker.receivers) == receivers
        go.set()
        await asyncio.gather(*others)
        await bus.close()
        assert_nothing_open(broker)

    run(main)


STEPS = ["connect", "declare", "open sender", "provide", "open store", "open second receiver"]


@pytest.mark.parametrize(
    "error", [Unavailable("down"), ConfigError("a setting", "is wrong", "Change it."), ZeroDivisionError("a bug")]
)
@pytest.mark.parametrize("step", STEPS)
def test_a_start_that_fails_leaves_nothing_open(step: str, error: Exception) -> None:
    async def main() -> None:
        broker = ScriptedBroker()
        made: list[str] = []

        @contextmanager
        def resource() -> Iterator[str]:
            made.append("made")
            yield "resource"
            made.append("ended")

        async def fail(*_: object) -> None:
            raise error

        async def second(spec: SubscriptionSpec) -> None:
            if spec.topic == "second":
                raise error

        class Store(MemoryStore):
            async def open(self) -> None:
                raise error

        store = Store() if step == "open store" else MemoryStore()
        bus = Bus(broker, source="test", idempotency=store, middleware=[idempotent()])
        with_handler(bus, "first", "second")
        bus.provide(str, resource)
        match step:
            case "connect":
                broker.on_connect = fail
            case "declare":
                broker.on_declare = fail
            case "open sender":
                broker.on_open_sender = fail
            case "provide":
                bus.provide(int, fail)
            case "open second receiver":
                broker.on_open_receiver = second
        with pytest.raises(type(error)) as caught:
            await bus.start()
        assert caught.value is error
        assert_nothing_open(broker)
        assert made == ([] if step in STEPS[:3] else ["made", "ended"])
        assert len(broker.receivers) == (1 if step == "open second receiver" else 0)
        with pytest.raises(StateError, match="the Bus is closed"):
            await bus.publish("first", 1, type="t")
        assert broker.sent == []

    run(main)


@pytest.mark.parametrize("step", STEPS[:3])
def test_a_cancelled_start_leaves_nothing_open(step: str) -> None:
    async def main() -> None:
        broker = ScriptedBroker()
        begun = asyncio.Event()
        setattr(broker, f"on_{step.replace(' ', '_')}", hanging(begun))
        bus = with_handler(bus_of(broker))
        starting = asyncio.create_task(bus.start())
        await begun.wait()
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        assert_nothing_open(broker)

    run(main)


def test_a_broker_that_does_not_answer_is_unavailable_by_the_deadline() -> None:
    async def main() -> None:
        broker = ScriptedBroker()
        broker.on_connect = hanging(asyncio.Event())
        bus = with_handler(bus_of(broker, connect_timeout=0.05))
        with pytest.raises(Unavailable, match=r"scripted .*within 0\.05 s"):
            await bus.start()
        assert_nothing_open(broker)

    run(main)


def test_what_cannot_be_is_refused_before_anything_is_connected_or_made() -> None:
    async def main() -> None:
        broker = ScriptedBroker(ordering=Support.ABSENT)
        bus = with_handler(bus_of(broker), "first")
        with pytest.raises(CapabilityError, match="'ordering'"):
            await bus.start()
        assert broker.declared == []
        assert broker.senders == []

        broker = ScriptedBroker()
        bus = bus_of(broker)
        bus.subscription("topic", group="group")
        with pytest.raises(ConfigError, match="subscription topic/group: has no handler"):
            await bus.start()
        assert broker.declared == []
        assert broker.senders == []

    run(main)


@pytest.mark.parametrize("mode", ["create", "verify", "off"])
def test_topics_are_made_or_verified_or_left_alone(mode: Any) -> None:
    async def main() -> None:
        broker = ScriptedBroker()
        bus = with_handler(bus_of(broker, provision=mode, topics={"configured": {"groups": ["other"]}}))
        async with bus:
            made = {
                (spec.name, group.name)
                for topology, _ in broker.declared
                for spec in topology.topics
                for group in spec.groups
            }
            assert {how for _, how in broker.declared} == (set() if mode == "off" else {mode})
            wanted = {
                ("topic", "group"),
                ("topic.group.dlq", "dlq"),
                ("configured", "other"),
                ("configured.other.dlq", "dlq"),
            }
            assert made == (set() if mode == "off" else wanted)
            await bus.publish("topic", 1, type="t")
            await bus.publish("configured", 1, type="t")
        assert len(broker.declared) == (0 if mode == "off" else 1)

    run(main)


def test_a_bus_that_only_publishes_declares_its_groups_and_joins_none() -> None:
    async def main() -> None:
        broker = ScriptedBroker()
        bus = with_handler(bus_of(broker, consume=False))
        async with bus:
            await bus.publish("topic", 1, type="t")
            ((topology, _),) = broker.declared
            assert [group.name for group in topology.topics[0].groups] == ["group"]
        assert broker.receivers == []
        assert len(broker.sent) == 1

    run(main)


# ----------------------------------------------------------------------------------------------------------- close


def test_close_while_starting_leaves_nothing_running() -> None:
    async def main() -> None:
        broker = ScriptedBroker()
        connecting, go = asyncio.Event(), asyncio.Event()

        async def connect(*_: object) -> None:
            connecting.set()
            await go.wait()

        broker.on_connect = connect
        bus = with_handler(bus_of(broker))
        starting = asyncio.create_task(bus.start())
        await connecting.wait()
        closing = asyncio.create_task(bus.close())
        for _ in range(10):
            await asyncio.sleep(0)
        go.set()
        await asyncio.gather(starting, closing, return_exceptions=True)
        assert_nothing_open(broker)
        with pytest.raises(StateError):
            await bus.publish("topic", 1, type="t")

    run(main)


def test_close_while_a_start_fails_ends_with_it() -> None:
    async def main() -> None:
        broker = ScriptedBroker()
        begun, go = asyncio.Event(), asyncio.Event()

        async def fail(*_: object) -> None:
            begun.set()
            await go.wait()
            raise Unavailable("down")

        broker.on_connect = fail
        bus = with_handler(bus_of(broker))
        starting = asyncio.create_task(bus.start())
        await begun.wait()
        closing = asyncio.create_task(bus.close())
        await asyncio.sleep(0)
        assert not closing.done()
        go.set()
        with pytest.raises(Unavailable, match="down"):
            await starting
        await closing
        assert_nothing_open(broker)

    run(main)


def test_what_is_closed_before_its_start_is_closed() -> None:
    async def main() -> None:
        broker = ScriptedBroker()
        bus = with_handler(bus_of(broker))
        await bus.close()
        await bus.close()
        for call in (bus.publish("topic", 1, type="t"), bus.publish_many("topic", [1]), bus.declare("topic")):
            with pytest.raises(StateError, match="the Bus is closed"):
                await call
        with pytest.raises(StateError, match="the Bus is closed"):
            _ = bus.adapter
        assert (broker.senders, broker.sent) == ([], [])

    run(main)


def test_all_who_close_wait_for_the_one_that_does() -> None:
    async def main() -> None:
        broker = ScriptedBroker()
        begun, go, closes = asyncio.Event(), asyncio.Event(), []

        async def wait(*_: object) -> None:
            closes.append("adapter")
            begun.set()
            await go.wait()

        broker.on_adapter_close = wait
        bus = with_handler(bus_of(broker))
        await bus.start()
        first = asyncio.create_task(bus.close())
        await begun.wait()
        second, third = (asyncio.create_task(bus.close(drain=0)) for _ in range(2))
        await asyncio.sleep(0)
        third.cancel()  # who waits no longer stops nothing
        await asyncio.wait([third])
        assert third.cancelled()
        assert not first.done()
        assert not second.done()
        go.set()
        await asyncio.gather(first, second)
        await bus.close()
        assert closes == ["adapter"]
        assert_nothing_open(broker)

    run(main)


def test_cancelling_the_wait_does_not_stop_the_closing() -> None:
    async def main() -> None:
        broker = ScriptedBroker()
        begun, go = asyncio.Event(), asyncio.Event()

        async def wait(*_: object) -> None:
            begun.set()
            await go.wait()

        broker.on_close = wait
        bus = with_handler(bus_of(broker))
        await bus.start()
        closing = asyncio.create_task(bus.close())
        await begun.wait()
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        assert not broker.closed
        go.set()
        await bus.close()
        assert_nothing_open(broker)

    run(main)


@pytest.mark.parametrize("given", [True, False])
def test_the_drain_time_is_that_of_close_or_of_the_bus(given: bool) -> None:
    async def main() -> None:
        broker = ScriptedBroker(**PER_MESSAGE)
        bus = bus_of(broker, drain=60 if given else 0.01)
        begun = asyncio.Event()

        @bus.subscribe("topic", group="group")
        async def handle(event: Event[Any]) -> None:
            begun.set()
            await asyncio.Event().wait()

        await bus.start()
        broker.receiver.deliver(inbound(broker.receiver.assign("a"), 1))
        await begun.wait()
        async with asyncio.timeout(5):
            await bus.close(0.01) if given else await bus.close()
        released = [item for item in broker.receiver.settled if isinstance(item, Release)]
        assert [(item.inbound.position, item.attempts) for item in released] == [(1, 0)]
        assert_nothing_open(broker)

    run(main)


def test_an_adapter_that_cannot_be_closed_is_said_and_the_bus_is_closed(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        broker = ScriptedBroker()

        async def fail(*_: object) -> None:
            raise ZeroDivisionError("a bug")

        broker.on_adapter_close = fail
        async with with_handler(bus_of(broker)) as bus:
            pass
        assert_nothing_open(broker)
        with pytest.raises(StateError, match="the Bus is closed"):
            await bus.publish("topic", 1, type="t")

    run(main)
    assert "closing the connection failed" in caplog.text


def test_what_ends_with_the_bus_may_fail_and_the_rest_is_closed() -> None:
    async def main() -> None:
        broker = ScriptedBroker()

        class Store(MemoryStore):
            async def close(self) -> None:
                raise ZeroDivisionError("a bug")

        bus = with_handler(Bus(broker, source="test", idempotency=Store(), middleware=[idempotent()]))
        await bus.start()
        with pytest.raises(ZeroDivisionError):
            await bus.close()
        assert_nothing_open(broker)
        with pytest.raises(StateError, match="the Bus is closed"):
            await bus.publish("topic", 1, type="t")

    run(main)


def test_leaving_with_an_exception_closes_and_raises_it() -> None:
    async def main() -> None:
        broker = ScriptedBroker()
        with pytest.raises(ZeroDivisionError):
            async with with_handler(bus_of(broker)):
                raise ZeroDivisionError
        assert_nothing_open(broker)

    run(main)
