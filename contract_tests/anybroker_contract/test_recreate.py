"""recreate: a topic that an operator deletes and makes again is another topic; what it was given is handled."""

from __future__ import annotations

import asyncio

import pytest

from anybroker.errors import BrokerError

from ._kit import Kit
from ._waiting import eventually
from .marks import needs_harness

_WITHIN = 15.0
"""Seconds until a topic that was made again is published to and consumed."""


async def _published(kit: Kit, bus: object, topic: str, writer: str) -> None:
    """Return as soon as an event was taken."""

    async def taken() -> bool:
        try:
            await kit.publish(bus, topic, 1, keys=1, writer=writer)  # type: ignore[arg-type] # a Bus
        except BrokerError:
            return False
        return True

    await eventually(taken, max(_WITHIN, kit.patience), "a topic that is there again takes no event")


@needs_harness("delete")
@pytest.mark.parametrize("moment", ["while it is consumed", "while nothing runs"])
async def test_a_topic_made_again_is_consumed_from_its_beginning(kit: Kit, moment: str) -> None:
    """After a topic was deleted and created again, everything that is published to it is handled, by a member that kept
    running and by one that starts: positions of the old topic do not count in the new one."""
    topic = kit.topic()
    count = kit.pick(60, 200)
    log = kit.log()
    running = await kit.started(topics={topic: {"groups": ["g"]}}, consume=False)
    bus = kit.bus()
    kit.subscribe(bus, topic, log=log)
    await bus.start()
    before = await kit.publish(running, topic, count, keys=8, writer="old")
    await log.wait_done(id_ for _, id_ in before)
    await kit.drained(running, topic)
    if moment == "while nothing runs":
        await bus.close()
    await kit.harness.delete(topic)
    await kit.declared(topic, "g")
    more = count + 40
    async with kit.bus(consume=False) as publisher:
        after = await kit.publish(publisher, topic, more, keys=8, writer="new")
    if moment == "while nothing runs":
        bus = kit.bus()
        kit.subscribe(bus, topic, log=log)
        await bus.start()
    log.patience = max(_WITHIN, kit.patience)
    await log.wait_done(id_ for _, id_ in after)
    await kit.drained(bus, topic)
    await bus.close()
    again = kit.bus()
    kit.subscribe(again, topic, log=log)
    async with again:  # what was settled is settled in the new topic
        (last,) = await kit.publish(again, topic, 1, keys=1, writer="last")
        await log.wait_done([last[1]])
        await kit.drained(again, topic)


@needs_harness("delete")
async def test_a_topic_that_is_gone_is_reported_until_it_is_there_again(kit: Kit) -> None:
    """While its topic is missing, the subscription says so; once it is created again, publishing and consuming resume
    by themselves within 15 s."""
    topic = kit.topic()
    bus = kit.bus(publish_deadline=3.0)
    log = kit.subscribe(bus, topic)
    await bus.start()
    (first,) = await kit.publish(bus, topic, 1, keys=1, writer="old")
    await log.wait_done([first[1]])
    await kit.harness.delete(topic)

    async def said() -> bool:
        return any(topic in problem for problem in bus.problems.values())

    await eventually(said, max(_WITHIN, kit.patience), "nothing says that the topic is gone")
    with pytest.raises(BrokerError):
        async with asyncio.timeout(_WITHIN):
            await kit.publish(bus, topic, 1, keys=1, writer="nowhere")
    await kit.declared(topic, "g")
    await _published(kit, bus, topic, "new")
    log.patience = max(_WITHIN, kit.patience)
    await log.wait_done(["new-0"])

    async def well() -> bool:
        return not bus.problems

    await eventually(well, kit.patience, "the topic is there again, and the Bus still reports a problem")
