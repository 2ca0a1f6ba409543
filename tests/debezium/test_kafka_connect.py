"""The whole way: from the application's transaction through Kafka Connect to a handler of a Bus on Kafka."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import psycopg
import pytest
from aiokafka.structs import ConsumerRecord
from tests.debezium.events import EVENTS, TOPICS, Same, publish_all, same

from anybroker import Bus, MemoryBroker
from anybroker.delivery import Delivery
from anybroker.outbox import OutboxRelay
from anybroker_contract.brokers import Broker, start_brokers
from anybroker_postgres import PostgresOutbox

Run = Callable[[Coroutine[Any, Any, None]], None]
pytestmark = pytest.mark.timeout(300)  # Maven may have to download it


@pytest.fixture
def kafka() -> Iterator[str]:
    """The URL of a Kafka broker. Required where it may be installed."""
    found = start_brokers(["kafka"])["kafka"]
    if not isinstance(found, Broker):
        if os.environ.get("ANYBROKER_TEST_INSTALL"):
            pytest.fail(f"required, and not available: {found}", pytrace=False)
        pytest.skip(str(found))
    try:
        yield found.url
    finally:
        found.stop()


class Seen(NamedTuple):
    """What a handler was given."""

    event: Same
    partition: int
    by_debezium: bool
    """Its router writes a header that the adapter never writes."""


def test_a_handler_sees_the_same_from_kafka_connect_and_from_a_relay(
    kafka: str, url: str, debezium: Any, run: Run
) -> None:
    async def main() -> None:
        seen: list[Seen] = []
        # In binary mode, the default, an attribute's type does not travel: a relay would send an Integer as a String.
        bus = Bus(f"{kafka}?content_mode=structured", source="relay")
        bus.add(OutboxRelay(PostgresOutbox(url)))

        async def see(delivery: Delivery) -> None:
            record = delivery.raw
            assert isinstance(record, ConsumerRecord)
            routed = "id" in dict(record.headers)
            seen.append(Seen(same(delivery.topic, delivery.key, delivery.event), record.partition, routed))

        for topic in TOPICS:
            bus.subscribe(topic, group="everything")(see)
        writer = Bus(MemoryBroker(), source="shop", sinks=[PostgresOutbox(url)])
        async with bus, writer, await psycopg.AsyncConnection.connect(url) as shop:
            connect = await asyncio.to_thread(debezium.connect, urlsplit(kafka).netloc)

            async def reads_the_log() -> bool:
                found = await (await shop.execute("SELECT FROM pg_replication_slots WHERE active")).fetchone()
                await shop.rollback()
                return found is not None

            async def all_seen() -> bool:
                return len(seen) >= 2 * len(published)

            await connect.until(reads_the_log)  # the relay may not delete the rows before
            published = await publish_all(writer, shop)
            await shop.commit()
            await connect.until(all_seen)

        of_debezium = {each.event.attributes["id"][1]: each for each in seen if each.by_debezium}
        of_relay = {each.event.attributes["id"][1]: each for each in seen if not each.by_debezium}
        assert len(of_debezium) == len(of_relay) == len(EVENTS)
        for event in published:
            one, other = of_debezium[event.id], of_relay[event.id]
            assert one.event == other.event
            if event.key is not None:
                assert one.partition == other.partition
        assert {each.partition for each in seen} != {0}

    run(main())
