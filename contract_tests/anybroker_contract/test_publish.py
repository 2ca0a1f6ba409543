"""publish: it returns after durable acceptance, keeps the order of calls per key, and always ends."""

from __future__ import annotations

import asyncio

import pytest

from anybroker import Bus, Receipt
from anybroker.errors import (
    BrokerError,
    ConfigError,
    EventError,
    PublishOutcomeUnknown,
    StateError,
    Unavailable,
)
from anybroker.testing import delay, fail

from ._checkers import duplicates, inversions, lost, unexpected
from ._kit import Kit, counted


async def test_every_event_arrives_as_it_was_published(kit: Kit) -> None:
    """Every event with a receipt reaches the group, its attributes and its body equal to what was published."""
    topic = kit.topic()
    bus = kit.bus()
    log = kit.subscribe(bus, topic)
    async with bus:
        events = [counted(number, key=f"k{number % 5}") for number in range(kit.pick(150, 1000))]
        await asyncio.gather(*(bus.publish(topic, event) for event in events))
        await log.wait_done(event.id for event in events)
    assert {handling.event for handling in log.handlings} == set(events)
    assert not duplicates(log.handlings)


@pytest.mark.parametrize("count", [1, 100, 1000])
async def test_publish_many_gives_one_receipt_each(kit: Kit, count: int) -> None:
    """``publish_many`` returns one receipt per event, in order, each with the broker's id, and each event arrives."""
    topic = kit.topic()
    bus = kit.bus()
    log = kit.subscribe(bus, topic)
    async with bus:
        events = [counted(number) for number in range(count)]
        results = await bus.publish_many(topic, events)
        assert all(isinstance(result, Receipt) for result in results)
        receipts = [result for result in results if isinstance(result, Receipt)]
        assert [receipt.event for receipt in receipts] == events
        assert all(receipt.broker_id and receipt.topic == topic for receipt in receipts)
        await log.wait_done(event.id for event in events)
    assert not duplicates(log.handlings)


async def test_concurrent_publishers_lose_nothing(kit: Kit) -> None:
    """Everything that many tasks publish at the same time arrives, once."""
    topic = kit.topic()
    bus = kit.bus()
    log = kit.subscribe(bus, topic)
    writers, each = kit.pick((20, 15), (50, 200))

    async def write(writer: int) -> list[str]:
        ids = []
        for number in range(each):
            event = counted(number, key=f"k{writer}", writer=f"w{writer}")
            await bus.publish(topic, event)
            ids.append(event.id)
        return ids

    async with bus:
        written = [id_ for ids in await asyncio.gather(*map(write, range(writers))) for id_ in ids]
        await log.wait_done(written)
    assert not lost(written, log.handlings)
    assert not unexpected(written, log.handlings)
    assert not duplicates(log.handlings)


async def test_the_order_of_calls_per_key_holds_under_concurrency(kit: Kit) -> None:
    """Events of one key arrive in the order in which ``publish`` was called, also by concurrent tasks."""
    topic = kit.topic()
    bus = kit.bus()
    log = kit.subscribe(bus, topic)
    async with bus:
        published = await kit.publish(bus, topic, kit.pick(200, 1000), keys=4)
        await log.wait_done(id_ for _, id_ in published)
    assert inversions(published, log.handlings) == []


async def test_publish_before_the_start_and_after_close_is_an_error(kit: Kit) -> None:
    """``publish`` on a Bus that is not started, or closed, raises StateError at once and says what to do."""
    topic = kit.topic()
    bus: Bus = kit.bus(consume=False)
    with pytest.raises(StateError, match="not started"):
        await bus.publish(topic, counted(0))
    async with bus:
        await bus.publish(topic, counted(1))
    with pytest.raises(StateError, match="closed"):
        await bus.publish(topic, counted(2))


async def test_publishing_to_a_missing_topic_is_an_error_at_once(kit: Kit) -> None:
    """Without provisioning, a publish to a topic that does not exist is a typed error well before its deadline."""
    async with kit.bus(consume=False, provision="off") as bus:
        async with asyncio.timeout(20):
            with pytest.raises((BrokerError, ConfigError)) as caught:
                await bus.publish(kit.topic("missing"), counted(0), deadline=15)
    assert "missing-" in str(caught.value)


async def test_a_cancelled_publish_is_cancelled(kit: Kit) -> None:
    """Cancelling a publish raises CancelledError; a TaskGroup around it ends cleanly; the Bus still works."""
    topic = kit.topic()
    bus = kit.bus()
    log = kit.subscribe(bus, topic)
    async with bus:
        task = asyncio.create_task(bus.publish(topic, counted(0)))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        async with asyncio.TaskGroup() as group:
            other = group.create_task(bus.publish(topic, counted(1)))
            await asyncio.sleep(0)
            other.cancel()
        await bus.publish(topic, counted(2))
        await log.wait_done(["w-2"])
    assert set(log.started) <= {"w-0", "w-1", "w-2"}
    assert not duplicates(log.handlings)


async def test_a_publish_without_confirmation_is_unknown_by_its_deadline(kit: Kit) -> None:
    """A confirmation that does not arrive is PublishOutcomeUnknown at the deadline, with the event, to be sent
    again."""
    topic = kit.topic()
    faulty = kit.faulty(delay("publish", 30.0, nth=1))
    bus = kit.bus(target=faulty, consume=False, topics={topic: {"groups": ["g"]}}, drain=0.1)
    loop = asyncio.get_running_loop()
    async with bus:
        began = loop.time()
        event = counted(0, key="k")
        with pytest.raises(PublishOutcomeUnknown) as caught:
            await bus.publish(topic, event, deadline=0.3)
        assert loop.time() - began < 0.3 + 1.0
        assert caught.value.event == event


async def test_what_was_not_stored_is_sent_again(kit: Kit) -> None:
    """An Unavailable of the broker is retried by the library within the deadline, under the same id, in order."""
    topic = kit.topic()
    bus = kit.bus(target=kit.faulty(fail("publish", Unavailable("for a moment"), every=7)))
    log = kit.subscribe(bus, topic)
    async with bus:
        published = []
        for number in range(30):
            event = counted(number, key="k")
            await bus.publish(topic, event)
            published.append((event.key, event.id))
        await log.wait_done(id_ for _, id_ in published)
        assert bus.stats.retried >= 4
    assert inversions(published, log.handlings) == []
    assert not duplicates(log.handlings)


async def test_a_retry_never_overtakes(kit: Kit) -> None:
    """If a later event of the key was already accepted, the earlier one's failure goes to its caller."""
    topic = kit.topic()
    faulty = kit.faulty(fail("publish", Unavailable("for a moment"), nth=3))
    bus = kit.bus(target=faulty)
    log = kit.subscribe(bus, topic)
    async with bus:
        events = [counted(number, key="k") for number in range(6)]
        results = await asyncio.gather(*(bus.publish(topic, event) for event in events), return_exceptions=True)
        confirmed = [
            (event.key, event.id) for event, result in zip(events, results, strict=True) if isinstance(result, Receipt)
        ]
        await log.wait_done(id_ for _, id_ in confirmed)
    assert isinstance(results[2], Unavailable)
    assert inversions([(event.key, event.id) for event in events], log.handlings) == []
    assert sorted(log.started) == sorted(id_ for _, id_ in confirmed)


async def test_a_topic_without_a_group_warns_once_and_counts(kit: Kit, caplog: pytest.LogCaptureFixture) -> None:
    """Publishing to a topic with no known group succeeds and is counted, with one warning per topic."""
    topic = kit.topic()
    async with kit.bus(consume=False) as bus:
        for number in range(3):
            assert (await bus.publish(topic, counted(number))).broker_id
        assert bus.stats.without_group >= 1
    warnings = [
        record for record in caplog.records if topic in record.getMessage() and "no group" in record.getMessage()
    ]
    assert len(warnings) == 1


async def test_one_bad_payload_of_a_batch_sends_nothing(kit: Kit) -> None:
    """A payload that cannot be serialised raises before anything of its ``publish_many`` is sent."""
    topic = kit.topic()
    bus = kit.bus()
    log = kit.subscribe(bus, topic)
    async with bus:
        with pytest.raises(EventError):
            await bus.publish_many(topic, [counted(0), object(), counted(1)])
        await bus.publish(topic, counted(2))
        await log.wait_done(["w-2"])
    assert log.started == ["w-2"]
