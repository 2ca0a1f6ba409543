"""order and delivery while members of a group come and go."""

from __future__ import annotations

import asyncio

from anybroker import Bus, Delivery, Retry
from anybroker.middleware import retry

from ._checkers import duplicates, inversions, lost, overlaps, unexpected
from ._kit import Kit, counted
from .marks import needs_harness, requires


async def slowly(delivery: Delivery) -> None:
    """A handler that takes a few milliseconds."""
    await asyncio.sleep(0.002 + 0.002 * (delivery.event.data["n"] % 3))


@requires("ordering")
async def test_members_join_and_leave_without_loss_or_inversion(kit: Kit) -> None:
    """While events are published, members join and leave in turn: nothing is lost, no key is inverted, and a key is
    never with two members at once."""
    topic = kit.topic()
    log = kit.log()
    await kit.declared(topic, "g")
    published: list[tuple[str | None, str]] = []
    turns = kit.pick(6, 12)
    async with kit.bus(consume=False) as publisher:
        members = []
        for turn in range(turns):
            bus = kit.bus()
            kit.subscribe(bus, topic, log=log, behave=slowly, member=f"m{turn}", max_in_flight=16)
            starting = asyncio.create_task(bus.start())
            published += await kit.publish(publisher, topic, 60, keys=12, first=60 * turn)
            await starting
            members.append(bus)
            if len(members) > 2:
                leaving = asyncio.create_task(members.pop(0).close())
                published += await kit.publish(publisher, topic, 30, keys=12, first=10_000 + 30 * turn)
                await leaving
        await log.wait_done(id_ for _, id_ in published)
        for bus in members:
            await bus.close()
    assert not lost([id_ for _, id_ in published], log.handlings)
    assert not unexpected([id_ for _, id_ in published], log.handlings)
    assert inversions(published, log.handlings) == []
    assert overlaps(log.handlings) == []
    # Members that leave cleanly settle what they did: a repeat would be a settlement that got lost on the way.
    assert not duplicates(log.handlings)


@requires("ordering")
async def test_a_member_that_leaves_hands_over_at_once(kit: Kit) -> None:
    """The next member gets what a leaving member had not started well before the lease ends, and in order."""
    topic = kit.topic()
    log = kit.log()
    lease = 30.0

    async def stand(_: Delivery) -> None:
        await asyncio.Event().wait()

    first = kit.bus(lease=lease, drain=0.2)
    kit.subscribe(first, topic, log=log, behave=stand, member="first", max_in_flight=2)
    await first.start()
    published = await kit.publish(first, topic, 30, keys=3)
    await log.wait_started(2)
    second = kit.bus(lease=lease)
    kit.subscribe(second, topic, log=log, behave=slowly, member="second")
    starting = asyncio.create_task(second.start())
    await first.close()
    await starting
    await log.wait_done((id_ for _, id_ in published), patience=lease / 2)
    assert inversions(published, [handling for handling in log.handlings if handling.member == "second"]) == []


@requires("ordering")
async def test_a_member_that_joins_gets_a_share(kit: Kit) -> None:
    """A second member handles some of what is published after it joined, while the first one still runs."""
    topic = kit.topic()
    log = kit.log()
    buses = []
    for number in range(2):
        bus = kit.bus()
        kit.subscribe(bus, topic, log=log, behave=slowly, member=f"m{number}", max_in_flight=4)
        await bus.start()
        buses.append(bus)
    published: list[tuple[str | None, str]] = []
    loop = asyncio.get_running_loop()
    end = loop.time() + max(kit.patience, 15)
    while {handling.member for handling in log.handlings} < {"m0", "m1"}:
        assert loop.time() < end, "one member has everything"
        published += await kit.publish(buses[0], topic, 64, keys=32, first=len(published))
        await log.wait_done(id_ for _, id_ in published)
    assert inversions(published, log.handlings) == []
    assert not duplicates(log.handlings)


@requires("ordering")
async def test_attempts_go_on_where_a_key_moves_to_another_member(kit: Kit) -> None:
    """Events that fail and wait in place keep their count when a member joins, and when their own member leaves
    cleanly."""
    topic = kit.topic()
    log = kit.log()
    ids = {f"w-{number}" for number in range(16)}

    async def fail(_: Delivery) -> None:
        raise Retry(after=0.3)

    keep_trying = [retry(attempts=1000, mode="hold")]
    first = kit.bus()
    kit.subscribe(first, topic, log=log, behave=fail, member="first", middleware=keep_trying)
    await first.start()
    await asyncio.gather(*(first.publish(topic, counted(number, key=f"k{number}")) for number in range(16)))
    await log.until(lambda: all(len(log.of(id_)) > 1 for id_ in ids), "two starts of each event")
    second = kit.bus()
    kit.subscribe(second, topic, log=log, member="second", middleware=keep_trying)
    await second.start()
    if kit.capabilities.balance:
        await log.until(lambda: any(item.member == "second" for item in log.handlings), "a lane that moves")
    await first.close()
    await log.wait_done(ids)
    for id_ in ids:
        assert log.attempts(id_) == list(range(1, len(log.of(id_)) + 1)), id_


@requires("ordering", "balance")
async def test_lanes_are_shared_out_within_ten_seconds(kit: Kit) -> None:
    """Ten seconds after a member has joined or left, each running member handles some of the new events, in order."""
    topic = kit.topic()
    log = kit.log()
    published: list[tuple[str | None, str]] = []
    members: dict[str, Bus] = {}
    loop = asyncio.get_running_loop()

    async def shared() -> None:
        """A wave of events reaches every member that is there now."""
        end = loop.time() + 10
        while True:
            wave = await kit.publish(publisher, topic, 64, keys=64, first=len(published))
            published.extend(wave)
            ids = {id_ for _, id_ in wave}
            await log.wait_done(ids)
            if {item.member for item in log.handlings if item.id in ids} == set(members):
                return
            assert loop.time() < end, "a member has no lane"

    async with kit.bus(consume=False) as publisher:
        for number in range(3):
            members[f"m{number}"] = bus = kit.bus()
            kit.subscribe(bus, topic, log=log, behave=slowly, member=f"m{number}", lanes=6)
            await bus.start()
            await shared()
        await members.pop("m0").close()
        await shared()
    assert inversions(published, log.handlings) == []
    assert overlaps(log.handlings) == []
    assert not duplicates(log.handlings)


async def _slow(_: Delivery) -> None:
    """A handler behind which a full buffer waits."""
    await asyncio.sleep(0.1)


@requires("ordering")
async def test_what_a_slow_member_holds_stands_in_nobodys_way(kit: Kit) -> None:
    """Lanes go from a slow member that holds all that it may to one that joins. Long before a lease ends each event is
    handled, in order, by one member at a time, and no event is stuck with a member that no longer has its lane."""
    topic = kit.topic()
    log = kit.log()
    lease = 60.0
    await kit.declared(topic, "g", lanes=4)
    first = kit.bus(lease=lease)
    kit.subscribe(first, topic, log=log, behave=_slow, member="first", lanes=4, max_in_flight=4)
    await first.start()
    published = await kit.publish(first, topic, 240, keys=24)
    await log.wait_started(4)
    second = kit.bus(lease=lease)
    kit.subscribe(second, topic, log=log, behave=slowly, member="second", lanes=4, max_in_flight=4)
    await second.start()
    if kit.capabilities.balance:
        await log.until(lambda: any(item.member == "second" for item in log.handlings), "a lane that moves", lease / 4)
    await log.wait_done((id_ for _, id_ in published), patience=lease / 3)
    published += await kit.publish(second, topic, 24, keys=24, first=len(published))
    await log.wait_done((id_ for _, id_ in published), patience=lease / 4)
    await kit.drained(first, topic)
    assert inversions(published, log.handlings) == []
    assert overlaps(log.handlings) == []
    assert not duplicates(log.handlings)


@requires("ordering")
@needs_harness("kill", "start")
async def test_lanes_that_change_hands_at_a_kill_stand_in_nobodys_way(kit: Kit) -> None:
    """The broker is killed while three slow members hold all that they may, and knows none of them when it is back, so
    any member may get any lane. Long before a lease ends each event is handled, in order."""
    topic = kit.topic()
    log = kit.log()
    lease = 60.0
    await kit.declared(topic, "g", lanes=8)
    publisher = await kit.started(consume=False)
    members = []
    for number in range(3):
        bus = kit.bus(lease=lease)
        kit.subscribe(bus, topic, log=log, behave=_slow, member=f"m{number}", lanes=8, max_in_flight=4)
        await bus.start()
        members.append(bus)
    published = await kit.publish(publisher, topic, 480, keys=48)
    await log.wait_started(24)
    await kit.disturb("kill")
    await kit.disturb("start")
    await log.wait_done((id_ for _, id_ in published), patience=lease / 2)
    await kit.drained(members[0], topic)
    assert inversions(published, log.handlings) == []
