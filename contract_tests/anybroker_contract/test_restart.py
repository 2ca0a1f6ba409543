"""The broker goes and comes back: nothing that was confirmed is lost, and everything resumes by itself."""

from __future__ import annotations

import asyncio

import pytest

from anybroker import Bus, Delivery
from anybroker.errors import BrokerError

from ._checkers import inversions, lost, unexpected
from ._kit import Kit, counted
from .marks import needs_harness, requires


async def keep_publishing(bus: Bus, topic: str, confirmed: list[str], stop: asyncio.Event) -> None:
    """Publish one event after the other until told to stop; note those with a receipt, let the others go."""
    number = 0
    while not stop.is_set():
        batch = [counted(number + at, key=f"k{at}") for at in range(16)]
        number += 16
        results = await bus.publish_many(topic, batch)
        confirmed += [
            event.id for event, result in zip(batch, results, strict=True) if not isinstance(result, BrokerError)
        ]


async def go_on_under_load(kit: Kit, *disturbances: str) -> None:
    """Publish and consume while this is done to the broker; check that nothing is lost, inverted or left standing."""
    topic = kit.topic()
    bus = kit.bus(publish_deadline=30.0)
    log = kit.subscribe(bus, topic)
    confirmed: list[str] = []
    stop = asyncio.Event()
    async with bus:
        load = asyncio.create_task(keep_publishing(bus, topic, confirmed, stop))
        await log.until(lambda: len(log.done) >= 100, "a hundred before")
        for what in disturbances:
            await kit.disturb(what)
        back = len(confirmed)
        await log.until(lambda: len(confirmed) >= back + 64, "publishing goes on", 40.0)
        stop.set()
        await load
        await log.wait_done(confirmed, patience=40.0)
    assert not lost(confirmed, log.handlings)
    numbers = {handling.id: int(handling.id.partition("-")[2]) for handling in log.handlings}
    published = [(f"k{number % 16}", id_) for id_, number in sorted(numbers.items(), key=lambda item: item[1])]
    assert inversions(published, log.handlings) == []
    assert not unexpected([id_ for _, id_ in published], log.handlings)


@pytest.mark.timeout(110)
@needs_harness("restart")
@requires("durable")
async def test_a_broker_restarted_under_load_loses_nothing(kit: Kit) -> None:
    """A restart while events are published and consumed: everything with a receipt is handled, keys stay in order, and
    publishing and consuming continue without help."""
    await go_on_under_load(kit, "restart")


@pytest.mark.timeout(110)
@needs_harness("kill", "start")
@requires("durable")
async def test_a_broker_killed_under_load_loses_nothing(kit: Kit) -> None:
    """A SIGKILL and a start while events are published and consumed: everything with a receipt is handled, keys stay in
    order, and publishing and consuming continue without help."""
    await go_on_under_load(kit, "kill", "start")


@pytest.mark.timeout(110)
@needs_harness("restart")
@requires("durable")
async def test_what_was_confirmed_before_a_restart_is_there_after_it(kit: Kit) -> None:
    """Events that nobody had consumed survive a restart of the broker, and so does the position of the group."""
    topic = kit.topic()
    log = kit.log()
    first = kit.bus()
    kit.subscribe(first, topic, log=log)
    async with first:
        done = await kit.publish(first, topic, 20, keys=4)
        await log.wait_done(id_ for _, id_ in done)
    async with kit.bus(consume=False) as publisher:
        waiting = await kit.publish(publisher, topic, 50, keys=5, first=20)
    await kit.disturb("restart")
    bus = kit.bus(connect_timeout=30.0)
    kit.subscribe(bus, topic, log=log)
    async with bus:
        await log.wait_done((id_ for _, id_ in waiting), patience=40.0)
    assert len(log.handlings) == 70


@pytest.mark.timeout(110)
@needs_harness("restart")
@requires("durable")
async def test_an_idle_bus_survives_a_restart(kit: Kit) -> None:
    """A Bus that did nothing while its broker was restarted publishes and consumes again."""
    topic = kit.topic()
    bus = kit.bus(publish_deadline=30.0)
    log = kit.subscribe(bus, topic)
    async with bus:
        await bus.publish(topic, counted(0))
        await log.wait_done(["w-0"])
        await kit.disturb("restart")
        await bus.publish(topic, counted(1))
        await log.wait_done(["w-1"], patience=40.0)


@pytest.mark.timeout(110)
@needs_harness("freeze", "thaw")
async def test_every_publish_ends_by_its_deadline_while_the_broker_stands_still(kit: Kit) -> None:
    """While the broker is frozen, publishes end by their deadline with a typed error. When it runs again, the events of
    these publishes may or may not arrive, and later ones arrive."""
    topic = kit.topic()
    bus = kit.bus()
    log = kit.subscribe(bus, topic)
    loop = asyncio.get_running_loop()
    async with bus:
        await bus.publish(topic, counted(0))
        await kit.disturb("freeze")
        try:
            began = loop.time()
            tasks = [bus.publish(topic, counted(number), deadline=1.0) for number in range(1, 21)]
            results = await asyncio.gather(*tasks, return_exceptions=True)
            took = loop.time() - began
        finally:
            await kit.disturb("thaw")
        assert all(isinstance(result, BrokerError) for result in results)
        assert took < 2.0
        await bus.publish(topic, counted(99), deadline=40.0)
        await log.wait_done(["w-0", "w-99"], patience=40.0)
    assert set(log.started) <= {f"w-{number}" for number in (*range(21), 99)}


@pytest.mark.timeout(110)
@needs_harness("restart")
@requires("durable")
async def test_handlers_in_flight_at_a_restart_are_settled_or_repeated(kit: Kit) -> None:
    """Handlers that run while the broker is restarted finish; their events are done or come again; none is lost."""
    topic = kit.topic()
    bus = kit.bus()
    free = asyncio.Event()

    async def wait(_: Delivery) -> None:
        await free.wait()

    log = kit.subscribe(bus, topic, behave=wait)
    async with bus:
        published = await kit.publish(bus, topic, 10, keys=10)
        await log.wait_started(10)
        await kit.disturb("restart")
        free.set()
        await bus.publish(topic, counted(50), deadline=40.0)
        await log.wait_done(["w-50", *(id_ for _, id_ in published)], patience=40.0)
    again = kit.bus()
    later = kit.subscribe(again, topic)
    async with again:
        await later.quiet(0.5)
    assert later.handlings == []
