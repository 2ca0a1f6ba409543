"""delay: not before its time, never lost; what is impossible is refused before anything is sent."""

from __future__ import annotations

import asyncio
import time

import pytest

from anybroker.errors import CapabilityError, ConfigError

from ._checkers import duplicates
from ._kit import TYPE, Kit, counted
from .marks import refuses, requires


@requires("delay")
async def test_a_delayed_event_comes_not_before_its_time(kit: Kit) -> None:
    """``publish(delay=…)``: no group gets the event early, every group gets it soon after its time, and others overtake
    it."""
    topic = kit.topic()
    bus = kit.bus()
    logs = [kit.subscribe(bus, topic, group) for group in ("one", "two")]
    loop = asyncio.get_running_loop()
    async with bus:
        sent = loop.time()
        await bus.publish(topic, {"n": 0}, type=TYPE, id="late", delay=1.2)
        await bus.publish(topic, {"n": 1}, type=TYPE, id="now")
        for log in logs:
            await log.wait_done(["now", "late"])
    for log in logs:
        (first, second) = log.handlings
        assert (first.id, second.id) == ("now", "late")
        assert first.started - sent < 1.2 <= second.started - sent + 0.01


@requires("delay")
async def test_a_delay_of_nothing_is_now(kit: Kit) -> None:
    """``delay=0`` is an ordinary publish."""
    topic = kit.topic()
    bus = kit.bus()
    log = kit.subscribe(bus, topic)
    async with bus:
        for number in range(5):
            await bus.publish(topic, {"n": number}, type=TYPE, id=f"w-{number}", delay=0)
        await log.wait_done(f"w-{number}" for number in range(5))
    assert not duplicates(log.handlings)


@requires("delay", "durable")
async def test_a_delayed_event_outlives_its_publisher(kit: Kit) -> None:
    """A delayed event survives the Bus that published it, and arrives at its time."""
    topic = kit.topic()
    await kit.declared(topic, "g")
    async with kit.bus(consume=False) as publisher:
        sent = time.time()
        await publisher.publish(topic, {"n": 0}, type=TYPE, id="late", delay=1.0)
    bus = kit.bus()
    log = kit.subscribe(bus, topic)
    async with bus:
        await log.wait_done(["late"])
    assert time.time() - sent >= 1.0


@requires("delay")
async def test_a_delay_with_a_key_on_an_ordered_topic_is_refused(kit: Kit) -> None:
    """It would be overtaken: a ConfigError says so, and nothing is sent."""
    topic = kit.topic()
    bus = kit.bus()
    log = kit.subscribe(bus, topic)
    async with bus:
        with pytest.raises(ConfigError, match="overtaken"):
            await bus.publish(topic, counted(0, key="k"), delay=1)
        with pytest.raises(ConfigError, match="seconds"):
            await bus.publish(topic, counted(1), delay=-1)
        await bus.publish(topic, counted(2, key="k"))
        await log.wait_done(["w-2"])
    assert log.started == ["w-2"]


@requires("max_delay")
async def test_a_delay_over_the_limit_is_refused(kit: Kit) -> None:
    """A delay longer than the broker allows is a ConfigError that names the limit."""
    topic = kit.topic()
    limit = kit.capabilities.max_delay
    assert limit is not None
    async with kit.bus(consume=False, topics={topic: {"groups": ["g"]}}) as bus:
        with pytest.raises(ConfigError, match=f"{limit:g} s at most"):
            await bus.publish(topic, {"n": 0}, type=TYPE, delay=limit + 1)


@refuses("delay")
async def test_asking_for_a_delay_is_refused(kit: Kit) -> None:
    """If the broker cannot delay, ``publish(delay=…)`` is a CapabilityError that names adapter, setting and remedy."""
    topic = kit.topic()
    async with kit.bus(consume=False, topics={topic: {"groups": ["g"]}}) as bus:
        with pytest.raises(CapabilityError) as caught:
            await bus.publish(topic, {"n": 0}, type=TYPE, delay=1)
    assert caught.value.capability == "delay"
    assert caught.value.adapter == kit.capabilities.adapter
    assert caught.value.setting == "publish(delay=)"
    assert caught.value.remedy
