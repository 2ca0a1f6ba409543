"""SQLite: anybroker against a bare sqlite3 program with the same durability, on a file in the same folder.

The bare program commits up to 256 events in one transaction (WAL, synchronous=FULL, ``BEGIN IMMEDIATE``), writes the
same attributes, and to consume reads 256 rows, validates and handles each, and deletes them in one transaction. It
has no groups, no order by key, no leases and no other processes.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sqlite3
import tempfile
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from anybroker import Bus

from .workload import IN_FLIGHT, TYPE, OrderPlaced, bare_attributes, consume_with_bus, in_flight, orders, total

__all__ = ["bare_consume", "bare_publish", "consume", "publish"]

EVENTS = 20_000


def _timed(main: Callable[[Path], Coroutine[Any, Any, float]]) -> float:
    gc.freeze()
    try:
        with tempfile.TemporaryDirectory() as folder:
            return asyncio.run(main(Path(folder) / "bench.db")) * 1e6 / EVENTS
    finally:
        gc.unfreeze()


def _bus(path: Path) -> Bus:
    return Bus(f"sqlite:///{path}", source="bench", topics={"orders": {"groups": ["billing"]}})


async def _fill(path: Path) -> float:
    async with _bus(path) as bus:
        begun = time.perf_counter()
        await in_flight(orders(EVENTS), lambda order: bus.publish("orders", order, key=order.customer))
        return time.perf_counter() - begun


def publish() -> float:
    """Ours: 256 tasks."""
    return _timed(_fill)


def consume() -> float:
    """Ours: default middleware, ordered by key, claims and acknowledgements in groups."""

    async def main(path: Path) -> float:
        await _fill(path)
        return await consume_with_bus(_bus(path), "orders", EVENTS, time.perf_counter)

    return _timed(main)


def _open(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute(
        "CREATE TABLE IF NOT EXISTS event (seq INTEGER PRIMARY KEY, key TEXT, attributes TEXT, body BLOB)"
    )
    return connection


def _bare_fill(connection: sqlite3.Connection) -> float:
    items = orders(EVENTS)
    begun = time.perf_counter()
    for first in range(0, EVENTS, IN_FLIGHT):
        rows = [
            (order.customer, json.dumps(bare_attributes(order)), order.model_dump_json().encode())
            for order in items[first : first + IN_FLIGHT]
        ]
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany("INSERT INTO event (key, attributes, body) VALUES (?, ?, ?)", rows)
        connection.execute("COMMIT")
    return time.perf_counter() - begun


def bare_publish() -> float:
    """Bare sqlite3."""

    async def main(path: Path) -> float:
        connection = _open(path)
        try:
            return _bare_fill(connection)
        finally:
            connection.close()

    return _timed(main)


def bare_consume() -> float:
    """Bare sqlite3."""

    async def main(path: Path) -> float:
        connection = _open(path)
        cents = 0

        async def charge(order: OrderPlaced, attributes: dict[str, str]) -> None:
            nonlocal cents
            cents += order.cents

        try:
            _bare_fill(connection)
            begun = time.perf_counter()
            while rows := connection.execute(
                "SELECT seq, attributes, body FROM event ORDER BY seq LIMIT ?", (IN_FLIGHT,)
            ).fetchall():
                for _, text, body in rows:
                    attributes = json.loads(text)
                    if attributes["specversion"] != "1.0" or attributes["type"] != TYPE:
                        raise AssertionError("no event of ours")
                    await charge(OrderPlaced.model_validate_json(body), attributes)
                connection.execute("BEGIN IMMEDIATE")
                connection.executemany("DELETE FROM event WHERE seq = ?", [(seq,) for seq, _, _ in rows])
                connection.execute("COMMIT")
            took = time.perf_counter() - begun
        finally:
            connection.close()
        if cents != total(EVENTS):
            raise AssertionError("not every event was handled")
        return took

    return _timed(main)
