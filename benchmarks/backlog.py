"""``python -m benchmarks.backlog``: a relay works off a backlog of a million rows, from PostgreSQL to NATS JetStream.

Shows for each tenth of it the speed, how long the table's reads took, the rows that were deleted and not vacuumed, the
size of the table, and the memory of this process. Exit code 0 when everything was relayed, whatever the figures; 1 when
it was not.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any
from uuid import uuid4

import psycopg
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from anybroker import Bus
from anybroker.outbox import OutboxRelay, Row
from anybroker_postgres import PostgresOutbox

from .two_servers import postgres_and_nats

PARTS = 10
KEYS = 10_000

_FILL = """
INSERT INTO anybroker_outbox (id, aggregatetype, aggregateid, type, payload, shard)
SELECT 'b-' || n, %(topic)s, 'k' || n %% %(keys)s, 'bench.v1',
    json_build_object('specversion', '1.0', 'id', 'b-' || n, 'source', 'bench', 'type', 'bench.v1',
        'partitionkey', 'k' || n %% %(keys)s, 'datacontenttype', 'application/json',
        'data', json_build_object('number', n, 'text', repeat('x', 200)))::text,
    n %% %(keys)s %% 16
FROM generate_series(%(first)s::bigint, %(last)s::bigint) n
"""
_DEAD = (
    "SELECT n_dead_tup FROM pg_stat_user_tables WHERE relname = 'anybroker_outbox' AND schemaname = current_schema()"
)


@dataclass
class Part:
    """A tenth of the backlog."""

    rows: int
    rows_a_second: float
    read_ms: float
    """Median of the reads of the table that found something."""
    slowest_read_ms: float
    dead_tuples: int
    table_mb: float
    memory_mb: float


class Watched(PostgresOutbox):
    """Notes how long each read took."""

    def __init__(self, conninfo: str, *, schema: str) -> None:
        super().__init__(conninfo, schema=schema)
        self.reads: list[float] = []

    async def rows(self, shards: Collection[int], limit: int, /) -> Sequence[Row]:
        """As in PostgresOutbox."""
        begun = time.perf_counter()
        found = await super().rows(shards, limit)
        if found:
            self.reads.append((time.perf_counter() - begun) * 1e3)
        return found


def _memory() -> float:
    for line in Path("/proc/self/status").read_text("ascii").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return float("nan")


async def _relay(database: str, broker: str, rows: int, progress: Progress) -> list[Part]:
    schema = f"backlog{uuid4().hex[:12]}"
    topic = f"bench-{schema}"
    outbox = Watched(database, schema=schema)
    bus = Bus(broker, source="bench", outbox=outbox, relay=False, topics={topic: {"groups": ["g"]}})
    await outbox.open()  # makes the tables
    await outbox.close()
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as connection:
        await connection.execute(f"SET search_path TO {schema}".encode())
        async with bus:
            parts = await _work_off(bus, outbox, topic, rows, connection, progress)
        await connection.execute(f"DROP SCHEMA {schema} CASCADE".encode())
    return parts


async def _work_off(
    bus: Bus,
    outbox: Watched,
    topic: str,
    rows: int,
    connection: psycopg.AsyncConnection[tuple[Any, ...]],
    progress: Progress,
) -> list[Part]:
    parts: list[Part] = []
    filling = progress.add_task("writing", total=rows)
    each = max(1, rows // PARTS)
    for first in range(0, rows, each):
        last = min(rows, first + each) - 1
        await connection.execute(_FILL, {"topic": topic, "keys": KEYS, "first": first, "last": last})
        progress.update(filling, completed=last + 1)
    await connection.execute("ANALYZE anybroker_outbox")
    relaying = progress.add_task("relaying", total=rows)
    relay = OutboxRelay(outbox)
    begun, before = time.perf_counter(), 0
    await bus.add(relay)
    while before < rows:
        target = min(rows, before + each)
        while relay.relayed < target:
            await asyncio.sleep(0.02)
            progress.update(relaying, completed=relay.relayed)
            if relay.set_aside:
                raise AssertionError(f"{relay.set_aside} rows were set aside")
        now, done = time.perf_counter(), relay.relayed
        dead = await (await connection.execute(_DEAD)).fetchone()
        size = await (await connection.execute("SELECT pg_table_size('anybroker_outbox')")).fetchone()
        assert dead is not None
        assert size is not None
        reads, outbox.reads = outbox.reads, []
        parts.append(
            Part(
                done,
                (done - before) / (now - begun),
                median(reads) if reads else 0.0,
                max(reads, default=0.0),
                dead[0],
                size[0] / 2**20,
                _memory(),
            )
        )
        begun, before = now, done
    while (await outbox.waiting()).rows:  # noqa: ASYNC110 - the relay tells nobody
        await asyncio.sleep(0.02)
    return parts


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.backlog", description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000, help="the backlog (default: 1,000,000)")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    arguments = parser.parse_args()
    if arguments.rows < PARTS:
        parser.error(f"--rows: {arguments.rows} is less than {PARTS}")
    console = Console(stderr=True)
    with postgres_and_nats(console) as urls:
        if urls is None:
            return 1
        with Progress(console=console) as progress:
            parts = asyncio.run(_relay(*urls, arguments.rows, progress))
    if arguments.json:
        json.dump({"rows": arguments.rows, "parts": [asdict(part) for part in parts]}, sys.stdout)
        print()
        return 0
    table = Table(title=f"a backlog of {arguments.rows:,} rows")
    for name in ("relayed", "rows/s", "read, ms", "slowest, ms", "dead rows", "table, MB", "memory, MB"):
        table.add_column(name, justify="right")
    for part in parts:
        table.add_row(
            f"{part.rows:,}",
            f"{part.rows_a_second:,.0f}",
            f"{part.read_ms:.1f}",
            f"{part.slowest_read_ms:.1f}",
            f"{part.dead_tuples:,}",
            f"{part.table_mb:,.0f}",
            f"{part.memory_mb:,.0f}",
        )
    Console().print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
