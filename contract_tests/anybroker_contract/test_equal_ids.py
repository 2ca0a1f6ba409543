"""equal ids: two events of one source and id, of which another program wrote one, are two, whatever becomes of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from anybroker import DeadLetter, Delivery, Event, Receipt
from anybroker.adapter import Outbound
from anybroker.errors import ConfigError
from anybroker.middleware import retry

from ._kit import TYPE, FailsUntilFixed, Kit, counted, submit
from .marks import needs_harness, requires
from .raw.api import MINIMAL
from .test_dead_letter import letters

SECRET = "a secret of the whole deployment"


def same(number: int) -> Event[Any]:
    """Always the same source and id."""
    return Event.create({"n": number}, source="contract", type=TYPE, id="same")


async def store(kit: Kit, topic: str, events: Iterable[Event[Any]]) -> None:
    """Have the broker store them all, also one that drops copies by source and id: another program's have no such id,
    or another one."""
    async with kit.adapter() as adapter:
        sender = await adapter.open_sender()
        try:
            batch = [Outbound(event, topic, hop=f"stored|{at}") for at, event in enumerate(events)]
            results = await submit(sender, batch, 10.0)
        finally:
            await sender.close()
    assert [result for result in results if not isinstance(result, Receipt) or result.duplicate] == []


NUMBERS = [0, 1, 1, 2]
"""Two of them are equal in every byte."""


async def test_each_of_two_events_of_one_id_is_dead_lettered_and_replayed(kit: Kit) -> None:
    """Events with the same source and id all fail, at the same attempt: each has a dead letter, and each comes again
    when all are replayed."""
    topic = kit.topic()
    bus = kit.bus()
    handler = FailsUntilFixed()
    log = kit.subscribe(bus, topic, behave=handler, middleware=[retry(attempts=1)])
    async with bus:
        await store(kit, topic, map(same, NUMBERS))
        found = await letters(kit, bus, topic, len(NUMBERS))
        assert sorted(letter.event.data["n"] for letter in found if isinstance(letter.event, Event)) == NUMBERS
        await kit.drained(bus, topic)
        assert bus.problems == {}
        handler.fixed = True
        queue = bus.dead_letters(topic, "g")
        queue.patience = kit.brief
        assert len(await queue.replay()) == len(NUMBERS)
        await log.until(lambda: len(log.done) == len(NUMBERS), "all of them again")
    assert sorted(each.event.data["n"] for each in log.handlings if each.done) == NUMBERS


@requires("release")
async def test_each_of_two_events_of_one_id_is_released(kit: Kit) -> None:
    """Events with the same source and id are all given back with a delay after their first start: each comes again."""
    topic = kit.topic()
    bus = kit.bus()

    async def once(delivery: Delivery) -> None:
        if delivery.attempt == 1:
            raise ValueError("not at first")

    again = retry(attempts=3, first=0.01, mode="release", gives_up_order=True)
    log = kit.subscribe(bus, topic, behave=once, middleware=[again])
    async with bus:
        await store(kit, topic, map(same, NUMBERS))
        await log.until(lambda: len(log.done) == len(NUMBERS), "all of them again")
        await kit.drained(bus, topic)
    assert sorted(each.event.data["n"] for each in log.handlings if each.done) == NUMBERS
    assert len(log.handlings) == 2 * len(NUMBERS)


def source_of(letter: DeadLetter) -> str:
    """Of its event."""
    return letter.event.source if isinstance(letter.event, Event) else ""


async def test_an_id_that_several_dead_letters_have_is_refused(kit: Kit) -> None:
    """``discard`` and ``replay`` of an id that events of two sources have do nothing and name both; each letter, or its
    fingerprint, can be given instead."""
    topic = kit.topic()
    bus = kit.bus()
    handler = FailsUntilFixed()
    log = kit.subscribe(bus, topic, behave=handler, middleware=[retry(attempts=1)])
    async with bus:
        for source in ("ours", "theirs"):
            await bus.publish(topic, {"of": source}, type=TYPE, source=source, id="same")
        await bus.publish(topic, {"of": "ours"}, type=TYPE, source="ours", id="other")
        found = await letters(kit, bus, topic, 3)
        (ours,) = (each for each in found if (each.id, source_of(each)) == ("same", "ours"))
        (theirs,) = (each for each in found if source_of(each) == "theirs")
        queue = bus.dead_letters(topic, "g")
        queue.patience = kit.brief
        for act in (queue.discard, queue.replay):
            with pytest.raises(ConfigError) as caught:
                await act(["other", "same"])
            for letter in (ours, theirs):
                for part in (letter.fingerprint, repr(source_of(letter)), letter.place):
                    assert part in str(caught.value)
        assert {each.fingerprint for each in await letters(kit, bus, topic, 3)} == {each.fingerprint for each in found}
        assert [source_of(each) for each in await queue.discard(theirs)] == ["theirs"]
        handler.fixed = True
        assert [source_of(each) for each in await queue.replay(ours.fingerprint)] == ["ours"]
        await log.wait_done(["same"])
        assert [each.id for each in await queue.list()] == ["other"]
    assert [each.event.source for each in log.handlings if each.done] == ["ours"]


@requires("deduplication")
@pytest.mark.parametrize("key", [None, SECRET], ids=["no key", "a key"])
async def test_a_copy_that_the_broker_drops_is_counted_and_said(
    kit: Kit, key: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    """An event that two Buses publish arrives once, also if both have a key. If the broker reports that it dropped one,
    the receipt says so, and it is counted and logged."""
    topic = kit.topic()
    await kit.declared(topic, "g")
    told: list[bool] = []
    for _ in range(2):
        async with kit.bus(consume=False, deduplication_key=key) as bus:
            receipt = await bus.publish(topic, counted(0, key="k"))
            told.append(receipt.duplicate)
            assert (bus.stats.duplicates, bus.stats.published) == (receipt.duplicate, 1)
    assert told in ([False, True], [False, False])  # some brokers never say it
    said = [record.getMessage() for record in caplog.records if "dropped as a copy" in record.getMessage()]
    assert len(said) == told[1]
    assert all(topic in each and "deduplication_key" in each for each in said)
    again = kit.bus(deduplication_key=key)
    log = kit.subscribe(again, topic)
    async with again:
        await again.publish(topic, counted(1, key="k"))
        await log.wait_done(["w-0", "w-1"])
    assert log.started == ["w-0", "w-1"]


@needs_harness("raw")
@requires("deduplication")
async def test_with_a_key_nobody_takes_the_place_of_an_event(kit: Kit) -> None:
    """Another program that knows the source and id of a future event sends something else under the id by which the
    broker would drop copies of it: with ``deduplication_key`` the event still arrives."""
    topic = kit.topic()
    bus = kit.bus(deduplication_key=SECRET)
    log = kit.subscribe(bus, topic)
    event = counted(0)
    async with kit.harness.raw() as client, bus:
        first = client.build(b"1", "application/json", {**MINIMAL, "id": "first"})
        await client.send(topic, "g", client.under(Outbound(event, topic).deduplication_id(), first))
        receipt = await bus.publish(topic, event)
        await log.wait_done(["first", "w-0"])
    assert not receipt.duplicate
    assert bus.stats.duplicates == 0
    assert sorted(log.started) == ["first", "w-0"]
