"""groups: each group gets everything, one member each, and no group waits for another."""

from __future__ import annotations

import asyncio

from anybroker import Delivery

from ._checkers import duplicates, lost, unexpected
from ._kit import Kit, counted


async def test_each_group_gets_everything(kit: Kit) -> None:
    """Each of two groups of a topic gets every event, once."""
    topic = kit.topic()
    bus = kit.bus()
    logs = [kit.subscribe(bus, topic, group) for group in ("one", "two")]
    async with bus:
        published = await kit.publish(bus, topic, kit.pick(100, 1000), keys=7)
        for log in logs:
            await log.wait_done(id_ for _, id_ in published)
    for log in logs:
        assert len(log.handlings) == len(published)


async def test_members_of_a_group_share_its_events(kit: Kit) -> None:
    """Several members of a group get every event between them, none twice without a fault."""
    topic = kit.topic()
    log = kit.log()
    buses = [kit.bus() for _ in range(3)]
    for number, bus in enumerate(buses):
        kit.subscribe(bus, topic, log=log, member=f"m{number}")
        await bus.start()
    # A rebalance may still be under way; what comes now is for a group that is settled.
    await kit.publish(buses[0], topic, 16, keys=16, writer="warm")
    await log.wait_done(f"warm-{number}" for number in range(16))
    await log.quiet(0.2)
    published = await kit.publish(buses[0], topic, kit.pick(300, 5000), keys=32)
    await log.wait_done(id_ for _, id_ in published)
    await log.quiet(0.2)
    settled = [handling for handling in log.handlings if handling.id.startswith("w-")]
    assert not lost([id_ for _, id_ in published], settled)
    assert not unexpected([id_ for _, id_ in published], settled)
    assert not duplicates(settled)


async def test_a_slow_group_does_not_slow_another(kit: Kit) -> None:
    """While the handlers of one group are blocked, another group of the topic gets everything."""
    topic = kit.topic()
    bus = kit.bus(drain=0.5)
    still = asyncio.Event()

    async def wait(_: Delivery) -> None:
        await still.wait()

    slow = kit.subscribe(bus, topic, "slow", behave=wait)
    fast = kit.subscribe(bus, topic, "fast")
    async with bus:
        published = await kit.publish(bus, topic, 300, keys=9)
        await slow.wait_started(1)
        await fast.wait_done(id_ for _, id_ in published)
        assert slow.done == []
        still.set()
        await slow.wait_done(id_ for _, id_ in published)


async def test_groups_of_one_name_on_two_topics_are_two_groups(kit: Kit) -> None:
    """A consumer of one topic takes nothing from the group of the same name of another topic."""
    one, two = kit.topic(), kit.topic()
    await kit.declared(two, "g")
    bus = kit.bus()
    log = kit.subscribe(bus, one)
    async with bus:
        waiting = await kit.publish(bus, two, 10, writer="two")
        published = await kit.publish(bus, one, 10, writer="one")
        await log.wait_done(id_ for _, id_ in published)
    later = kit.bus()
    second = kit.subscribe(later, two)
    async with later:
        await second.wait_done(id_ for _, id_ in waiting)
    assert not unexpected([id_ for _, id_ in published], log.handlings)


async def test_what_one_group_changes_reaches_nobody_else(kit: Kit) -> None:
    """A handler that changes its payload does not change what another group sees, or what was published."""
    topic = kit.topic()
    bus = kit.bus()
    seen: list[dict[str, object]] = []

    async def spoil(delivery: Delivery) -> None:
        seen.append(dict(delivery.event.data))
        delivery.event.data["n"] = "spoilt"

    logs = [kit.subscribe(bus, topic, group, behave=spoil) for group in ("one", "two")]
    event = counted(0)
    async with bus:
        await bus.publish(topic, event)
        for log in logs:
            await log.wait_done(["w-0"])
    assert seen == [{"n": 0}] * 2
    assert event.data == {"n": 0}
