"""``python -m benchmarks.commit_to_broker``: milliseconds from a commit to the broker's receipt, through the outbox.

One event is committed, and the next one after its receipt and a pause. From the return of ``commit()`` to the
confirmation of NATS JetStream. Exit code 0 when it ran, whatever the figures.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sqlite3
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import closing
from pathlib import Path
from statistics import median, quantiles
from typing import Any
from uuid import uuid4

import psycopg
from rich.console import Console
from rich.progress import Progress

from anybroker import Bus, Event
from anybroker.adapter import Receipt
from anybroker.outbox import OutboxRelay, SqliteOutbox
from anybroker_postgres import PostgresOutbox

from .two_servers import postgres_and_nats

Commit = Callable[[Bus, str, int], Awaitable[None]]


class Timed:
    """The Bus, as the relay uses it: notes when each receipt came."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self.source = "bench"
        self.confirmed = asyncio.Event()
        self.at = 0.0

    async def forward(self, topic: str, event: Event[Any], /, *, headers: Mapping[str, str] | None = None) -> Receipt:
        """As Bus.forward."""
        receipt = await self._bus.forward(topic, event, headers=headers)
        self.at = time.perf_counter()
        self.confirmed.set()
        return receipt


async def _measure(
    broker: str, outbox: PostgresOutbox | SqliteOutbox, commit: Commit, events: int, progress: Progress, name: str
) -> list[float]:
    topic = f"bench-{uuid4().hex[:12]}"
    bus = Bus(broker, source="bench", outbox=outbox, relay=False, topics={topic: {"groups": ["g"]}})
    relay = OutboxRelay(outbox)
    task = progress.add_task(name, total=events)
    took: list[float] = []
    async with bus:
        timed = Timed(bus)
        relay.attach(timed)
        await relay.start()
        try:
            for number in range(events):
                timed.confirmed.clear()
                await commit(bus, topic, number)
                committed = time.perf_counter()
                await asyncio.wait_for(timed.confirmed.wait(), 30)
                took.append((timed.at - committed) * 1e3)
                progress.advance(task)
                await asyncio.sleep(random.uniform(0.01, 0.05))  # not in step with a poll
        finally:
            await relay.stop(5)
    return took


async def _postgres(broker: str, database: str, events: int, progress: Progress) -> list[float]:
    schema = f"commit{uuid4().hex[:12]}"
    outbox = PostgresOutbox(database, schema=schema)
    await outbox.open()  # makes the tables
    await outbox.close()
    async with await psycopg.AsyncConnection.connect(database) as connection:
        await connection.execute(f"SET search_path TO {schema}".encode())
        await connection.commit()

        async def commit(bus: Bus, topic: str, number: int) -> None:
            await bus.publish(topic, {"number": number}, type="bench.v1", within=connection)
            await connection.commit()

        took = await _measure(broker, outbox, commit, events, progress, "PostgreSQL")
        await connection.execute(f"DROP SCHEMA {schema} CASCADE".encode())
        await connection.commit()
    return took


async def _sqlite(broker: str, events: int, progress: Progress) -> list[float]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "shop.db"
        outbox = SqliteOutbox(path)
        await outbox.open()
        await outbox.close()
        with closing(sqlite3.connect(path)) as connection:

            async def commit(bus: Bus, topic: str, number: int) -> None:
                await bus.publish(topic, {"number": number}, type="bench.v1", within=connection)
                connection.commit()

            return await _measure(broker, outbox, commit, events, progress, "SQLite")


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.commit_to_broker", description=__doc__)
    parser.add_argument("--events", type=int, default=500, help="on each database (default: 500)")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    arguments = parser.parse_args()
    if arguments.events < 10:
        parser.error(f"--events: {arguments.events} is less than 10")
    console = Console(stderr=True)
    with postgres_and_nats(console) as urls:
        if urls is None:
            return 1
        database, broker = urls
        with Progress(console=console) as progress:
            seen = {
                "PostgreSQL": asyncio.run(_postgres(broker, database, arguments.events, progress)),
                "SQLite": asyncio.run(_sqlite(broker, arguments.events, progress)),
            }
    figures = {
        name: {"p50": median(took), "p95": quantiles(took, n=20, method="inclusive")[18], "max": max(took)}
        for name, took in seen.items()
    }
    if arguments.json:
        json.dump({"events": arguments.events, "ms": figures}, sys.stdout)
        print()
        return 0
    for name, of in figures.items():
        Console().print(
            f"{name}: {', '.join(f'{what} {value:.1f} ms' for what, value in of.items())} from commit to receipt"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
