"""circuit, rate_limit, concurrency: events wait for their turn here, and use up nothing meanwhile."""

from __future__ import annotations

import asyncio
from itertools import pairwise

from anybroker import Delivery
from anybroker.middleware import circuit, concurrency, rate_limit, retry

from ._checkers import at_once, duplicates
from ._kit import Kit
from ._waiting import eventually


class Dependency:
    """What a handler needs: it is down until it is not."""

    down = True

    async def __call__(self, _: Delivery) -> None:
        if self.down:
            raise ConnectionError("the dependency is down")


async def test_an_open_circuit_uses_up_no_attempt(kit: Kit) -> None:
    """While the circuit is open nothing starts but probes, nothing is acknowledged, and leases are kept; afterwards
    each event is handled, and only the starts that opened it have counted."""
    topic = kit.topic()
    bus = kit.bus(lease=kit.lease)
    needed = Dependency()
    layers = [retry(4, first=0.01, cap=0.02, mode="hold"), circuit(failures=3, within=60, probe=0.3, longest_probe=0.5)]
    log = kit.subscribe(bus, topic, behave=needed, middleware=layers, max_in_flight=4)
    async with bus:
        published = await kit.publish(bus, topic, 40, keys=8)
        (subscription,) = bus.subscriptions
        await log.until(lambda: subscription.stats.circuits_opened, "the circuit opens")
        opened = len(log.handlings)
        assert subscription.problem is not None
        assert "is open" in subscription.problem
        # Longer than a lease: what waits is not handed to anybody else, and no count of starts grows.
        await log.wait_started(opened + 5, patience=kit.lease * 2 + kit.patience)
        assert subscription.stats.acked == 0
        assert not log.done
        needed.down = False
        await log.wait_done(id_ for _, id_ in published)
        await kit.well(bus)
    assert subscription.stats.dead_lettered == 0
    counted = sum(max(log.attempts(id_)) - 1 for _, id_ in published)
    assert counted <= opened + 4  # those that ran already when it opened may have failed too; at least five probes did
    for key in {key for key, _ in published}:
        assert [h.id for h in log.handlings if h.done and h.event.key == key] == [i for k, i in published if k == key]


async def test_an_open_circuit_fetches_nothing_more(kit: Kit) -> None:
    """What is published while the circuit is open stays with the broker, but for what a call that waits already
    brings."""
    topic = kit.topic()
    bus = kit.bus()
    needed = Dependency()
    layers = [retry(4, first=0.01, cap=0.02, mode="hold"), circuit(failures=1, within=60, probe=60)]
    log = kit.subscribe(bus, topic, behave=needed, middleware=layers, max_in_flight=2)
    async with bus:
        await kit.publish(bus, topic, 1, keys=1)
        (subscription,) = bus.subscriptions
        await log.until(lambda: subscription.stats.circuits_opened, "the circuit opens")
        assert subscription.state == "paused"
        await kit.publish(bus, topic, 20, keys=4, first=1)  # ends a call that waits
        await log.quiet(0.5)
        held = subscription.buffered
        await kit.publish(bus, topic, 20, keys=4, first=21)
        await log.quiet(0.5)
        assert subscription.buffered == held
        assert len(log.handlings) == 1
        loop = asyncio.get_running_loop()
        before = loop.time()
    assert loop.time() - before < kit.patience  # closing waits for no probe
    assert subscription.stats.acked == 0


async def test_what_waits_for_an_open_circuit_is_another_members_after_close(kit: Kit) -> None:
    """Closing gives back what waits, with the attempts it had."""
    topic = kit.topic()
    first, second = kit.bus(), kit.bus()
    needed = Dependency()
    layers = [retry(4, first=0.01, cap=0.02, mode="hold"), circuit(failures=2, within=60, probe=60)]
    log = kit.subscribe(first, topic, behave=needed, middleware=layers, max_in_flight=4)
    async with first:
        published = await kit.publish(first, topic, 20, keys=5)
        await log.until(lambda: first.subscriptions[0].stats.circuits_opened, "the circuit opens")
        await log.quiet(0.3)
    needed.down = False
    kit.subscribe(second, topic, behave=needed, log=log)
    async with second:
        await log.wait_done(id_ for _, id_ in published)
    assert max(handling.attempt for handling in log.handlings) <= 3  # two failures opened it, perhaps of one event
    assert first.subscriptions[0].stats.dead_lettered == 0


async def test_a_rate_is_kept(kit: Kit) -> None:
    """Starts begin no faster than the rate, each event is handled once, keys keep their order."""
    topic = kit.topic()
    bus = kit.bus()
    count = kit.pick(20, 60)
    log = kit.subscribe(bus, topic, middleware=[rate_limit(20, burst=1)])
    async with bus:
        published = await kit.publish(bus, topic, count, keys=4)
        await log.wait_done((id_ for _, id_ in published), patience=count / 20 + kit.patience)
        (subscription,) = bus.subscriptions
        assert subscription.stats.retried == 0
    begun = [handling.started for handling in log.handlings]
    # A timer may be late and the next one then is early by as much, but all of them together are not.
    assert begun[-1] - begun[0] >= (count - 1) / 20 - 0.05
    assert all(later >= earlier for earlier, later in pairwise(begun))
    assert not duplicates(log.handlings)
    for key in {key for key, _ in published}:
        assert [h.id for h in log.handlings if h.event.key == key] == [i for k, i in published if k == key]


async def test_a_rate_for_each_key_holds_up_no_other(kit: Kit) -> None:
    """One key whose rate is used up waits for longer than a lease, and others go on."""
    topic = kit.topic()
    bus = kit.bus(lease=kit.lease)
    layer = rate_limit(1, per=2.5 * kit.lease, burst=1, key=lambda event: event.key or "")
    log = kit.subscribe(bus, topic, middleware=[layer])
    async with bus:
        slow = await kit.publish(bus, topic, 2, keys=1)
        await log.wait_started(1)
        others = []
        for number in range(10):
            others += await kit.publish(bus, topic, 1, keys=1000, first=100 + number)
        await log.wait_done(id_ for _, id_ in others)
        assert log.done.count(slow[1][1]) == 0
        await log.wait_done((id_ for _, id_ in slow), patience=3 * kit.lease + kit.patience)
    assert not duplicates(log.handlings)
    assert all(handling.attempt == 1 for handling in log.handlings)


async def test_no_more_than_n_at_once(kit: Kit) -> None:
    """``concurrency`` bounds the starts, and those that wait have no worker: handlers of other types go on."""
    topic = kit.topic()
    bus = kit.bus()
    free = asyncio.Event()

    async def wait(_: Delivery) -> None:
        await free.wait()

    log = kit.subscribe(bus, topic, behave=wait, middleware=[concurrency(3)], max_in_flight=10)
    async with bus:
        published = await kit.publish(bus, topic, 40, keys=40)
        (subscription,) = bus.subscriptions

        async def waiting() -> bool:
            return subscription.waiting >= 7

        await eventually(waiting, kit.patience, "nothing waits")
        assert subscription.running == 3
        free.set()
        await log.wait_done(id_ for _, id_ in published)
    assert at_once(log.handlings) == 3
    assert not duplicates(log.handlings)


async def test_no_more_than_n_at_once_for_each_key(kit: Kit) -> None:
    """A key of the user's choice: its events wait for each other, in their order, and for no other's."""
    topic = kit.topic()
    bus = kit.bus(lease=kit.lease)
    free = asyncio.Event()

    def tenant(n: int) -> str:
        return "big" if n < 30 else "small"

    async def wait(delivery: Delivery) -> None:
        if tenant(delivery.event.data["n"]) == "big":
            await free.wait()

    layer = concurrency(2, key=lambda event: tenant(event.data["n"]))
    # Fewer workers than wait; and room for all of them where the broker bounds what it hands over of a lane.
    log = kit.subscribe(bus, topic, behave=wait, middleware=[layer], max_in_flight=25)
    async with bus:
        big = await kit.publish(bus, topic, 30, keys=1000)
        small = await kit.publish(bus, topic, 10, keys=1000, first=30)
        await log.wait_done(id_ for _, id_ in small)
        await log.quiet(kit.lease * 1.5)  # leases of those that wait are kept
        free.set()
        await log.wait_done(id_ for _, id_ in big)
    running = [handling for handling in log.handlings if tenant(handling.event.data["n"]) == "big"]
    assert at_once(running) == 2
    assert not duplicates(log.handlings)
