"""order and delivery while members of a group come and go."""

from __future__ import annotations

import asyncio

from anybroker import Delivery

from ._checkers import duplicates, inversions, lost, overlaps, unexpected
from ._kit import Kit
from .marks import requires


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
    # Members that leave in peace settle what they did: a repeat would be a settlement that got lost on the way.
    assert not duplicates(log.handlings)


@requires("ordering")
async def test_a_member_that_leaves_hands_over_at_once(kit: Kit) -> None:
    """What a leaving member had not started is with the next one well before the lease ends, and in order."""
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
    """A second member handles some of what is published after it came, while the first one lives."""
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
