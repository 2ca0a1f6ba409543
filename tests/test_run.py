"""Running a Bus until a signal: what main may do, and what a first and a second signal end."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import Any

import pytest
from tests.engine.scripted_adapter import (
    PER_MESSAGE,
    ScriptedBroker,
    assert_nothing_open,
    bus_of,
    inbound,
    run,
    until,
    with_handler,
)

from anybroker import Bus, Event, MemoryBroker
from anybroker.adapter import Release
from anybroker.errors import BrokerError, Rejected


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_runs_until_a_signal_and_drains(number: signal.Signals) -> None:
    async def main() -> None:
        broker = ScriptedBroker()
        bus = bus_of(broker)
        begun, go, handled = asyncio.Event(), asyncio.Event(), []

        @bus.subscribe("topic", group="group")
        async def handle(event: Event[Any]) -> None:
            begun.set()
            await go.wait()
            handled.append(event.id)

        async def own() -> None:  # returns, and the Bus goes on
            broker.receiver.deliver(inbound(broker.receiver.assign("a"), 1))

        before = signal.getsignal(number)
        running = asyncio.create_task(bus.run_async(own))
        await begun.wait()
        assert signal.getsignal(number) is not before
        signal.raise_signal(number)
        await until(lambda: broker.receiver.stopped)
        assert not running.done()
        go.set()
        await running
        assert handled == ["1"]
        assert signal.getsignal(number) is before
        assert_nothing_open(broker)

    run(main)


def test_it_says_where_it_started_why_it_drains_and_that_it_closed(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        bus = with_handler(Bus(MemoryBroker(), source="shop", drain=7))

        async def own() -> None:
            signal.raise_signal(signal.SIGTERM)

        await bus.run_async(own)

    with caplog.at_level("INFO", "anybroker.bus"):
        run(main)
    assert [record.getMessage() for record in caplog.records] == [
        "started on memory",
        "SIGTERM: draining for at most 7 s; a second signal ends that at once",
        "closed",
    ]


def test_the_broker_is_said_without_the_options_of_its_url(own_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async def own() -> None:
            signal.raise_signal(signal.SIGINT)

        await Bus("sqlite:///shop.db?busy_timeout=5", source="shop").run_async(own)

    with caplog.at_level("INFO", "anybroker.bus"):
        run(main)
    assert caplog.records[0].getMessage() == "started on sqlite:///shop.db"


def test_a_signal_cancels_a_main_that_goes_on() -> None:
    async def main() -> None:
        broker = ScriptedBroker()
        bus = with_handler(bus_of(broker))
        begun, ended = asyncio.Event(), []

        async def own() -> None:
            begun.set()
            try:
                await asyncio.Event().wait()
            finally:
                ended.append(broker.closed)

        running = asyncio.create_task(bus.run_async(own))
        await begun.wait()
        signal.raise_signal(signal.SIGTERM)
        await running
        assert ended == [False]  # before the Bus closes, so that it may publish still
        assert_nothing_open(broker)

    run(main)


def test_a_second_signal_cancels_what_still_runs() -> None:
    async def main() -> None:
        broker = ScriptedBroker(**PER_MESSAGE)
        broker.on_send = lambda _: False
        bus = bus_of(broker, drain=60)
        begun, results = asyncio.Event(), []

        @bus.subscribe("topic", group="group")
        async def handle(event: Event[Any]) -> None:
            begun.set()
            await asyncio.Event().wait()

        async def own() -> None:
            publishing.append(asyncio.create_task(bus.publish("other", 1, type="t")))
            broker.receiver.deliver(inbound(broker.receiver.assign("a"), 1))

        publishing: list[asyncio.Task[Any]] = []
        running = asyncio.create_task(bus.run_async(own))
        await begun.wait()
        signal.raise_signal(signal.SIGINT)
        await until(lambda: broker.receiver.stopped)
        signal.raise_signal(signal.SIGTERM)
        async with asyncio.timeout(5):
            await running
            results = await asyncio.gather(*publishing, return_exceptions=True)
        assert isinstance(results[0], BrokerError)
        assert [item.attempts for item in broker.receiver.settled if isinstance(item, Release)] == [0]
        assert_nothing_open(broker)

    run(main)


@pytest.mark.parametrize("error", [ValueError("no"), SystemExit(7), KeyboardInterrupt()])
def test_a_main_that_fails_or_exits_closes_the_bus_and_raises(error: BaseException) -> None:
    broker = ScriptedBroker()
    bus = with_handler(bus_of(broker))

    async def own() -> None:
        raise error

    with pytest.raises(type(error)) as caught:
        bus.run(own)
    assert caught.value is error
    assert broker.closed
    assert all(receiver.closed for receiver in broker.receivers)


def test_a_start_that_fails_ends_the_run_and_leaves_the_signals_alone() -> None:
    broker = ScriptedBroker()
    broker.open_error = Rejected("no permission")
    before = signal.getsignal(signal.SIGTERM)
    begun: list[int] = []

    async def own() -> None:
        begun.append(1)

    with pytest.raises(Rejected, match="no permission"):
        with_handler(bus_of(broker)).run(own)
    assert begun == []
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_cancelled_run_ends_its_main() -> None:
    async def main() -> None:
        bus = Bus(MemoryBroker(), source="test")
        begun, ended = asyncio.Event(), asyncio.Event()

        async def own() -> None:
            begun.set()
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()

        running = asyncio.create_task(bus.run_async(own))
        await begun.wait()
        running.cancel()
        await asyncio.wait((running,))
        await asyncio.sleep(0)
        assert ended.is_set()

    run(main)
