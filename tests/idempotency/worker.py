"""A service that a test starts as a separate process: ``python worker.py broker shop die``."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import sys
from pathlib import Path

from anybroker import Bus
from anybroker.idempotency import SqliteStore, SqliteTransaction
from anybroker.middleware import idempotent, retry


def book(shop: sqlite3.Connection) -> int:
    """The effect of the handler below: one more charge; how many there are."""
    shop.execute("INSERT INTO charge DEFAULT VALUES")
    return int(shop.execute("SELECT count(*) FROM charge").fetchone()[0])


async def charge(broker: Path, shop: Path, die: str) -> None:
    """A service that dies before or after its effect; with ``die=never`` it handles what there is."""
    store = SqliteStore(shop, prepare=lambda db: db.execute("CREATE TABLE IF NOT EXISTS charge(n INTEGER PRIMARY KEY)"))
    bus = Bus(f"sqlite:///{broker}", source="worker", lease=1.0)
    done = asyncio.Event()

    @bus.subscribe("orders", group="billing", start="earliest", name="charge")
    @retry(attempts=5, first=0.01)
    @idempotent(store)
    async def handle(number: int, transaction: SqliteTransaction) -> None:
        if die == "before":
            os._exit(9)
        total = await transaction.run(book)
        if die == "between":
            os._exit(9)
        await bus.publish("charged", {"number": number, "total": total}, type="charged.v1")
        if die == "after":
            os._exit(9)
        done.set()

    async with bus:
        print("started", flush=True)
        await done.wait()
    print("done", flush=True)


if __name__ == "__main__":
    broker, shop, die = sys.argv[1:]
    asyncio.run(charge(Path(broker), Path(shop), die))
