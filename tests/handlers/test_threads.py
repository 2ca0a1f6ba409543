"""Plain def handlers: they run in threads, publish from there, and keep their events until they return."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from tests.handlers.orders import PLACED, Placed, handle

from anybroker import Bus, Delivery, Event, MemoryBroker, StateError
from anybroker.middleware import retry
from anybroker.testing import Recorder


def test_a_plain_def_runs_in_a_thread_and_publishes_from_it(bus: Bus, run: Any) -> None:
    threads: list[int] = []
    recorder = Recorder(bus, "invoices")

    @bus.subscribe("orders", group="billing")
    def charge(order: Placed, event: Event, *, delivery: Delivery) -> None:
        threads.append(threading.get_ident())
        bus.from_thread.publish("invoices", {"cents": order.cents}, type="invoice.v1")

    async def main() -> None:
        async with bus:
            receipt = await bus.publish("orders", PLACED)
            (invoice,) = await recorder.wait(1)
            assert receipt.event is not None
            assert invoice["causationid"] == receipt.event.id

    run(main())
    assert threads
    assert threads[0] != threading.get_ident()


def test_a_plain_def_that_fails_is_retried(bus: Bus, run: Any) -> None:
    attempts: list[int] = []

    @bus.subscribe("orders", group="billing")
    @retry(attempts=3, first=0.0)
    def charge(delivery: Delivery) -> None:
        attempts.append(delivery.attempt)
        raise OSError("no")

    (letter,) = run(handle(bus, 1, type="number.v1"))
    assert attempts == [1, 2, 3]
    assert letter.reason == "OSError: no"


def test_a_plain_def_keeps_its_event_until_it_returns(run: Any) -> None:
    """It cannot be cancelled: close waits for it although the drain time is over."""
    broker = MemoryBroker()
    running, go = threading.Event(), threading.Event()
    done: list[str] = []

    def service(name: str) -> Bus:
        bus = Bus(broker, source="shop")

        @bus.subscribe("orders", group="billing")
        def charge(number: int) -> None:
            running.set()
            assert go.wait(10)
            done.append(name)

        return bus

    async def main() -> None:
        bus = service("first")
        await bus.start()
        await bus.publish("orders", 1, type="number.v1")
        await asyncio.to_thread(running.wait, 10)
        closing = asyncio.create_task(bus.close(0))
        await asyncio.wait([closing], timeout=0.05)
        assert not closing.done()
        go.set()
        await closing
        assert done == ["first"]

    run(main())


def test_from_thread_in_the_loops_own_thread_or_before_the_start(bus: Bus, run: Any) -> None:
    with pytest.raises(StateError, match="from_thread: the Bus is not started"):
        bus.from_thread.publish("orders", PLACED)

    async def main() -> None:
        async with bus:
            with pytest.raises(StateError, match=r"Use 'await bus\.publish"):
                bus.from_thread.publish("orders", PLACED)

    run(main())
