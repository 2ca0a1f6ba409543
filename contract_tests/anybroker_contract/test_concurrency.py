"""concurrency: as many handlers as asked for and no more, bounded buffers, pause and resume."""

from __future__ import annotations

import asyncio

from anybroker import Delivery

from ._checkers import at_once, duplicates
from ._kit import Kit


async def test_max_in_flight_is_reached_and_never_passed(kit: Kit) -> None:
    """Exactly ``max_in_flight`` handlers run at once while there is enough to do."""
    topic = kit.topic()
    bus = kit.bus()
    free = asyncio.Event()

    async def wait(_: Delivery) -> None:
        await free.wait()

    log = kit.subscribe(bus, topic, behave=wait, max_in_flight=7)
    async with bus:
        published = await kit.publish(bus, topic, 60, keys=60)
        await log.wait_started(7)
        await log.quiet(0.2)
        assert bus.subscriptions[0].running == 7
        free.set()
        await log.wait_done(id_ for _, id_ in published)
    assert at_once(log.handlings) == 7


async def test_what_is_fetched_ahead_is_bounded(kit: Kit) -> None:
    """While handlers are blocked, at most ``max_ahead`` events are taken from the broker; in the end all are
    handled."""
    topic = kit.topic()
    bus = kit.bus()
    free = asyncio.Event()

    async def wait(_: Delivery) -> None:
        await free.wait()

    log = kit.subscribe(bus, topic, behave=wait, max_in_flight=4, max_ahead=20, lanes=1)
    async with bus:
        published = await kit.publish(bus, topic, 200, keys=50)
        await log.wait_started(4)
        await log.quiet(0.3)
        # What one call of the receiver brought may lie above the bound: twice max_in_flight at most.
        assert 4 <= bus.subscriptions[0].buffered <= 20 + 2 * 4
        free.set()
        await log.wait_done(id_ for _, id_ in published)
    assert not duplicates(log.handlings)


async def test_pause_and_resume(kit: Kit) -> None:
    """After ``pause`` no handler starts; after ``resume`` every event is handled, once."""
    topic = kit.topic()
    bus = kit.bus()
    log = kit.subscribe(bus, topic)
    async with bus:
        first = await kit.publish(bus, topic, 10, keys=3)
        await log.wait_done(id_ for _, id_ in first)
        (subscription,) = bus.subscriptions
        subscription.pause()
        second = await kit.publish(bus, topic, 10, keys=3, first=10)
        await log.quiet(0.3)
        assert len(log.handlings) == 10
        subscription.resume()
        await log.wait_done(id_ for _, id_ in second)
    assert not duplicates(log.handlings)


async def test_a_long_handler_loses_no_membership(kit: Kit) -> None:
    """An event whose handler runs for more than twice the lease is not given to another member."""
    topic = kit.topic()
    log = kit.log()

    async def linger(delivery: Delivery) -> None:
        await asyncio.sleep(kit.lease * 2.5 if delivery.event.id == "w-0" else 0)

    buses = [kit.bus(lease=kit.lease) for _ in range(2)]
    for number, bus in enumerate(buses):
        kit.subscribe(bus, topic, log=log, behave=linger, member=f"m{number}")
        await bus.start()
    published = await kit.publish(buses[0], topic, 12, keys=6)
    await log.wait_done(id_ for _, id_ in published)
    await log.quiet(0.3)
    assert log.attempts("w-0") == [1]
    assert not duplicates(log.handlings)
