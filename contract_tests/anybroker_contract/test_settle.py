"""ack, attempts: settled only after the handler returned; what is acked stays acked; starts are counted exactly."""

from __future__ import annotations

import asyncio
import time
from itertools import pairwise

from anybroker import Delivery, Retry
from anybroker.adapter import (
    Ack,
    Commit,
    GroupSpec,
    Inbound,
    Lane,
    Outbound,
    Receiver,
    Settlement,
    SubscriptionSpec,
    TopicSpec,
    Topology,
)
from anybroker.capabilities import Acknowledgement
from anybroker.errors import BrokerError
from anybroker.middleware import retry

from ._checkers import duplicates, repeats
from ._kit import Kit, counted, submit
from .marks import requires

HEADERS = {"x-trace": "abc", "x-origin": "contract suite"}


async def test_a_failed_start_is_made_again_with_its_headers(kit: Kit) -> None:
    """A handler that raised is started again with ``attempt`` + 1 and the same transport headers."""
    topic = kit.topic()
    bus = kit.bus()

    async def fail_twice(delivery: Delivery) -> None:
        if delivery.attempt < 3:
            raise ValueError("not yet")

    log = kit.subscribe(bus, topic, behave=fail_twice, middleware=[retry(attempts=5, first=0.01)])
    async with bus:
        await bus.publish(topic, counted(0, key="k"), headers=HEADERS)
        await log.wait_done(["w-0"])
        await kit.drained(bus, topic)
    assert log.attempts("w-0") == [1, 2, 3]
    assert all(HEADERS.items() <= handling.headers.items() for handling in log.handlings)


@requires("release")
async def test_a_released_event_comes_again_with_its_attempts_and_headers(kit: Kit) -> None:
    """``retry(mode="release")`` gives the event back: it comes again later, with its count and its headers, and its
    worker is free until then."""
    topic = kit.topic()
    bus = kit.bus(topics={topic: {"ordered": False}})

    async def fail_twice(delivery: Delivery) -> None:
        if delivery.event.id == "w-0" and delivery.attempt < 3:
            raise Retry(after=0.3)

    log = kit.subscribe(bus, topic, behave=fail_twice, max_in_flight=1, middleware=[retry(attempts=5, mode="release")])
    async with bus:
        await bus.publish(topic, counted(0, key="k"), headers=HEADERS)
        await log.wait_started(1)
        published = await kit.publish(bus, topic, 5, first=1)
        await log.wait_done(["w-0", *(id_ for _, id_ in published)])
        await log.quiet()
        await kit.drained(bus, topic)
    starts = log.of("w-0")
    assert [handling.attempt for handling in starts] == [1, 2, 3]
    assert all(HEADERS.items() <= handling.headers.items() for handling in starts)
    assert all(after.started - before.started > 0.25 for before, after in pairwise(starts))
    others = [handling for handling in log.handlings if handling.id != "w-0"]
    assert min(handling.started for handling in others) < starts[1].started
    assert not duplicates(log.handlings)


async def test_the_wait_that_a_handler_asks_for_is_kept(kit: Kit) -> None:
    """After ``Retry(after=…)`` the next start is no earlier than that."""
    topic = kit.topic()
    bus = kit.bus()

    async def once(delivery: Delivery) -> None:
        if delivery.attempt == 1:
            raise Retry(after=0.4)

    log = kit.subscribe(bus, topic, behave=once, middleware=[retry(attempts=3, mode="hold")])
    async with bus:
        await bus.publish(topic, counted(0))
        await log.wait_done(["w-0"])
    first, second = log.of("w-0")
    assert 0.39 <= second.started - first.started < 0.4 + kit.patience / 2


async def test_what_was_acked_never_comes_again(kit: Kit) -> None:
    """After a clean close a new member of the group gets nothing that was handled before."""
    topic = kit.topic()
    log = kit.log()
    ids = []
    for round_ in range(3):
        bus = kit.bus()
        kit.subscribe(bus, topic, log=log)
        async with bus:
            published = await kit.publish(bus, topic, 30, keys=5, first=30 * round_)
            ids += [id_ for _, id_ in published]
            await log.wait_done(ids)
    bus = kit.bus()
    kit.subscribe(bus, topic, log=log)
    async with bus:
        await log.quiet(0.5)
        await kit.drained(bus, topic)
    assert repeats(log.handlings) == {}


async def test_nothing_is_settled_before_its_handler_returned(kit: Kit) -> None:
    """A member that leaves while its handler has not returned leaves the event to the next one."""
    topic = kit.topic()
    log = kit.log()

    async def stick(_: Delivery) -> None:
        await asyncio.Event().wait()

    first = kit.bus()
    kit.subscribe(first, topic, log=log, behave=stick, member="first")
    await first.start()
    await kit.publish(first, topic, 3, keys=3)
    await log.wait_started(3)
    await first.close(drain=0)
    second = kit.bus()
    kit.subscribe(second, topic, log=log, member="second")
    async with second:
        await log.wait_done(["w-0", "w-1", "w-2"])
    assert {handling.member for handling in log.handlings if handling.done} == {"second"}


async def test_acked_events_stay_acked_behind_one_that_is_open(kit: Kit) -> None:
    """Handled events are not delivered again although an earlier one of another key was not finished."""
    topic = kit.topic()
    log = kit.log()

    async def stick_on_first(delivery: Delivery) -> None:
        if delivery.event.id == "w-0":
            await asyncio.Event().wait()

    first = kit.bus()
    kit.subscribe(first, topic, log=log, behave=stick_on_first, lanes=1)
    await first.start()
    published = await kit.publish(first, topic, 40, keys=8)
    key = published[0][0]
    others = [id_ for other, id_ in published if other != key]
    await log.wait_done(others)
    await first.close(drain=0.2)
    second = kit.bus()
    kit.subscribe(second, topic, log=log, lanes=1)
    async with second:
        await log.wait_done(id_ for _, id_ in published)
        await log.quiet()
        await kit.drained(second, topic)
    assert set(repeats(log.handlings)) == {"w-0"}


async def test_attempts_survive_a_clean_restart_of_the_consumer(kit: Kit) -> None:
    """An event that failed before its member left reaches the next one with its starts counted."""
    topic = kit.topic()
    log = kit.log()

    async def fail(_: Delivery) -> None:
        raise Retry(after=30)

    async def fail_once_more(delivery: Delivery) -> None:
        if delivery.attempt < 3:
            raise Retry(after=0)

    first = kit.bus()
    kit.subscribe(first, topic, log=log, behave=fail, middleware=[retry(attempts=9, mode="hold")])
    async with first:
        await first.publish(topic, counted(0, key="k"))
        await log.until(lambda: [item for item in log.handlings if item.ended is not None], "one failed start")
    second = kit.bus()
    kit.subscribe(second, topic, log=log, behave=fail_once_more, middleware=[retry(attempts=9, mode="hold")])
    async with second:
        await log.wait_done(["w-0"])
    assert log.attempts("w-0") == [1, 2, 3]


async def test_attempts_survive_a_clean_restart_of_an_unordered_consumer(kit: Kit) -> None:
    """The same without order, while others wait behind the event that failed as its member was leaving."""
    topic = kit.topic()
    log = kit.log()
    unordered = {topic: {"groups": ["g"], "ordered": False}}
    first = kit.bus(topics=unordered)
    closing: asyncio.Task[None] | None = None

    async def fail_while_closing(delivery: Delivery) -> None:
        nonlocal closing
        if delivery.event.id == "w-0" and delivery.attempt == 1:
            closing = closing or asyncio.create_task(first.close())
            await asyncio.sleep(0.3)
            raise ValueError("fails while its member leaves")

    await kit.declared(topic, "g", ordered=False)
    async with kit.bus(consume=False, topics=unordered) as publisher:
        published = await kit.publish(publisher, topic, 60)
    middleware = [retry(attempts=5, first=0.01)]
    kit.subscribe(first, topic, log=log, behave=fail_while_closing, max_in_flight=2, middleware=middleware)
    await first.start()
    await log.until(lambda: closing is not None and closing.done(), "the first member has left")
    second = kit.bus(topics=unordered)
    kit.subscribe(second, topic, log=log, middleware=middleware)
    async with second:
        await log.wait_done(id_ for _, id_ in published)
        await kit.drained(second, topic)
    assert log.attempts("w-0") == [1, 2]
    assert not duplicates(log.handlings)


async def test_a_handler_slower_than_the_lease_is_not_redelivered(kit: Kit) -> None:
    """The lease of an event is extended while its handler runs, and while it waits behind another event."""
    topic = kit.topic()
    bus = kit.bus(lease=kit.lease)

    async def linger(delivery: Delivery) -> None:
        await asyncio.sleep(kit.lease * 2.2 if delivery.event.id == "w-0" else 0)

    log = kit.subscribe(bus, topic, behave=linger)
    async with bus:
        published = await kit.publish(bus, topic, 4, keys=1)
        await log.wait_done(id_ for _, id_ in published)
        await log.quiet()
    assert repeats(log.handlings) == {}


async def test_what_a_handler_changes_does_not_reach_the_next_attempt(kit: Kit) -> None:
    """Each start sees the event as it was published, whatever the last start did to its payload."""
    topic = kit.topic()
    bus = kit.bus()
    seen = []

    async def spoil(delivery: Delivery) -> None:
        seen.append(dict(delivery.event.data))
        delivery.event.data["n"] = "spoilt"
        if delivery.attempt < 3:
            raise ValueError("again")

    log = kit.subscribe(bus, topic, behave=spoil, middleware=[retry(attempts=5, first=0.01)])
    async with bus:
        await bus.publish(topic, counted(0))
        await log.wait_done(["w-0"])
    assert seen == [{"n": 0}] * 3


async def test_every_delivery_is_settled_exactly_once(kit: Kit) -> None:
    """After a mix of successes and failures the counters agree, and the broker holds nothing for the group."""
    topic = kit.topic()
    bus = kit.bus()

    async def fail_some(delivery: Delivery) -> None:
        if delivery.event.data["n"] % 5 == 0 and delivery.attempt == 1:
            raise ValueError("once")

    log = kit.subscribe(bus, topic, behave=fail_some, middleware=[retry(attempts=3, first=0.01)])
    async with bus:
        published = await kit.publish(bus, topic, 100, keys=10)
        await log.wait_done(id_ for _, id_ in published)
        await kit.drained(bus, topic)
        stats = bus.subscriptions[0].stats
        assert (stats.received, stats.acked, stats.retried, stats.started) == (100, 100, 20, 120)
        assert (stats.stale_settlements, stats.failed_settlements, stats.dead_lettered) == (0, 0, 0)
        assert bus.subscriptions[0].buffered == 0


async def test_settling_twice_is_no_error_and_changes_nothing(kit: Kit) -> None:
    """Settling the same delivery a second time raises nothing, and the event does not come again."""
    topic = kit.topic()
    await kit.declared(topic, "g")
    cumulative = kit.capabilities.acknowledgement is Acknowledgement.CUMULATIVE
    async with kit.adapter() as adapter:
        specs = (TopicSpec(topic, (GroupSpec("g"),)),)
        await adapter.declare(Topology(specs), "create")
        sender = await adapter.open_sender()
        await submit(sender, [Outbound(counted(number, key="k"), topic) for number in range(2)])
        await sender.close()
        receiver = await adapter.open_receiver(SubscriptionSpec(topic, "g", True, 4, "new", 10), _Ears())
        try:
            batch = await receive(receiver, 2, kit.patience)
            done: list[Settlement] = [Ack(inbound) for inbound in batch]
            if cumulative:
                done = [Commit(batch[-1].lane, batch[-1].position + 1, "")]
            assert list(await receiver.settle(done)) == [None] * len(done)
            again = await receiver.settle(done)
            assert all(result is None or isinstance(result, BrokerError) for result in again)
        finally:
            await receiver.stop()
            await receiver.close()
    bus = kit.bus()
    log = kit.subscribe(bus, topic)
    async with bus:
        await bus.publish(topic, counted(2, key="k"))
        await log.wait_done(["w-2"])
        await log.quiet()
    assert log.started == ["w-2"]


class _Ears:
    """A LaneListener that only listens."""

    def assigned(self, lane: Lane, note: str = "") -> None:
        """LaneListener."""

    async def revoked(self, lanes: object, /) -> None:
        """LaneListener."""

    def lost(self, lanes: object, /) -> None:
        """LaneListener."""


async def receive(receiver: Receiver, count: int, seconds: float) -> list[Inbound]:
    """So many events, or AssertionError."""
    found: list[Inbound] = []
    end = time.monotonic() + seconds
    while len(found) < count:
        left = end - time.monotonic()
        assert left > 0, f"{len(found)} of {count} events within {seconds:g} s"
        found += await receiver.receive(count - len(found), lanes=None, timeout=min(left, 1.0))
    return found
