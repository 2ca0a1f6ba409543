"""health: ``bus.health()`` says that a Bus is not ready while something is away that it needs, and that it is live all
the same; it is ready again by itself."""

from __future__ import annotations

import asyncio

import pytest

from anybroker import Bus, Delivery
from anybroker.errors import Reject, Rejected, Unavailable
from anybroker.idempotency import Busy, Claim, Done, Key, MemoryStore
from anybroker.middleware import idempotent, retry
from anybroker.testing import Fault, fail

from ._kit import FailsUntilFixed, Kit, counted
from ._waiting import eventually
from .marks import needs_harness

JOINED = 10.0
"""Seconds after which a member without a lane counts as joined."""

IDLE = 1.0
"""Seconds in which what a client has under way ends."""


async def readiness(bus: Bus, wanted: bool, patience: float) -> None:
    """Return when the Bus is ready, or not. It is live throughout."""

    async def as_wanted() -> bool:
        health = bus.health()
        assert health.live, health.why
        assert health.ready == (not health.why)
        return health.ready is wanted

    await eventually(as_wanted, patience, f"ready is {not wanted}: {bus.health().why}, {bus.health().problems}")


async def test_a_bus_is_ready_from_its_start_to_its_close(kit: Kit) -> None:
    """Not ready before the start and after the close, where it is not live either; ready while it runs, with the state
    of each subscription."""
    topic = kit.topic()
    bus = kit.bus()
    log = kit.subscribe(bus, topic)
    assert not bus.health().ready
    async with bus:
        await readiness(bus, True, kit.patience + JOINED)
        published = await kit.publish(bus, topic, 3, keys=3)
        await log.wait_done(id_ for _, id_ in published)
        (seen,) = bus.health().subscriptions
        assert (seen.topic, seen.group, seen.state, seen.problem) == (topic, "g", "running", None)
        assert seen.held_lanes == bus.subscriptions[0].held_lanes
    health = bus.health()
    assert (health.live, health.ready, health.state) == (False, False, "closed")


@pytest.mark.timeout(110)
async def test_a_member_without_a_lane_is_ready(kit: Kit) -> None:
    """Where other members have all the lanes, a member that has none is ready after a while."""
    topic = kit.topic()
    buses = [kit.bus() for _ in range(2)]
    for bus in buses:
        kit.subscribe(bus, topic, lanes=1)
        await bus.start()
    for bus in buses:
        await readiness(bus, True, kit.patience + JOINED)


@pytest.mark.timeout(110)
@needs_harness("route")
async def test_a_consumer_whose_broker_is_away_is_live_and_not_ready(
    kit: Kit, caplog: pytest.LogCaptureFixture
) -> None:
    """While the broker cannot be reached the Bus is live and not ready, also where nothing is under way, and says so in
    the log by the same words on every broker; then it is ready again by itself."""
    caplog.set_level("INFO", "anybroker.health")
    topic = kit.topic()
    proxy = await kit.proxy()
    bus = kit.bus(target=kit.through(proxy))
    log = kit.subscribe(bus, topic)
    async with bus:
        await bus.publish(topic, counted(0))
        await log.wait_done(["w-0"])
        await kit.drained(bus, topic)
        await asyncio.sleep(IDLE)
        await readiness(bus, True, kit.patience + JOINED)
        proxy.refusing = True
        proxy.cut()
        await readiness(bus, False, 25.0)
        assert bus.health().subscriptions[0].problem is not None

        def said() -> list[str]:
            records = (record for record in caplog.records if record.name == "anybroker.health")
            return [text for text in (record.getMessage() for record in records) if text.startswith(f"{topic}/g: ")]

        async def that_it_is_away() -> bool:
            return len(said()) >= 1

        async def that_it_is_back() -> bool:
            return len(said()) >= 2

        await eventually(that_it_is_away, kit.patience, "what is away is logged")
        proxy.refusing = False
        await readiness(bus, True, 30.0)
        assert bus.health().problems == {}
        await eventually(that_it_is_back, kit.patience, "that it is back is logged")
    assert f"{topic}/g: not ready: " in said()[0]
    assert f"{topic}/g: ready again, after " in said()[1]


@pytest.mark.timeout(110)
async def test_a_bus_whose_publishes_fail_for_seconds_is_not_ready(kit: Kit) -> None:
    """Where a topic accepts nothing for some seconds the Bus is not ready, and says which topic it is; it is again once
    the topic accepts an event."""
    topic = kit.topic()
    await kit.declared(topic, "g")
    faulty = kit.faulty(fail("publish", Unavailable("the broker is away")))
    async with kit.bus(target=faulty, consume=False, publish_deadline=60.0) as bus:
        await readiness(bus, True, kit.patience)
        publishing = asyncio.create_task(bus.publish(topic, counted(0)))
        await readiness(bus, False, 12.0)
        problem = bus.health().problems["publish"]
        assert topic in problem.what
        assert "the broker is away" in problem.what
        assert problem.unready
        faulty.faults.clear()
        await publishing
        await readiness(bus, True, kit.patience)
        assert bus.problems == {}


async def test_a_failing_handler_leaves_the_bus_ready(kit: Kit) -> None:
    """Events that fail and are tried again, with others behind them, do not take a member out of service."""
    topic = kit.topic()
    behave = FailsUntilFixed()
    bus = kit.bus()
    log = kit.subscribe(bus, topic, behave=behave, middleware=[retry(attempts=1000, first=0.05, cap=0.1)])
    async with bus:
        await readiness(bus, True, kit.patience + JOINED)
        published = await kit.publish(bus, topic, 8, keys=2)
        await log.until(lambda: len(log.handlings) >= 10, "it fails again and again")
        assert bus.health().ready
        behave.fixed = True
        await log.wait_done(id_ for _, id_ in published)


async def test_a_dead_letter_topic_that_refuses_makes_it_unready(kit: Kit) -> None:
    """While dead letters are refused the Bus is not ready; once they are accepted it is."""
    topic = kit.topic()
    refuse: Fault = fail("publish", Rejected("it is full"), when=lambda outbound: outbound.topic.endswith(".dlq"))
    faulty = kit.faulty(refuse)
    bus = kit.bus(target=faulty)

    async def die(_: Delivery) -> None:
        raise Reject("poison")

    kit.subscribe(bus, topic, behave=die)
    async with bus:
        await readiness(bus, True, kit.patience + JOINED)
        await bus.publish(topic, counted(0, key="k"))
        await readiness(bus, False, kit.patience)
        health = bus.health()
        assert "it is full" in health.problems[f"{topic}/g"].what
        assert [seen.ready for seen in health.subscriptions] == [False]
        faulty.faults.clear()
        await readiness(bus, True, kit.patience + 10.0)


class DownStore(MemoryStore):
    """A store that can be switched off."""

    down = False

    async def claim(self, key: Key, owner: str, lease: float, retain: float, /) -> Claim | Busy | Done:
        """As MemoryStore, when it is up."""
        if self.down:
            raise ConnectionError("the store is down")
        return await super().claim(key, owner, lease, retain)


async def test_an_idempotency_store_that_is_down_makes_it_unready(kit: Kit) -> None:
    """While the store of its handlers is down the Bus is not ready; once it answers again it is."""
    topic = kit.topic()
    store = DownStore()
    bus = kit.bus()
    log = kit.subscribe(bus, topic, middleware=[idempotent(store)])
    async with bus:
        await readiness(bus, True, kit.patience + JOINED)
        store.down = True
        published = await kit.publish(bus, topic, 2, keys=2)
        await readiness(bus, False, kit.patience)
        store.down = False
        await log.wait_done(id_ for _, id_ in published)
        await readiness(bus, True, kit.patience)
