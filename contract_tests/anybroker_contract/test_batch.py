"""batch: a handler of lists gets full batches or what came in time, and only what failed of one comes again."""

from __future__ import annotations

from anybroker import BatchFailed, Event
from anybroker.middleware import retry

from ._kit import Kit
from .marks import requires


async def test_a_batch_handler_gets_everything_in_lists(kit: Kit) -> None:
    """Every event is in exactly one batch, and no batch is larger than asked for."""
    topic = kit.topic()
    bus = kit.bus()
    log = kit.log()
    batches: list[list[str]] = []

    async def handle(events: list[Event]) -> None:
        batches.append([event.id for event in events])
        log.changed.fire()

    bus.subscribe(topic, group="g", batch=20, within=0.1)(handle)
    async with bus:
        published = await kit.publish(bus, topic, 110)
        await log.until(lambda: sum(map(len, batches)) >= 110, "all of them")
        await kit.drained(bus, topic)
    assert sorted(id_ for batch in batches for id_ in batch) == sorted(id_ for _, id_ in published)
    assert max(map(len, batches)) == 20


async def test_only_what_failed_of_a_batch_comes_again(kit: Kit) -> None:
    """``BatchFailed`` with some indexes: those events, and no others, are in a later batch."""
    topic = kit.topic()
    bus = kit.bus(topics={topic: {"ordered": False}})
    log = kit.log()
    seen: list[str] = []

    async def handle(events: list[Event]) -> None:
        first = [event.id for event in events if event.id not in seen]
        seen.extend(event.id for event in events)
        log.changed.fire()
        bad = {
            at: ValueError("bad") for at, event in enumerate(events) if event.id in first and event.data["n"] % 7 == 3
        }
        if bad:
            raise BatchFailed(bad)

    middleware = [retry(attempts=3, first=0.01, mode="hold")]
    bus.subscribe(topic, group="g", batch=10, within=0.1, middleware=middleware)(handle)
    async with bus:
        published = await kit.publish(bus, topic, 40)
        await log.until(lambda: len(seen) >= 46, "all, and the failed ones again")
        await kit.drained(bus, topic)
    twice = {f"w-{number}" for number in range(40) if number % 7 == 3}
    assert sorted(seen) == sorted([id_ for _, id_ in published] + list(twice))


@requires("ordering")
async def test_batches_keep_the_order_of_each_key(kit: Kit) -> None:
    """On an ordered subscription a failed event of a batch is handled again before what follows under its key."""
    topic = kit.topic()
    bus = kit.bus()
    log = kit.log()
    done: list[tuple[str | None, int]] = []
    failed: set[str] = set()

    async def handle(events: list[Event]) -> None:
        bad = {}
        for at, event in enumerate(events):
            if event.data["n"] % 10 == 4 and event.id not in failed:
                failed.add(event.id)
                bad[at] = ValueError("once")
            else:
                done.append((event.key, event.data["n"]))
        log.changed.fire()
        if bad:
            raise BatchFailed(bad)

    bus.subscribe(topic, group="g", batch=5, within=0.05, middleware=[retry(attempts=3, first=0.01)])(handle)
    async with bus:
        await kit.publish(bus, topic, 40, keys=4)
        await log.until(lambda: len(done) >= 40, "all of them")
    for key in {key for key, _ in done}:
        numbers = [number for other, number in done if other == key]
        assert numbers == sorted(numbers)
