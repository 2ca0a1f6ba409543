"""close, open: handlers finish or their events come back; nothing is lost, counted or dead-lettered on the way out."""

from __future__ import annotations

import asyncio
import threading

import pytest

from anybroker import Delivery
from anybroker.errors import AnybrokerError, ConfigError, PublishOutcomeUnknown, StateError, Unavailable

from ._checkers import duplicates, lost, unexpected
from ._kit import Kit, counted
from .marks import needs_harness


async def test_close_waits_for_the_handlers_in_flight(kit: Kit) -> None:
    """``close`` returns after the running handlers have returned, and settles their events."""
    topic = kit.topic()
    log = kit.log()
    bus = kit.bus()
    free = asyncio.Event()

    async def wait(_: Delivery) -> None:
        await free.wait()

    kit.subscribe(bus, topic, log=log, behave=wait)
    await bus.start()
    await kit.publish(bus, topic, 3, keys=3)
    await log.wait_started(3)
    closing = asyncio.create_task(bus.close())
    await log.quiet(0.2)
    assert not closing.done()
    free.set()
    await closing
    assert sorted(log.done) == ["w-0", "w-1", "w-2"]
    again = kit.bus()
    kit.subscribe(again, topic, log=log)
    async with again:
        await log.quiet()
    assert not duplicates(log.handlings)


async def test_a_closed_bus_starts_again(kit: Kit) -> None:
    """A Bus that was closed can be started again: it goes on with the same handlers, and loses nothing."""
    topic = kit.topic()
    log = kit.log()
    bus = kit.bus()
    kit.subscribe(bus, topic, log=log)
    published: list[str] = []
    for first in (0, 3, 6):
        async with bus:
            published += [id_ for _, id_ in await kit.publish(bus, topic, 3, keys=3, first=first)]
            await log.wait_done(published)
        with pytest.raises(StateError):
            await kit.publish(bus, topic, 1)
    assert not duplicates(log.handlings)
    assert bus.stats.published == len(published)


async def test_a_subscription_is_added_to_a_running_bus(kit: Kit) -> None:
    """``await bus.add(subscription)``: its group is there when it returns, and gets all that is published then."""
    topic, other = kit.topic(), kit.topic()
    early, late = kit.log(), kit.log()
    bus = kit.bus()
    kit.subscribe(bus, topic, log=early)
    async with bus:
        kit.subscribe(bus, other, log=late)
        await bus.add(bus.subscriptions[-1])
        for name, log in ((topic, early), (other, late)):
            published = await kit.publish(bus, name, 3, keys=3)
            await log.wait_done(id_ for _, id_ in published)
    assert not duplicates(early.handlings)
    assert not duplicates(late.handlings)


async def test_after_the_drain_time_handlers_are_cancelled_and_their_events_come_back(kit: Kit) -> None:
    """``close`` ends soon after ``drain`` seconds; what its handlers had not finished goes to the next member."""
    topic = kit.topic()
    log = kit.log()
    bus = kit.bus(drain=0.3)

    async def stick(_: Delivery) -> None:
        await asyncio.Event().wait()

    kit.subscribe(bus, topic, log=log, behave=stick)
    await bus.start()
    published = await kit.publish(bus, topic, 4, keys=4)
    await log.wait_started(4)
    loop = asyncio.get_running_loop()
    began = loop.time()
    await bus.close()
    assert 0.25 <= loop.time() - began < 0.3 + 2.0 + kit.capabilities.poll + kit.patience / 4
    assert [handling.failed for handling in log.handlings] == ["CancelledError"] * 4
    again = kit.bus()
    kit.subscribe(again, topic, log=log)
    async with again:
        await log.wait_done(id_ for _, id_ in published)


async def test_what_was_not_started_at_close_is_neither_counted_nor_dead_lettered(kit: Kit) -> None:
    """Events that wait in the buffer at close come to the next member as first attempts; none is a dead letter."""
    topic = kit.topic()
    log = kit.log()
    bus = kit.bus()
    free = asyncio.Event()

    async def wait(_: Delivery) -> None:
        await free.wait()

    kit.subscribe(bus, topic, log=log, behave=wait, max_in_flight=2)
    await bus.start()
    published = await kit.publish(bus, topic, 12, keys=12)
    await log.wait_started(2)
    closing = asyncio.create_task(bus.close())
    await log.quiet(0.1)
    free.set()
    await closing
    started = set(log.started)
    again = kit.bus()
    kit.subscribe(again, topic, log=log)
    async with again:
        await log.wait_done(id_ for _, id_ in published)
        queue = again.dead_letters(topic, "g")
        queue.patience = kit.brief
        assert await queue.list() == []
    assert len(started) < 12
    assert {handling.attempt for handling in log.handlings} == {1}
    assert not duplicates(log.handlings)


async def test_many_restarts_lose_nothing(kit: Kit) -> None:
    """Consuming a part, closing and opening again, many times while events are published, neither loses nor repeats
    anything."""
    topic = kit.topic()
    log = kit.log()
    await kit.declared(topic, "g")
    rounds, each = kit.pick((4, 25), (15, 60))
    async with kit.bus(consume=False) as publisher:
        published = []
        for round_ in range(rounds):
            published += await kit.publish(publisher, topic, each, keys=6, first=each * round_)
            bus = kit.bus()
            kit.subscribe(bus, topic, log=log, max_in_flight=4)
            wanted = len(log.handlings) + each // 2
            async with bus:
                await log.wait_started(wanted)
    bus = kit.bus()
    kit.subscribe(bus, topic, log=log)
    async with bus:
        await log.wait_done(id_ for _, id_ in published)
    assert not lost([id_ for _, id_ in published], log.handlings)
    assert not unexpected([id_ for _, id_ in published], log.handlings)
    assert not duplicates(log.handlings)


async def test_nothing_that_publish_returned_for_is_lost_by_an_immediate_close(kit: Kit) -> None:
    """What has a receipt is still there after an immediate close, before anybody has consumed it."""
    topic = kit.topic()
    await kit.declared(topic, "g")
    bus = kit.bus(consume=False)
    await bus.start()
    published = await kit.publish(bus, topic, kit.pick(120, 1000), keys=5)
    await bus.close()
    again = kit.bus()
    log = kit.subscribe(again, topic)
    async with again:
        await log.wait_done(id_ for _, id_ in published)


async def test_publishes_under_way_at_close_end_and_tell_the_truth(kit: Kit) -> None:
    """A publish that meets a close ends with a receipt or a typed error; with a receipt its event is there."""
    topic = kit.topic()
    await kit.declared(topic, "g")
    bus = kit.bus(consume=False, drain=5.0)
    await bus.start()
    await bus.publish(topic, counted(0, writer="first"))
    tasks = [asyncio.create_task(bus.publish(topic, counted(number, key="k"))) for number in range(100)]
    await asyncio.sleep(0)
    await bus.close()
    async with asyncio.timeout(kit.patience):
        results = await asyncio.gather(*tasks, return_exceptions=True)
    errors = [result for result in results if isinstance(result, BaseException)]
    assert all(isinstance(error, StateError | Unavailable | PublishOutcomeUnknown) for error in errors)
    confirmed = [f"w-{at}" for at, result in enumerate(results) if not isinstance(result, BaseException)]
    again = kit.bus()
    log = kit.subscribe(again, topic)
    async with again:
        await log.wait_done(["first-0", *confirmed])


async def test_close_is_idempotent_and_may_be_called_side_by_side(kit: Kit) -> None:
    """``close`` from several tasks, and again later, closes once."""
    topic = kit.topic()
    bus = kit.bus()
    log = kit.subscribe(bus, topic)
    await bus.start()
    published = await kit.publish(bus, topic, 10, keys=2)
    await log.wait_done(id_ for _, id_ in published)
    async with asyncio.timeout(kit.patience):
        await asyncio.gather(*(bus.close() for _ in range(5)))
        await bus.close()
    with pytest.raises(StateError):
        await bus.publish(topic, counted(99))


async def test_close_ends_soon_and_leaves_nothing_running(kit: Kit) -> None:
    """A Bus with nothing to do closes within 5 s (and one poll), and none of its threads or tasks keeps running."""
    topic = kit.topic()
    before = set(threading.enumerate())
    bus = kit.bus()
    kit.subscribe(bus, topic)
    await bus.start()
    await bus.publish(topic, counted(0))
    async with asyncio.timeout(5.0 + kit.capabilities.poll):
        await bus.close()
    left = [thread for thread in set(threading.enumerate()) - before if not thread.name.startswith("asyncio_")]
    for thread in left:
        await asyncio.to_thread(thread.join, 2.0)
    assert [thread.name for thread in left if thread.is_alive()] == []


async def test_ten_buses_open_and_close_at_once(kit: Kit) -> None:
    """Ten Buses with subscriptions of one group start, share events, and close concurrently; nothing is lost."""
    topic = kit.topic()
    log = kit.log()
    buses = [kit.bus() for _ in range(kit.pick(5, 10))]
    for number, bus in enumerate(buses):
        kit.subscribe(bus, topic, log=log, member=f"m{number}")
    await asyncio.gather(*(bus.start() for bus in buses))
    published = await kit.publish(buses[0], topic, 60, keys=20)
    await log.wait_done(id_ for _, id_ in published)
    async with asyncio.timeout(kit.patience):
        await asyncio.gather(*(bus.close() for bus in buses))


async def test_a_start_that_fails_leaves_nothing_open(kit: Kit) -> None:
    """A Bus whose start failed is closed; the same topic can be used at once by another."""
    topic = kit.topic()
    bus = kit.bus(topics={topic: {"ordered": False}})
    kit.subscribe(bus, topic, ordered=True)
    with pytest.raises(ConfigError, match="ordered"):
        await bus.start()
    await bus.close()
    other = kit.bus()
    log = kit.subscribe(other, topic)
    async with other:
        await other.publish(topic, counted(0))
        await log.wait_done(["w-0"])


@needs_harness("absent_url")
async def test_no_broker_is_a_typed_error_by_the_deadline(kit: Kit) -> None:
    """Starting where no broker answers raises Unavailable within ``connect_timeout``, and names the address."""
    url = kit.harness.absent_url()
    bus = kit.bus(target=url, connect_timeout=2.0)
    loop = asyncio.get_running_loop()
    began = loop.time()
    with pytest.raises(AnybrokerError) as caught:
        await bus.start()
    assert loop.time() - began < 2.0 + 3.0
    assert isinstance(caught.value, Unavailable)
    assert url.partition("://")[2].partition("?")[0] in str(caught.value)
