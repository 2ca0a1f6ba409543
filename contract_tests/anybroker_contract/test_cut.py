"""cut: what networks do to connections loses nothing, is noticed, and everything resumes by itself."""

from __future__ import annotations

import asyncio
import os

import pytest

from anybroker import Bus, Event
from anybroker.errors import BrokerError, PublishOutcomeUnknown, Unavailable

from ._checkers import duplicates, inversions, lost, unexpected
from ._kit import TYPE, Kit, counted
from ._log import Log
from .marks import needs_harness
from .proxy import Weather

NOTICED = 15.0
"""Seconds after which a connection that is silent counts as lost, with our defaults."""
BEHIND = 400
"""Events that the consumer may be behind before the publisher waits for it."""
LEASE = 20.0
"""Our default: what the lost connection had received comes again after it."""


def descriptors() -> int:
    """How many this process has open."""
    return len(os.listdir("/dev/fd"))


async def publish_surely(bus: Bus, topic: str, event: Event[object]) -> int:
    """Publish until there is a receipt; how often it was not, and the event may still be stored."""
    unknown = 0
    while True:
        try:
            await bus.publish(topic, event)
        except PublishOutcomeUnknown:
            unknown += 1
        else:
            return unknown


@needs_harness("route")
async def test_what_is_published_after_a_connection_was_killed_arrives(kit: Kit) -> None:
    """Every connection of a Bus is reset repeatedly: what is published afterwards arrives, and what was settled before
    does not come again."""
    topic = kit.topic()
    proxy = await kit.proxy()
    bus = kit.bus(target=kit.through(proxy))
    log = kit.subscribe(bus, topic)
    twice: set[str] = set()
    async with bus:
        published = await kit.publish(bus, topic, 12, keys=4)
        await log.wait_done(id_ for _, id_ in published)
        for number in range(12, 15):
            await kit.drained(bus, topic)
            await kit.settled_elsewhere()
            assert proxy.cut() > 0
            event = counted(number, key=f"k{number % 4}")
            published.append((event.key, event.id))
            if await publish_surely(bus, topic, event):
                twice.add(event.id)
            await log.wait_done([event.id])
    assert set(duplicates(log.handlings)) <= twice
    assert inversions(published, log.handlings) == []


class Load:
    """Publishes under some keys, one event after the other under each, and keeps the outcome of each.

    It waits for the consumer when that is far behind: a slow broker is not what is tested."""

    def __init__(self, bus: Bus, topic: str, log: Log, deadline: float) -> None:
        self.bus = bus
        self.topic = topic
        self.log = log
        self.deadline = deadline
        self.published: list[tuple[str | None, str]] = []
        self.confirmed: list[tuple[str | None, str]] = []
        self.slowest = 0.0
        """Seconds that the slowest publish took."""
        self.stopped = False

    def stop(self) -> None:
        """Let :meth:`run` end."""
        self.stopped = True
        self.log.changed.fire()

    def near(self) -> bool:
        """Whether another event may be published, or none will be."""
        return self.stopped or len(self.confirmed) - len(self.log.done_ids) < BEHIND

    async def run(self, keys: int) -> None:
        """Until told to stop. An error that a publish may not raise ends it."""
        async with asyncio.TaskGroup() as group:
            for key in range(keys):
                group.create_task(self._publish(f"k{key}", key * 100_000))

    async def _publish(self, key: str, number: int) -> None:
        loop = asyncio.get_running_loop()
        while not self.stopped:
            await self.log.until(self.near, "the consumer keeps up", 60.0)
            number += 1
            event = counted(number, key=key)
            self.published.append((key, event.id))
            began = loop.time()
            try:
                await self.bus.publish(self.topic, event, deadline=self.deadline)
            except (PublishOutcomeUnknown, Unavailable):
                continue
            finally:
                self.slowest = max(self.slowest, loop.time() - began)
            self.confirmed.append((key, event.id))


@pytest.mark.timeout(110)
@needs_harness("route")
async def test_resets_under_load_lose_nothing(kit: Kit) -> None:
    """Five resets per second while events are published and consumed: each publish ends by its deadline with a receipt
    or a typed error, every event with a receipt is handled, in order for each key, no descriptor stays open, and each
    client connects once per reset, not in a storm."""
    topic = kit.topic()
    proxy = await kit.proxy()
    bus = kit.bus(target=kit.through(proxy))
    log = kit.subscribe(bus, topic)
    async with bus:
        await bus.publish(topic, counted(0))
        await log.wait_done(["w-0"])
        await kit.drained(bus, topic)
        clients, open_before = proxy.open, descriptors()
        accepted = proxy.accepted
        load = Load(bus, topic, log, deadline=8.0)
        running = asyncio.create_task(load.run(8))
        resets = kit.pick(25, 150)
        for _ in range(resets):
            await asyncio.sleep(0.2)
            proxy.cut()
        accepted = proxy.accepted - accepted
        went_on = len(load.confirmed)
        await log.until(lambda: len(load.confirmed) > went_on + 16, "publishing goes on", 40.0)
        load.stop()
        await running
        await log.wait_done((id_ for _, id_ in load.confirmed), patience=40.0)
        await kit.drained(bus, topic)
        await proxy.until(lambda proxy: proxy.open <= clients + 2, "the connections of before", 20.0)
        more = descriptors() - open_before
    assert not lost([id_ for _, id_ in load.confirmed], log.handlings)
    assert not unexpected(["w-0", *(id_ for _, id_ in load.published)], log.handlings)
    assert inversions(load.confirmed, log.handlings) == []
    assert load.slowest < load.deadline + 1.0
    assert more < resets / 2
    assert accepted <= 3 * clients * resets


@pytest.mark.timeout(110)
@needs_harness("route")
async def test_a_half_open_connection_is_noticed_by_the_publisher(kit: Kit) -> None:
    """When the broker's side of a connection vanishes silently, a publisher with default settings gets a receipt over
    another connection within 15 s; publishes in progress end with a receipt or a typed error."""
    topic = kit.topic()
    proxy = await kit.proxy()
    consumer = kit.bus()
    log = kit.subscribe(consumer, topic)
    bus = kit.bus(target=kit.through(proxy), lease=LEASE, publish_deadline=30.0, consume=False)
    loop = asyncio.get_running_loop()
    async with consumer, bus:
        await bus.publish(topic, counted(0, key="k"))
        frozen = proxy.freeze()
        began = loop.time()
        await publish_surely(bus, topic, counted(1, key="k"))
        took = loop.time() - began
        await log.wait_done(["w-0", "w-1"])
    assert frozen > 0
    assert took <= NOTICED


@pytest.mark.timeout(130)
@needs_harness("route")
async def test_a_half_open_connection_is_noticed_by_the_consumer(kit: Kit) -> None:
    """A consumer with default settings whose connection vanishes silently reconnects within 15 s, and what was sent to
    the old connection arrives when its lease has expired."""
    topic = kit.topic()
    proxy = await kit.proxy()
    bus = kit.bus(target=kit.through(proxy), lease=LEASE)
    log = kit.subscribe(bus, topic)
    async with bus, kit.bus(consume=False) as publisher:
        await publisher.publish(topic, counted(0, key="k"))
        await log.wait_done(["w-0"])
        await kit.settled_elsewhere()
        assert proxy.freeze() > 0
        accepted = proxy.accepted
        await publisher.publish(topic, counted(1, key="k"))
        await proxy.until(lambda proxy: proxy.accepted > accepted, "the consumer connects again", NOTICED)
        await publisher.publish(topic, counted(2, key="k"))
        await log.wait_done(["w-1", "w-2"], patience=LEASE + 5.0)
    assert inversions([("k", f"w-{number}") for number in range(3)], log.handlings) == []


@pytest.mark.timeout(130)
@needs_harness("route")
async def test_what_went_to_a_half_open_connection_is_handled_again(kit: Kit) -> None:
    """Events that are published while a consumer's connection swallows them are handled, each within the time that the
    broker's harness names, ordered or not."""
    topics = {kit.topic(): True, kit.topic(): False}
    proxy = await kit.proxy()
    bus = kit.bus(target=kit.through(proxy), lease=LEASE)
    logs = {topic: kit.subscribe(bus, topic, ordered=ordered) for topic, ordered in topics.items()}
    loop = asyncio.get_running_loop()
    published: dict[str, float] = {}
    async with bus, kit.bus(consume=False) as publisher:
        for topic, log in logs.items():
            await publisher.publish(topic, counted(0, key="k", writer="before"))
            await log.wait_done(["before-0"])
        await kit.settled_elsewhere()
        assert proxy.freeze() > 0
        for number in range(12):  # half a second apart: some go to what waits on the old connection, some to nobody
            for topic in topics:
                event = counted(number, key=f"k{number % 3}", writer=f"{topic}+")
                published[event.id] = loop.time()
                await publisher.publish(topic, event)
            await asyncio.sleep(0.5)
        for topic, log in logs.items():
            await log.wait_done(
                (f"{topic}+-{number}" for number in range(12)), patience=kit.harness.handed_over_again + 10.0
            )
    late = {
        handling.id: round(handling.started - published[handling.id], 1)
        for log in logs.values()
        for handling in log.handlings
        if handling.id in published and handling.started - published[handling.id] > kit.harness.handed_over_again
    }
    assert late == {}


WEATHERS = {
    "latency": Weather(latency=(0.0, 0.6)),
    "slices": Weather(slices=(1, 3)),
    "8-kilobytes-a-second": Weather(rate=8 * 1024),
}


@pytest.mark.timeout(110)
@pytest.mark.parametrize("weather", WEATHERS)
@needs_harness("route")
async def test_a_poor_network_loses_nothing(kit: Kit, weather: str) -> None:
    """With bytes that arrive 300 ± 300 ms late, one to three at a time, or at 8 KB/s, every event arrives complete, in
    order for each key, and once."""
    topic = kit.topic()
    proxy = await kit.proxy()
    bus = kit.bus(target=kit.through(proxy), lease=LEASE, publish_deadline=40.0)
    log = kit.subscribe(bus, topic)
    events = [
        Event.create(b"\r\n" * 100, source="contract", type=TYPE, id=f"w-{number}", key=f"k{number % 4}")
        for number in range(kit.pick(24, 100))
    ]
    async with bus:
        await bus.publish(topic, counted(0, writer="first"))
        await log.wait_done(["first-0"])
        proxy.weather = WEATHERS[weather]
        try:
            await asyncio.gather(*(bus.publish(topic, event) for event in events))
            await log.wait_done((event.id for event in events), patience=40.0)
        finally:
            proxy.weather = Weather()
        await kit.drained(bus, topic)
    assert {handling.id: handling.event for handling in log.handlings[1:]} == {event.id: event for event in events}
    assert inversions([(event.key, event.id) for event in events], log.handlings) == []
    assert duplicates(log.handlings) == {}


@needs_harness("route")
async def test_a_broker_that_refuses_connections_for_a_while_is_reached_again(kit: Kit) -> None:
    """While every connection is reset at once, a publish ends by its deadline with a typed error; a moment later the
    same Bus publishes and consumes."""
    topic = kit.topic()
    proxy = await kit.proxy()
    bus = kit.bus(target=kit.through(proxy))
    log = kit.subscribe(bus, topic)
    loop = asyncio.get_running_loop()
    async with bus:
        await bus.publish(topic, counted(0))
        await log.wait_done(["w-0"])
        proxy.refusing = True
        proxy.cut()
        began = loop.time()
        with pytest.raises(BrokerError) as caught:
            await bus.publish(topic, counted(1), deadline=2.0)
        took = loop.time() - began
        proxy.refusing = False
        await publish_surely(bus, topic, counted(2))
        await log.wait_done(["w-2"])
    assert isinstance(caught.value, PublishOutcomeUnknown | Unavailable)
    assert took < 3.0
    assert set(log.started) <= {"w-0", "w-1", "w-2"}
