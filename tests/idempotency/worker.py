"""Programs that the tests start as processes of their own: ``python worker.py what path …``."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import sys
from pathlib import Path

from anybroker import Bus
from anybroker.idempotency import Claim, SqliteStore, SqliteTransaction
from anybroker.middleware import idempotent, retry


async def claim_all(path: Path, owner: str, count: int) -> None:
    """Claim, mark and count what nobody else has; says which ones."""
    store = SqliteStore(path)
    await store.open()
    print("ready", flush=True)
    sys.stdin.readline()
    results = await asyncio.gather(*(store.claim(("g", "h", "s", str(n)), owner, 20.0, 60.0) for n in range(count)))
    claims = [result for result in results if isinstance(result, Claim)]
    marks = await asyncio.gather(*(store.done(claim) for claim in claims))
    assert all(marks)
    await store.close()
    print(*(claim.key[3] for claim in claims), flush=True)


async def hold(path: Path, lease: float) -> None:
    """Claim one and wait to be killed."""
    store = SqliteStore(path)
    await store.open()
    claim = await store.claim(("g", "h", "s", "1"), "killed", lease, 60.0)
    assert isinstance(claim, Claim)
    print("held", flush=True)
    sys.stdin.readline()


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
    what, *rest = sys.argv[1:]
    if what == "claim":
        asyncio.run(claim_all(Path(rest[0]), rest[1], int(rest[2])))
    elif what == "hold":
        asyncio.run(hold(Path(rest[0]), float(rest[1])))
    else:
        asyncio.run(charge(Path(rest[0]), Path(rest[1]), rest[2]))
