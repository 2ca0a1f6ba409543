"""lane gone: a part of a group that an operator deleted is named, and made again; the keys of its lane go on."""

from __future__ import annotations

import pytest

from anybroker import Delivery
from anybroker.errors import AnybrokerError

from ._checkers import inversions
from ._kit import Kit
from ._waiting import eventually
from .marks import needs_harness

_WITHIN = 15.0
"""Seconds until what is published after the deletion is handled."""


@needs_harness("delete_lane")
@pytest.mark.parametrize("moment", ["while it is consumed", "while nothing runs"])
async def test_a_lane_that_was_deleted_is_made_again(kit: Kit, moment: str) -> None:
    """After one lane of a group was deleted, everything that is published is handled, and each key is in its own lane
    again, both with a member that kept running and with one that starts."""
    topic = kit.topic()
    count = kit.pick(60, 600)
    lanes: dict[str, str] = {}

    async def note(delivery: Delivery) -> None:
        lanes[delivery.event.id] = delivery.inbound.lane.name

    log = kit.log()
    log.patience = max(_WITHIN, kit.patience)
    bus = kit.bus()
    kit.subscribe(bus, topic, behave=note, log=log)
    await bus.start()
    publisher = await kit.started(consume=False)
    old = await kit.publish(publisher, topic, count, keys=16, writer="old")
    await log.wait_done(id_ for _, id_ in old)
    await kit.drained(bus, topic)
    if moment == "while nothing runs":
        await bus.close()
    await kit.harness.delete_lane(topic)
    new = await kit.publish(publisher, topic, count, keys=16, writer="new")
    if moment == "while nothing runs":
        bus = kit.bus()
        kit.subscribe(bus, topic, behave=note, log=log)
        await bus.start()
    await log.wait_done(id_ for _, id_ in new)
    round_ = 0

    async def as_before() -> bool:
        nonlocal round_
        round_ += 1
        some = await kit.publish(publisher, topic, 16, keys=16, writer=f"r{round_}")
        await log.wait_done(id_ for _, id_ in some)
        return all(lanes[id_] == lanes[id_.replace(f"r{round_}", "old")] for _, id_ in some)

    await eventually(as_before, log.patience, "the keys of a lane that was deleted are still in another one")
    await kit.well(bus)
    last = await kit.publish(publisher, topic, count, keys=16, writer="last")
    await log.wait_done(id_ for _, id_ in last)
    await kit.drained(bus, topic)
    assert not inversions(last, log.handlings)
    assert len({lanes[id_] for _, id_ in last}) > 1


@needs_harness("delete_lane")
async def test_verify_names_the_lane_that_was_deleted(kit: Kit) -> None:
    """A member that may not create anything says which lane is missing, and nothing is lost: everything is handled once
    the group is declared again."""
    topic = kit.topic()
    await kit.declared(topic, "g")
    await kit.harness.delete_lane(topic)
    careful = kit.bus(provision="verify")
    kit.subscribe(careful, topic)
    with pytest.raises(AnybrokerError) as caught:
        await careful.start()
    assert topic in str(caught.value)
    assert "2" in str(caught.value).replace(topic, "")  # its name may have that digit
    published = await kit.publish(await kit.started(consume=False), topic, 40, keys=16)
    bus = kit.bus()
    log = kit.subscribe(bus, topic)
    async with bus:
        await log.wait_done(id_ for _, id_ in published)
        await kit.drained(bus, topic)
