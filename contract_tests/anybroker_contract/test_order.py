"""order: events of a key reach a group in publish order, one at a time; a failing one holds its key and no other."""

from __future__ import annotations

import asyncio

import pytest

from anybroker import Delivery
from anybroker.middleware import retry

from ._checkers import at_once, duplicates, inversions, lost, overlaps
from ._kit import Kit, counted
from .marks import requires, tier


async def slowly(delivery: Delivery) -> None:
    """A handler that lets others run, for a time that differs from event to event."""
    await asyncio.sleep(0.001 * (delivery.event.data["n"] % 4))


@requires("ordering")
async def test_order_per_key(kit: Kit) -> None:
    """Events of each of 16 keys reach a group of one member in publish order."""
    topic = kit.topic()
    bus = kit.bus()
    log = kit.subscribe(bus, topic, behave=slowly)
    async with bus:
        published = await kit.publish(bus, topic, kit.pick(320, 1000), keys=16)
        await log.wait_done(id_ for _, id_ in published)
    assert inversions(published, log.handlings) == []
    assert overlaps(log.handlings) == []
    assert not duplicates(log.handlings)


@requires("ordering")
async def test_order_per_key_with_several_members(kit: Kit) -> None:
    """The same with three members: one key is with one member at a time, in publish order."""
    topic = kit.topic()
    log = kit.log()
    buses = [kit.bus() for _ in range(3)]
    for number, bus in enumerate(buses):
        kit.subscribe(bus, topic, log=log, behave=slowly, member=f"m{number}")
        await bus.start()
    published = await kit.publish(buses[0], topic, kit.pick(320, 1000), keys=16)
    await log.wait_done(id_ for _, id_ in published)
    assert inversions(published, log.handlings) == []
    assert overlaps(log.handlings) == []


@requires("ordering")
async def test_order_holds_across_publish_many(kit: Kit) -> None:
    """Batches published one after the other, with mixed keys, keep the order of each key."""
    topic = kit.topic()
    bus = kit.bus()
    log = kit.subscribe(bus, topic)
    published = []
    async with bus:
        for batch in range(5):
            events = [counted(number, key=f"k{number % 3}", writer=f"b{batch}") for number in range(40)]
            await bus.publish_many(topic, events)
            published += [(event.key, event.id) for event in events]
        await log.wait_done(id_ for _, id_ in published)
    assert inversions(published, log.handlings) == []


@requires("ordering")
async def test_different_keys_are_handled_together(kit: Kit) -> None:
    """Handlers of different keys run at the same time: eight of them meet, and a second event of one key waits for the
    first."""
    topic = kit.topic()
    bus = kit.bus()
    meeting = asyncio.Barrier(8)

    async def meet(delivery: Delivery) -> None:
        if delivery.event.data["n"] < 8:
            async with asyncio.timeout(kit.patience):
                await meeting.wait()

    log = kit.subscribe(bus, topic, behave=meet)
    async with bus:
        published = await kit.publish(bus, topic, 24, keys=8)
        await log.wait_done(id_ for _, id_ in published)
    assert at_once(log.handlings) >= 8
    assert overlaps(log.handlings) == []


@requires("ordering")
async def test_a_failing_event_holds_its_key_only(kit: Kit) -> None:
    """While an event waits for its next attempt, later ones of its key wait, and those of other keys are handled."""
    topic = kit.topic()
    bus = kit.bus()
    fixed = asyncio.Event()

    async def fail_first(delivery: Delivery) -> None:
        if delivery.event.id == "w-0" and not fixed.is_set():
            raise ValueError("not yet")

    log = kit.subscribe(bus, topic, behave=fail_first, middleware=[retry(attempts=1000, first=0.02, cap=0.05)])
    async with bus:
        published = await kit.publish(bus, topic, 60, keys=6)
        others = [id_ for key, id_ in published if key != "k0"]
        await log.wait_done(others)
        await log.until(lambda: len(log.of("w-0")) >= 2, "a second attempt")
        held = [id_ for key, id_ in published if key == "k0"]
        assert set(log.started) & set(held) == {"w-0"}
        fixed.set()
        await log.wait_done(held)
    assert inversions(published, log.handlings) == []


@requires("ordering")
async def test_events_without_a_key_are_not_held_up_by_one(kit: Kit) -> None:
    """An event without a key that stays in its handler does not delay other events without a key."""
    topic = kit.topic()
    bus = kit.bus()
    free = asyncio.Event()

    async def hang(delivery: Delivery) -> None:
        if delivery.event.id == "w-0":
            await free.wait()

    log = kit.subscribe(bus, topic, behave=hang)
    async with bus:
        published = await kit.publish(bus, topic, 20)
        await log.wait_done(id_ for _, id_ in published if id_ != "w-0")
        free.set()
        await log.wait_done(["w-0"])
    assert not duplicates(log.handlings)


@requires("ordering")
async def test_order_holds_over_a_stop_and_a_start(kit: Kit) -> None:
    """Stopping and starting a member in the middle repeats at most what was open, and keeps the order."""
    topic = kit.topic()
    log = kit.log()
    await kit.declared(topic, "g")
    async with kit.bus(consume=False) as publisher:
        published = await kit.publish(publisher, topic, kit.pick(200, 1000), keys=8)
    for _ in range(3):
        bus = kit.bus()
        kit.subscribe(bus, topic, log=log, behave=slowly, max_in_flight=8)
        wanted = min(len(log.handlings) + 40, len(published))
        async with bus:
            await log.wait_started(wanted)
    bus = kit.bus()
    kit.subscribe(bus, topic, log=log, behave=slowly)
    async with bus:
        await log.wait_done(id_ for _, id_ in published)
    assert inversions(published, log.handlings) == []
    assert not duplicates(log.handlings)


async def test_an_unordered_subscription_handles_one_key_side_by_side(kit: Kit) -> None:
    """With ``ordered=False`` events of one key run at the same time, and none is lost."""
    topic = kit.topic()
    bus = kit.bus(topics={topic: {"ordered": False}})
    meeting = asyncio.Barrier(4)

    async def meet(delivery: Delivery) -> None:
        if delivery.event.data["n"] < 4:
            async with asyncio.timeout(kit.patience):
                await meeting.wait()

    log = kit.subscribe(bus, topic, behave=meet, ordered=False)
    async with bus:
        published = await kit.publish(bus, topic, 20, keys=1)
        await log.wait_done(id_ for _, id_ in published)
    assert not lost([id_ for _, id_ in published], log.handlings)
    assert at_once(log.handlings) >= 4


@tier("full")
@pytest.mark.timeout(240)  # a broker that takes 1,000 a second needs 100 s each way
@requires("ordering")
async def test_many_keys_leave_no_memory_behind(kit: Kit) -> None:
    """A hundred thousand distinct keys, each used once, leave nothing in memory."""
    topic = kit.topic()
    bus = kit.bus()
    count = 0
    done = asyncio.Event()

    async def handle(_: Delivery) -> None:
        nonlocal count
        count += 1
        if count == 100_000:
            done.set()

    bus.subscribe(topic, group="g")(handle)
    async with bus:
        for start in range(0, 100_000, 1000):
            await bus.publish_many(topic, [counted(n, key=f"key-{n}") for n in range(start, start + 1000)])
        await done.wait()
        assert bus.subscriptions[0].buffered == 0
