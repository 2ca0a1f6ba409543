"""grow: an operator gives a topic more lanes while it is used; what waits for its groups is still handled."""

from __future__ import annotations

import asyncio

import pytest

from anybroker import Delivery, Retry
from anybroker.errors import ConfigError
from anybroker.middleware import retry

from ._kit import Kit
from .marks import needs_harness, requires

_WITHIN = 20.0
"""Seconds until lanes that were added are published to and consumed, and the inlet has as many."""


async def _twice(delivery: Delivery) -> None:
    """Every event takes its way through the group's inlet once."""
    if delivery.attempt == 1:
        raise Retry(after=0.3)


_RELEASE = retry(attempts=3, mode="release")


@pytest.mark.timeout(110)
@needs_harness("grow")
@requires("release")
async def test_a_topic_is_given_more_lanes_while_it_is_consumed(kit: Kit) -> None:
    """A topic of four lanes gets eight while a subscription with delayed retries runs: everything is handled, before
    and after, and members that start later find a topic and an inlet that fit."""
    topic = kit.topic()
    settings = {topic: {"ordered": False}}
    log = kit.log()
    log.patience = max(_WITHIN, kit.patience)
    bus = kit.bus(topics=settings)
    kit.subscribe(bus, topic, behave=_twice, log=log, middleware=[_RELEASE])
    async with bus:
        first = await kit.publish(bus, topic, 40, keys=20)
        await log.wait_done(id_ for _, id_ in first)
        publishing = asyncio.create_task(kit.publish(bus, topic, 40, keys=20, first=40))
        await kit.harness.grow(topic, 8)
        published = [*first, *await publishing]
        # As a publisher finds it that starts now: to all eight.
        async with kit.bus(topics=settings, consume=False) as publisher:
            published += await kit.publish(publisher, topic, 80, keys=40, first=80)
        await log.wait_done(id_ for _, id_ in published)
        later = kit.bus(topics=settings)
        kit.subscribe(later, topic, behave=_twice, log=log, middleware=[_RELEASE])
        async with later:
            published += await kit.publish(later, topic, 80, keys=40, first=160)
            await log.wait_done(id_ for _, id_ in published)
            await kit.well(bus)
            await kit.well(later)
            await kit.drained(later, topic)
    assert set(log.done) == {id_ for _, id_ in published}


@pytest.mark.timeout(110)
@needs_harness("grow")
async def test_who_may_not_change_a_grown_topic_says_the_command(kit: Kit) -> None:
    """With ``provision="verify"`` a Bus that finds a topic with more lanes than its group's inlet does not start, and
    says in one sentence what to run; after a start that may change it, it starts."""
    topic = kit.topic()
    await kit.declared(topic, "g")
    await kit.harness.grow(topic, 8)
    bus = kit.bus(provision="verify")
    kit.subscribe(bus, topic)
    with pytest.raises(ConfigError) as refused:
        await bus.start()
    assert refused.value.setting == f"topics.{topic}.lanes"
    assert "8" in str(refused.value)
    assert 'provision="create"' in str(refused.value)
    await kit.declared(topic, "g")
    again = kit.bus(provision="verify")
    log = kit.subscribe(again, topic)
    async with again:
        published = await kit.publish(again, topic, 40, keys=40)
        await log.wait_done(id_ for _, id_ in published)
