"""What Debezium's outbox event router makes of the outbox's rows is what a relay sends."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import psycopg
import pytest
from aiokafka.structs import ConsumerRecord, TopicPartition
from tests.debezium.events import EVENTS, ORDERS, TOPICS, TYPE, Same, publish_all, same
from tests.debezium.programs import Embedded, Record

from anybroker import Bus, Event, MemoryBroker
from anybroker.delivery import Delivery
from anybroker.outbox import OutboxRelay
from anybroker_kafka.records import KafkaInbound
from anybroker_kafka.wire import Wire
from anybroker_postgres import PostgresOutbox

Run = Callable[[Coroutine[Any, Any, None]], None]
pytestmark = pytest.mark.timeout(300)  # Maven may have to download it

MOST_SECONDS = 100.0


def read(record: Record) -> KafkaInbound:
    """As the Kafka adapter would read it."""
    key, value, headers = record.key, record.value, tuple(record.headers)
    native = ConsumerRecord(record.topic, 0, 0, 0, 0, key, value, None, len(key or b""), len(value or b""), headers)
    return Wire().read(TopicPartition(record.topic, 0), native)


async def written(engine: Embedded, count: int) -> list[Record]:
    """What Debezium has written, as soon as there are so many."""
    found: list[Record] = []

    async def all_there() -> bool:
        found[:] = await asyncio.to_thread(engine.records)
        return len(found) >= count

    await engine.until(all_there)
    return found


async def relay(url: str, count: int) -> list[tuple[Same, dict[str, str]]]:
    """What a relay sends of so many rows, with the headers beside each event."""
    found: list[tuple[Same, dict[str, str]]] = []
    all_there = asyncio.Event()
    bus = Bus(MemoryBroker(), source="relay")
    bus.add(OutboxRelay(PostgresOutbox(url)))

    async def see(delivery: Delivery) -> None:
        found.append((same(delivery.topic, delivery.key, delivery.event), dict(delivery.headers)))
        if len(found) == count:
            all_there.set()

    for topic in TOPICS:
        bus.subscribe(topic, group="everything")(see)
    async with bus:
        try:
            await asyncio.wait_for(all_there.wait(), MOST_SECONDS)
        except TimeoutError:
            pytest.fail(f"{len(found)} of {count} were relayed in {MOST_SECONDS:g} s: {bus.problems}")
    return found


def by_id(events: Sequence[Same]) -> dict[Any, list[Same]]:
    found: dict[Any, list[Same]] = defaultdict(list)
    for each in events:
        found[each.attributes["id"][1]].append(each)
    return found


def by_key(events: Sequence[Same]) -> dict[tuple[str, str], list[Any]]:
    found: dict[tuple[str, str], list[Any]] = defaultdict(list)
    for each in events:
        if each.key is not None:
            found[each.topic, each.key].append(each.attributes["id"][1])
    return found


def test_debezium_writes_the_events_that_a_relay_sends(url: str, debezium: Any, run: Run) -> None:
    async def main() -> None:
        writer = Bus(MemoryBroker(), source="shop", sinks=[PostgresOutbox(url)])
        async with writer, await psycopg.AsyncConnection.connect(url) as shop:
            events = await publish_all(writer, shop)  # these are in its first snapshot
            await shop.commit()
            engine = await asyncio.to_thread(debezium.embedded)
            await written(engine, len(events))
            await publish_all(writer, shop)
            await shop.rollback()
            events += await publish_all(writer, shop)  # and these come from the log
            await shop.commit()
            relayed = await relay(url, len(events))
            cursor = await shop.execute("SELECT count(*) FROM anybroker_outbox")
            assert await cursor.fetchone() == (0,)
            # When this one comes, Debezium has passed the deletions.
            last = await writer.publish(ORDERS, type=TYPE, within=shop)
            await shop.commit()
            records = await written(engine, len(events) + 1)

        seen: list[Same] = []
        for record in records:
            inbound = read(record)
            event = inbound.event
            assert isinstance(event, Event), (record, event.reason)
            assert dict(record.headers) == {"id": event.id.encode(), "content-type": b"application/cloudevents+json"}
            seen.append(same(record.topic, inbound.key, event))
        assert last.event is not None
        assert seen.pop().attributes["id"] == ("str", last.event.id)

        known = [each for each, _ in relayed]
        assert {"tenant": "é 7", "x-retries": "3"} in [headers for _, headers in relayed]  # Debezium leaves them out
        assert by_id(seen) == by_id(known)
        assert by_id(seen).keys() == {event.id for event in events}
        assert by_key(seen) == by_key(known)
        for record, event in zip(records, [*events, last.event], strict=True):
            assert record.key == (None if event.key is None else event.key.encode())
        assert len(seen) == 2 * len(EVENTS)

    run(main())


def test_what_is_there_before_debezium_starts_keeps_its_order(url: str, debezium: Any, run: Run) -> None:
    async def main() -> None:
        writer = Bus(MemoryBroker(), source="shop", sinks=[PostgresOutbox(url)])
        async with writer, await psycopg.AsyncConnection.connect(url) as shop:
            for number in range(10):
                await writer.publish(ORDERS, number, type=TYPE, key="o-1", within=shop)
            await shop.commit()
            # A new version of the first row lies behind the others, as a new row may lie in the place of a deleted one.
            await shop.execute("UPDATE anybroker_outbox SET shard = shard WHERE position = 1")
            await shop.commit()
            engine = await asyncio.to_thread(debezium.embedded)
            records = await written(engine, 10)
        assert [read(record).event.body for record in records] == [str(number).encode() for number in range(10)]

    run(main())
