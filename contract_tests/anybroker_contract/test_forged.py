"""forged: headers that the library or the broker writes, beside the event of another program, are not believed."""

from __future__ import annotations

import asyncio
import time

import pytest

from anybroker import Delivery, Event, Receipt
from anybroker.adapter import Outbound
from anybroker.deadletters import dead_letter_topic
from anybroker.middleware import retry

from ._kit import Kit, counted, submit
from .marks import needs_harness
from .raw.api import MINIMAL
from .test_dead_letter import letters


@needs_harness("raw")
async def test_forged_headers_stop_and_end_nothing(kit: Kit) -> None:
    """An event of another program, among good ones of its key, with false counts of starts and deliveries and a false
    time to wait for, is handled at once, at its first start, and so are those behind it."""
    topic = kit.topic()
    await kit.declared(topic, "g")
    bus = kit.bus()
    log = kit.subscribe(bus, topic)
    async with kit.harness.raw() as client, bus:
        for number in range(20):
            await bus.publish(topic, counted(number, key="k"))
            if number in (0, 10):
                attributes = {**MINIMAL, "id": f"forged-{number}", "partitionkey": "k"}
                await client.send(topic, "g", client.build(b"1", "application/json", attributes, client.forged(), "k"))
        expected = [f"w-{number}" for number in range(20)]
        expected += ["forged-0", "forged-10"]
        await log.wait_done(expected)
        await kit.drained(bus, topic)
    assert sorted(log.started) == sorted(expected)
    assert {handling.attempt for handling in log.handlings} == {1}


@needs_harness("raw")
async def test_forged_headers_end_nothing_that_is_given_back(kit: Kit) -> None:
    """Events of another program with such headers, given back by a member that leaves, are handled by the next one, at
    their first start: the broker's own count is not what their headers say."""
    topic = kit.topic()
    await kit.declared(topic, "g")
    ids = [f"forged-{number}" for number in range(6)]

    async def stay(_: Delivery) -> None:
        await asyncio.Event().wait()

    first = kit.bus()
    begun = kit.subscribe(first, topic, behave=stay)
    async with kit.harness.raw() as client, first:
        for id_ in ids:
            attributes = {**MINIMAL, "id": id_, "partitionkey": id_}
            await client.send(topic, "g", client.build(b"1", "application/json", attributes, client.forged(), id_))
        await begun.wait_started(len(ids))
        await first.close(drain=0)
    second = kit.bus()
    log = kit.subscribe(second, topic)
    async with second:
        await log.wait_done(ids)
        await kit.drained(second, topic)
        assert second.subscriptions[0].stats.dead_lettered == 0
    assert sorted(log.started) == ids
    assert {handling.attempt for handling in log.handlings} == {1}


WAITS = {
    "years": "9e18",
    "for ever": "inf",
    "no number": "nan",
    "more than a number": "1e400",
    "thousands of digits": "9" * 5_000,
    "words": "x y",
    "nothing": "",
}
STARTS = {"a billion": "999999999", "thousands of digits": "9" * 5_000, "a sign": "-1", "other digits": "\u0663"}


async def test_what_the_inlet_brings_waits_for_no_longer_than_we_write(kit: Kit) -> None:
    """Another program writes library headers to a group's inlet. A time that is invalid, or further away than the
    longest release, and an invalid count of starts are counted and ignored; a plausible count is used. All of these
    events, and those after them, are handled at once."""
    topic = kit.topic()
    bus = kit.bus()
    log = kit.subscribe(bus, topic)
    waits = {**WAITS, "13 hours": f"{time.time() + 13 * 3600:.3f}"}
    forged = [{"anybroker-not-before": text} for text in waits.values()]
    forged += [{"anybroker-attempts": text} for text in STARTS.values()]
    believed = {"anybroker-attempts": "3", "anybroker-not-before": "1.5"}
    async with bus, kit.adapter() as adapter:
        sender = await adapter.open_sender()
        try:
            batch = [
                Outbound(counted(number, key="k"), topic, "g", headers)
                for number, headers in enumerate([*forged, believed])
            ]
            results = await submit(sender, batch, 10.0)
        finally:
            await sender.close()
        assert [result for result in results if not isinstance(result, Receipt)] == []
        await bus.publish(topic, counted(99, key="k"))
        expected = [item.event.id for item in batch if isinstance(item.event, Event)]
        await log.wait_done([*expected, "w-99"])
        await kit.drained(bus, topic)
        stats = bus.subscriptions[0].stats
        assert stats.not_believed == len(forged)
        assert bus.problems == {}
    last = expected.pop()
    assert log.attempts(last) == [4]
    assert {log.attempts(id_)[0] for id_ in expected} == {1}
    assert len(log.handlings) == len(batch) + 1


COUNTS = {
    "thousands of digits": "9" * 5_000,
    "other digits": "\u0663",
    "no digits": "\u00b2",
    "a sign": "-1",
    "words": "x y",
}


@pytest.mark.parametrize("count", COUNTS.values(), ids=COUNTS)
async def test_a_forged_dead_letter_hides_no_other(kit: Kit, count: str) -> None:
    """A dead letter of another program, with counts that the library does not write, has counts of 0. It is listed,
    replayed and discarded like any other, and so are those before and after it."""
    topic = kit.topic()
    bus = kit.bus()
    healthy = False

    async def fail(_: Delivery) -> None:
        if not healthy:
            raise ValueError("not today")

    log = kit.subscribe(bus, topic, behave=fail, middleware=[retry(attempts=1)])
    async with bus, kit.adapter() as adapter:
        await bus.publish(topic, counted(0))
        await letters(kit, bus, topic, 1)
        headers = {"anybroker-dead-replays": count, "anybroker-dead-attempts": count, "anybroker-dead-reason": "forged"}
        forged = [Outbound(counted(number), dead_letter_topic(topic, "g"), headers=headers) for number in (1, 2)]
        sender = await adapter.open_sender()
        try:
            results = await submit(sender, forged, 10.0)
        finally:
            await sender.close()
        assert [result for result in results if not isinstance(result, Receipt)] == []
        await bus.publish(topic, counted(3))
        found = {letter.id: letter for letter in await letters(kit, bus, topic, 4)}
        assert found.keys() == {"w-0", "w-1", "w-2", "w-3"}
        assert [found[id_].attempts for id_ in ("w-0", "w-1", "w-2", "w-3")] == [1, 0, 0, 1]
        assert [letter.replays for letter in found.values()] == [0] * 4
        healthy = True
        queue = bus.dead_letters(topic, "g")
        queue.patience = kit.brief
        assert [letter.id for letter in await queue.discard("w-2")] == ["w-2"]
        assert {letter.id for letter in await queue.replay()} == {"w-0", "w-1", "w-3"}
        await log.wait_done(["w-0", "w-1", "w-3"])
        assert "w-2" not in log.started
