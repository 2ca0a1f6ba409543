"""Relaying an outbox in PostgreSQL to NATS JetStream, against a naive loop on the same rows and the same broker.

The naive loop reads a hundred rows, publishes one after another, each when the broker has confirmed the one before, and
deletes each row after its confirmation: what one writes in an hour, and correct as long as there is one of it.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Awaitable, Callable
from uuid import uuid4

import psycopg

from anybroker import Bus, Event
from anybroker.cloudevents import parse_json
from anybroker.outbox import OutboxRelay
from anybroker_postgres import PostgresOutbox

__all__ = ["OutboxBenchmark"]

EVENTS = 5_000
KEYS = 200
_READ = 100

Relaying = Callable[[Bus, PostgresOutbox, psycopg.AsyncConnection[tuple[object, ...]]], Awaitable[None]]


class OutboxBenchmark:
    """The candidates on one database and one broker."""

    def __init__(self, database: str, broker: str) -> None:
        self._database = database
        self._broker = broker

    def candidates(self) -> dict[str, Callable[[], float]]:
        """What is run in each round, in this order: µs an event."""
        return {
            "outbox relay, PostgreSQL to NATS": lambda: self._timed(_relay),
            "naive loop, PostgreSQL to NATS": lambda: self._timed(_naive),
        }

    def _timed(self, relaying: Relaying) -> float:
        gc.freeze()
        try:
            return asyncio.run(self._run(relaying)) * 1e6 / EVENTS
        finally:
            gc.unfreeze()

    async def _run(self, relaying: Relaying) -> float:
        schema = f"bench{uuid4().hex[:12]}"
        topic = f"bench-{schema}"
        outbox = PostgresOutbox(self._database, schema=schema)
        bus = Bus(self._broker, source="bench", outbox=outbox, relay=False, topics={topic: {"groups": ["g"]}})
        await outbox.open()  # makes the tables
        await outbox.close()
        async with await psycopg.AsyncConnection.connect(self._database) as connection:
            await connection.execute(f"SET search_path TO {schema}".encode())
            async with bus:
                for first in range(0, EVENTS, 1_000):
                    events = [
                        Event.create({"number": number}, type="bench.v1", source="bench", key=f"k{number % KEYS}")
                        for number in range(first, first + 1_000)
                    ]
                    await bus.publish_many(topic, events, within=connection)
                    await connection.commit()
                begun = time.perf_counter()
                await relaying(bus, outbox, connection)
                took = time.perf_counter() - begun
                left = await (await connection.execute("SELECT count(*) FROM anybroker_outbox")).fetchone()
            await connection.execute(f"DROP SCHEMA {schema} CASCADE".encode())
            await connection.commit()
        if left != (0,):
            raise AssertionError(f"{left} rows are left")
        return took


async def _relay(bus: Bus, outbox: PostgresOutbox, _: psycopg.AsyncConnection[tuple[object, ...]]) -> None:
    relay = OutboxRelay(outbox)
    await bus.add(relay)
    while relay.relayed < EVENTS or (await outbox.waiting()).rows:  # noqa: ASYNC110 - the relay tells nobody
        await asyncio.sleep(0.005)


async def _naive(bus: Bus, _: PostgresOutbox, connection: psycopg.AsyncConnection[tuple[object, ...]]) -> None:
    while True:
        cursor = await connection.execute(
            "SELECT position, aggregatetype, payload FROM anybroker_outbox ORDER BY position LIMIT %s", (_READ,)
        )
        rows = await cursor.fetchall()
        if not rows:
            break
        for position, topic, payload in rows:
            await bus.publish(str(topic), parse_json(str(payload)))
            await connection.execute("DELETE FROM anybroker_outbox WHERE position = %s", (position,))
            await connection.commit()
    await connection.commit()
