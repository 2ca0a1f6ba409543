"""handlers: each start stands by itself, whatever the handler does to its task, its context or its background tasks."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextvars import ContextVar

import pytest

from anybroker import Delivery
from anybroker.middleware import Handler, middleware, retry
from anybroker.testing import fail

from ._checkers import duplicates, inversions
from ._kit import Kit, counted
from .test_dead_letter import letters


class Unusual(BaseException):
    """What neither ``except Exception`` nor asyncio's own handling expects."""


async def _cancels_its_own_task(_: Delivery) -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await asyncio.sleep(60)


async def _cancels_and_raises(_: Delivery) -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    raise ValueError("and fails before it waits")


async def _exits(_: Delivery) -> None:
    raise SystemExit(3)


async def _interrupts(_: Delivery) -> None:
    raise KeyboardInterrupt


async def _raises_what_nothing_catches(_: Delivery) -> None:
    raise Unusual


_FAILURES: dict[str, Callable[[Delivery], Awaitable[None]]] = {
    "its own cancellation": _cancels_its_own_task,
    "a cancellation that waits, and an error": _cancels_and_raises,
    "SystemExit": _exits,
    "KeyboardInterrupt": _interrupts,
    "a BaseException": _raises_what_nothing_catches,
}


@pytest.mark.parametrize("failure", _FAILURES)
async def test_whatever_a_handler_raises_is_a_failed_start(kit: Kit, failure: str) -> None:
    """A handler that cancels its own task, or raises a ``BaseException``, has failed like any other: it is started
    again, counted, dead-lettered after the last attempt, and blocks only its own key until then."""
    topic = kit.topic()
    bus = kit.bus()

    async def behave(delivery: Delivery) -> None:
        if delivery.event.id == "w-0":
            await _FAILURES[failure](delivery)

    log = kit.subscribe(bus, topic, behave=behave, middleware=[retry(attempts=2, first=0.05)])
    async with bus:
        published = await kit.publish(bus, topic, 6, keys=2)
        await log.wait_done([id_ for _, id_ in published if id_ != "w-0"])
        (letter,) = await letters(kit, bus, topic, 1)
        assert (letter.id, letter.attempts) == ("w-0", 2)
        await kit.drained(bus, topic)
        assert bus.problems == {}
    assert log.attempts("w-0") == [1, 2]
    assert not duplicates(handling for handling in log.handlings if handling.id != "w-0")
    assert not inversions(published, log.handlings)


async def test_a_cancellation_that_was_swallowed_ends_with_its_handler(kit: Kit) -> None:
    """A handler that cancels its task, swallows that and returns has succeeded: neither the middleware around it nor
    the next handler is cancelled."""
    topic = kit.topic()
    bus = kit.bus()

    @middleware
    async def audit(delivery: Delivery, call_next: Handler) -> None:
        await call_next(delivery)
        await asyncio.sleep(0.01)

    async def behave(delivery: Delivery) -> None:
        if delivery.event.id == "w-0":
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                return
        if delivery.event.id == "w-1":
            task = asyncio.current_task()
            assert task is not None
            task.cancel()  # not even waited for
            return
        await asyncio.sleep(0.01)

    log = kit.subscribe(bus, topic, behave=behave, max_in_flight=1, middleware=[audit])
    async with bus:
        published = await kit.publish(bus, topic, 5, keys=1)
        await log.wait_done(id_ for _, id_ in published)
        await kit.drained(bus, topic)
    assert [handling.attempt for handling in log.handlings] == [1] * 5
    assert not inversions(published, log.handlings)


_mark: ContextVar[str] = ContextVar("contract_mark", default="")


async def test_a_context_variable_of_one_start_is_not_seen_in_the_next(kit: Kit) -> None:
    """Each start runs in its own context, a copy of that of the Bus's start: what a handler sets there ends with it."""
    topic = kit.topic()
    bus = kit.bus()
    seen: list[tuple[str, str]] = []

    async def behave(delivery: Delivery) -> None:
        before = _mark.get()
        _mark.set(delivery.event.id)
        await asyncio.sleep(0)
        seen.append((before, _mark.get()))

    log = kit.subscribe(bus, topic, behave=behave, max_in_flight=2)
    _mark.set("at the start of the Bus")
    async with bus:
        _mark.set("of the publisher")
        published = await kit.publish(bus, topic, 12, keys=3)
        await log.wait_done(id_ for _, id_ in published)
    assert {before for before, _ in seen} == {"at the start of the Bus"}
    assert sorted(own for _, own in seen) == sorted(id_ for _, id_ in published)


async def test_what_a_background_task_publishes_later_has_no_cause(kit: Kit) -> None:
    """A task that a handler leaves behind publishes like any other code once the handler has returned: with a new id,
    and without the finished delivery as its cause."""
    topic, next_topic = kit.topic(), kit.topic("next")
    bus = kit.bus()
    tasks: list[asyncio.Task[None]] = []
    free = asyncio.Event()

    async def later() -> None:
        await free.wait()
        await bus.publish(next_topic, {"n": 1}, type="com.example.contract.later.v1", key="k")

    async def behave(_: Delivery) -> None:
        await bus.publish(next_topic, {"n": 0}, type="com.example.contract.now.v1", key="k")
        tasks.append(asyncio.create_task(later()))

    log = kit.subscribe(bus, topic, behave=behave)
    published = kit.subscribe(bus, next_topic)
    async with bus:
        await bus.publish(topic, counted(0))
        await log.wait_done(["w-0"])
        free.set()
        await asyncio.gather(*tasks)
        await published.wait_started(2)
    by_type = {handling.event.type: handling.event for handling in published.handlings}
    assert by_type["com.example.contract.now.v1"].get("causationid") == "w-0"
    assert by_type["com.example.contract.later.v1"].get("causationid") is None
    assert by_type["com.example.contract.later.v1"].get("correlationid") is None


async def test_a_settlement_that_failed_is_made_again(kit: Kit) -> None:
    """An acknowledgement that the broker did not accept is sent again while this member has the event: nothing is
    handled twice, and a problem is reported for as long as it fails."""
    topic = kit.topic()
    broker = kit.faulty()
    bus = kit.bus(target=broker, lease=kit.lease)
    fault = fail("settle")
    log = kit.subscribe(bus, topic)
    async with bus:
        broker.faults.append(fault)
        published = await kit.publish(bus, topic, 10, keys=3)
        await log.wait_done(id_ for _, id_ in published)
        await kit.unwell(bus)
        await log.quiet(2 * kit.lease)
        broker.faults.clear()
        await kit.drained(bus, topic)
        await kit.well(bus)
    assert fault.hits > 1
    assert not duplicates(log.handlings)
    again = kit.bus()
    kit.subscribe(again, topic, log=log)
    async with again:
        await log.quiet()
    assert not duplicates(log.handlings)


async def test_a_start_that_the_drain_cuts_off_does_not_count(kit: Kit) -> None:
    """A handler that a shutdown cancels has not used up an attempt: all ``attempts`` starts are still left."""
    topic = kit.topic()
    log = kit.log()

    async def stick(_: Delivery) -> None:
        await asyncio.Event().wait()

    for _ in range(2):
        bus = kit.bus(drain=0.2)
        kit.subscribe(bus, topic, log=log, behave=stick, middleware=[retry(attempts=2, first=0.01)])
        await bus.start()
        if not log.handlings:
            await bus.publish(topic, counted(0, key="k"))
        await log.wait_started(1 if len(log.handlings) < 1 else 2)
        await bus.close()

    async def give_up(_: Delivery) -> None:
        raise ValueError("no")

    bus = kit.bus()
    kit.subscribe(bus, topic, log=log, behave=give_up, middleware=[retry(attempts=2, first=0.01)])
    async with bus:
        (letter,) = await letters(kit, bus, topic, 1)
        assert letter.attempts == 2
    assert log.attempts("w-0") == [1, 1, 1, 2]
