"""crash: a consumer process that dies loses nothing, and another one has its events soon."""

from __future__ import annotations

import asyncio
import signal

import pytest

from ._checkers import inversions, lost, repeats
from ._kit import Kit, counted
from .marks import needs_harness, requires


@needs_harness("url")
@requires("processes", "durable")
async def test_a_killed_consumer_loses_nothing(kit: Kit) -> None:
    """SIGKILL while handlers run: another process gets every event within lease + 5 s, in the order of each key; at
    most what was in flight, or not settled yet, is repeated."""
    topic = kit.topic()
    log = kit.log()
    lease = 2.0
    await kit.declared(topic, "g")
    async with kit.bus(consume=False) as publisher:
        first = await kit.worker(topic, log=log, lease=lease, seconds=0.01, subscription={"max_in_flight": 8})
        published = await kit.publish(publisher, topic, 200, keys=16)
        await log.wait_started(60)
        await first.kill()
        died = asyncio.get_running_loop().time()
        before = set(log.done_ids)
        await kit.worker(topic, log=log, lease=lease)
        await log.wait_done(id_ for _, id_ in published)
    assert not lost([id_ for _, id_ in published], log.handlings)
    assert inversions(published, log.handlings) == []
    after = [handling.started for handling in log.handlings if handling.started > died]
    assert min(after) - died <= lease + 5.0
    repeated = set(repeats(log.handlings))
    assert len(repeated) <= 60
    assert len(before - repeated) > 0, "something had been settled for good"


@needs_harness("url")
@requires("processes", "durable")
async def test_take_over_after_a_crash_is_within_the_lease(kit: Kit) -> None:
    """A running member takes over what a killed one held, within lease + 5 s."""
    topic = kit.topic()
    log = kit.log()
    lease = 2.0
    held = [counted(number, key=f"k{number}") for number in range(8)]
    stick = [event.id for event in held]
    await kit.declared(topic, "g")
    async with kit.bus(consume=False) as publisher:
        first = await kit.worker(topic, log=log, lease=lease, stick=stick)
        await asyncio.gather(*(publisher.publish(topic, event) for event in held))
        await log.wait_started(len(held))
        await kit.worker(topic, log=log, lease=lease)
        await first.kill()
        died = asyncio.get_running_loop().time()
        await log.wait_done(stick, patience=lease + 5.0 + kit.patience)
        took = asyncio.get_running_loop().time() - died
    assert took <= lease + 5.0


@needs_harness("url")
@requires("processes", "durable")
async def test_what_was_acked_before_a_crash_stays_acked(kit: Kit) -> None:
    """Settled events are not delivered again after a SIGKILL, although an event of another key is still open."""
    topic = kit.topic()
    log = kit.log()
    bus = kit.bus()
    async with kit.bus(consume=False, topics={topic: {"groups": ["g"], "lanes": 1}}) as publisher:
        worker = await kit.worker(topic, log=log, lease=2.0, stick=["w-0"], subscription={"lanes": 1})
        published = await kit.publish(publisher, topic, 40, keys=8)
        others = [id_ for key, id_ in published if key != "k0"]
        await log.wait_done(others)
        await kit.settled_elsewhere()
        await worker.kill()
    kit.subscribe(bus, topic, log=log, lanes=1)
    async with bus:
        await log.wait_done(id_ for _, id_ in published)
        await log.quiet()
    assert set(repeats(log.handlings)) == {"w-0"}


@needs_harness("url")
@requires("processes", "durable")
@pytest.mark.parametrize("again", [False, True], ids=["once", "twice"])
async def test_sigterm_drains_and_gives_back(kit: Kit, again: bool) -> None:
    """After SIGTERM a process finishes its running handlers and leaves; after a second SIGTERM it gives up at once. The
    next process gets the rest, and nothing that was finished comes again."""
    topic = kit.topic()
    log = kit.log()
    await kit.declared(topic, "g")
    async with kit.bus(consume=False) as publisher:
        stick = ["w-0"] if again else []
        few = {"max_in_flight": 4}
        worker = await kit.worker(topic, log=log, stick=stick, seconds=0.05, drain=10.0, subscription=few)
        published = await kit.publish(publisher, topic, 40, keys=8)
        await log.wait_started(8)
        await log.until(lambda: set(stick) <= set(log.started), "the handler that sticks is started")
        worker.signal(signal.SIGTERM)
        if again:
            await log.quiet(0.4)
            worker.signal(signal.SIGTERM)
        status = await worker.gone(8.0 + kit.capabilities.poll)
    assert worker.closed is not None
    assert status == 0
    bus = kit.bus()
    kit.subscribe(bus, topic, log=log)
    async with bus:
        await log.wait_done(id_ for _, id_ in published)
        await log.quiet()
    finished = {handling.id for handling in log.handlings if handling.done and handling.member}
    assert not finished & set(repeats(log.handlings))
    if not again:
        assert {handling.attempt for handling in log.handlings} == {1}


@needs_harness("url")
@requires("processes", "durable", "attempts_survive")
async def test_attempts_survive_a_crash(kit: Kit) -> None:
    """The start in which a process was killed counts: the next start is attempt 2."""
    topic = kit.topic()
    log = kit.log()
    await kit.declared(topic, "g")
    async with kit.bus(consume=False) as publisher:
        worker = await kit.worker(topic, log=log, lease=1.5, stick=["w-0"])
        await publisher.publish(topic, counted(0, key="k"))
        await log.wait_started(1)
        await worker.kill()
    bus = kit.bus(lease=1.5)
    kit.subscribe(bus, topic, log=log)
    async with bus:
        await log.wait_done(["w-0"])
    assert log.attempts("w-0") == [1, 2]


@needs_harness("url")
@requires("processes", "durable")
async def test_processes_share_a_group(kit: Kit) -> None:
    """Two processes and this one share the events of one group: each event once, each key in order."""
    topic = kit.topic()
    log = kit.log()
    bus = kit.bus()
    kit.subscribe(bus, topic, log=log)
    async with bus:
        await asyncio.gather(*(kit.worker(topic, log=log, seconds=0.001) for _ in range(2)))
        published = await kit.publish(bus, topic, 120, keys=24)
        await log.wait_done(id_ for _, id_ in published)
        await log.quiet()
    assert repeats(log.handlings) == {}
    assert not lost([id_ for _, id_ in published], log.handlings)
