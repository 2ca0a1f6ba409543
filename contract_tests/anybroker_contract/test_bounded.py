"""bounded: long keys, names and ids, and messages that are larger than they look, cost no more than they have to."""

from __future__ import annotations

import asyncio
import gc
import json
import tracemalloc
from typing import Any

from anybroker import Delivery, Event, Receipt
from anybroker.adapter import Foreign, Outbound
from anybroker.idempotency import Busy, Claim, Done, Key, MemoryStore
from anybroker.middleware import idempotent, retry

from ._kit import TYPE, Kit, counted, submit
from .marks import needs_harness
from .raw.api import JSON, MINIMAL
from .test_dead_letter import letters

LONG = 4_000
"""Characters, more than `publish` takes as a key."""
HUGE = 100_000
"""Characters of a name that no broker's limit forbids."""
COUNT = 60


def odd(number: int, **attributes: str) -> Event[Any]:
    """An event as another program may write it."""
    return Event({**MINIMAL, "type": TYPE, "id": f"w-{number}", **attributes}, number)


async def send(kit: Kit, topic: str, events: list[Event[Any]]) -> None:
    """Past what `publish` refuses."""
    async with kit.adapter() as adapter:
        sender = await adapter.open_sender()
        try:
            results = await submit(sender, [Outbound(event, topic) for event in events])
        finally:
            await sender.close()
    assert [result for result in results if not isinstance(result, Receipt)] == []


async def test_events_of_a_long_key_keep_their_order(kit: Kit) -> None:
    """A key that publish would refuse orders its events like any other, by a hash of at most 512 bytes; the attribute
    is unchanged, also in a dead letter and its replay."""
    topic = kit.topic()
    key = "k" * LONG
    keys: set[str | None] = set()
    healthy = False

    async def look(delivery: Delivery) -> None:
        keys.add(delivery.key)
        assert delivery.event["partitionkey"] == key
        if delivery.event.id == "w-3" and not healthy:
            raise ValueError("not today")

    bus = kit.bus()
    log = kit.subscribe(bus, topic, behave=look, middleware=[retry(attempts=1)])
    async with bus:
        await send(kit, topic, [odd(number, partitionkey=key) for number in range(10)])
        await log.wait_done(f"w-{number}" for number in range(10) if number != 3)
        (letter,) = await letters(kit, bus, topic, 1)
        assert isinstance(letter.event, Event)
        assert letter.event["partitionkey"] == key
        healthy = True
        queue = bus.dead_letters(topic, "g")
        queue.patience = kit.brief
        await queue.replay()
        await log.wait_done(["w-3"])
        await kit.drained(bus, topic)
    assert log.started == [*(f"w-{number}" for number in range(10)), "w-3"]
    assert len(keys) == 1
    assert [text for text in keys if text is None or len(text.encode()) > 512] == []


class Watched(MemoryStore):
    """Keeps the keys that it was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: set[Key] = set()

    async def claim(self, key: Key, owner: str, lease: float, retain: float, /) -> Claim | Busy | Done:
        """As MemoryStore."""
        self.asked.add(key)
        return await super().claim(key, owner, lease, retain)


async def test_a_store_is_given_no_long_ids(kit: Kit) -> None:
    """Events with long sources or ids that differ only at the end are handled once each; the store gets at most 128
    characters of each."""
    topic = kit.topic()
    store = Watched()
    bus = kit.bus()
    log = kit.subscribe(bus, topic, middleware=[idempotent(store)])
    events = [odd(number, id=f"{'i' * LONG}{number}", partitionkey="k") for number in range(3)]
    events += [odd(number, source=f"/{'s' * LONG}{number}", partitionkey="k") for number in range(3)]
    events += [counted(7, key="k")]
    async with bus:
        for event in events:
            await send(kit, topic, [event])
            await send(kit, topic, [event])
        await log.wait_done(event.id for event in events)
        await kit.drained(bus, topic)
    assert log.started == [event.id for event in events]
    assert len(store.asked) == len(events)
    assert max(len(text) for asked in store.asked for text in asked[2:]) <= 128
    assert [asked[2:] for asked in store.asked if asked[3] == "w-7"] == [("contract", "w-7")]


@needs_harness("raw")
async def test_long_names_of_attributes_are_not_kept(kit: Kit) -> None:
    """Events of another program, each with a different attribute of a very long name, are handled, and nothing of their
    names is kept afterwards."""
    topic = kit.topic()
    await kit.declared(topic, "g")
    done: asyncio.Queue[int] = asyncio.Queue()

    async def count(_: Delivery) -> None:  # a log would keep the events
        done.put_nowait(1)

    bus = kit.bus()
    bus.subscribe(topic, group="g")(count)
    async with kit.harness.raw() as client, bus:
        for number in range(COUNT + 1):
            if number == 1:  # what happens the first time is over
                gc.collect()
                tracemalloc.start()
            name = f"{number}".rjust(HUGE, "x")
            document = json.dumps({**MINIMAL, "id": f"w-{number}", name: "1"}).encode()
            await client.send(topic, "g", client.build(document, JSON))
            await asyncio.wait_for(done.get(), kit.patience)
        await kit.drained(bus, topic)
        gc.collect()
        held = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        assert bus.subscriptions[0].stats.foreign == 0
    assert held < COUNT * HUGE / 2, f"{held} bytes are held of {COUNT * HUGE}"


@needs_harness("raw")
async def test_a_message_that_is_larger_than_it_looks_stops_nothing(kit: Kit) -> None:
    """A message that the broker accepts but that would fill its reader's memory is skipped and dead-lettered without
    its content, and the dead letter says why. Events before and after it in its topic are handled without a reconnect,
    also by a Bus that starts with it at the head of the backlog."""
    topic = kit.topic()
    await kit.declared(topic, "g")
    bus = kit.bus()
    log = kit.subscribe(bus, topic)
    async with kit.harness.raw() as client:
        found = list(client.oversized().values())
        for number, message in enumerate(found):
            await client.send(topic, "g", message)
            async with kit.bus(consume=False) as publisher:
                await publisher.publish(topic, counted(number))
        async with bus:
            await bus.publish(topic, counted(len(found)))
            await log.wait_done(f"w-{number}" for number in range(len(found) + 1))
            dead = await letters(kit, bus, topic, len(found))
            await kit.drained(bus, topic)
            assert bus.subscriptions[0].stats.reconnects == 0
            assert bus.subscriptions[0].stats.foreign == len(found)
    assert len(log.handlings) == len(found) + 1
    foreign = [letter.event for letter in dead if isinstance(letter.event, Foreign)]
    assert [message.body or b"" for message in foreign] == [b""] * len(found)
    assert [letter.reason for letter in dead if "bytes" not in letter.reason] == []
