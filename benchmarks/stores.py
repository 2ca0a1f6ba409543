"""Idempotency stores on a server: our store under the load of a busy subscription, against a bare loop.

Ours: 256 handlers at once, each of which claims an event, returns, and marks it done. The bare loop makes one claim and
one mark for each message, one after another, on one connection of the same client to the same server.
"""

from __future__ import annotations

import asyncio
import gc
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine
from typing import Any, ClassVar
from uuid import uuid4

from anybroker.idempotency import Claim, Store

__all__ = ["STORES", "Postgres", "Redis", "StoreBenchmark"]

HANDLERS = 256
LEASE, RETAIN = 20.0, 7 * 86_400.0


class StoreBenchmark(ABC):
    """The candidates on one server."""

    title: ClassVar[str]
    client: ClassVar[str]
    """What the bare loop uses."""
    events: ClassVar[int] = 10_000
    aim: ClassVar[float] = 3.0
    """Throughput over the bare loop."""

    def __init__(self, url: str) -> None:
        self.url = url

    def candidates(self) -> dict[str, Callable[[], float]]:
        """What is run in each round, in this order."""
        return {
            f"{self.title} store, claim and mark": lambda: self._timed(self.ours),
            f"bare {self.client}, claim and mark": lambda: self._timed(self.bare),
        }

    def _timed(self, main: Callable[[], Coroutine[Any, Any, float]]) -> float:
        gc.freeze()
        try:
            return asyncio.run(main()) * 1e6 / self.events
        finally:
            gc.unfreeze()

    async def ours(self) -> float:
        """Seconds."""
        store = self.store()
        await store.open()
        try:
            run = uuid4().hex
            numbers = iter(range(self.events))
            marked = 0

            async def handle() -> None:
                nonlocal marked
                for number in numbers:
                    claim = await store.claim(("billing", "charge", "shop", f"{run}-{number}"), "me", LEASE, RETAIN)
                    if not isinstance(claim, Claim):
                        raise AssertionError("somebody else has the event")  # noqa: TRY004 - it is not about its type
                    if await store.done(claim):
                        marked += 1

            begun = time.perf_counter()
            await asyncio.gather(*(handle() for _ in range(HANDLERS)))
            took = time.perf_counter() - begun
        finally:
            await store.close()
        if marked != self.events:
            raise AssertionError("not every event was marked")
        return took

    @abstractmethod
    def store(self) -> Store:
        """Ours, not opened."""

    @abstractmethod
    async def bare(self) -> float:
        """Claim and mark every message with the client alone: seconds."""


class Postgres(StoreBenchmark):
    """psycopg 3, in autocommit, with statements that it prepares."""

    title = "PostgreSQL"
    client = "psycopg"

    def store(self) -> Store:
        """Ours."""
        from anybroker_postgres import PostgresStore

        return PostgresStore(self.url)

    async def bare(self) -> float:
        """A table with a key, a lease and a mark."""
        import psycopg

        async with await psycopg.AsyncConnection.connect(self.url, autocommit=True) as connection:
            await connection.execute(
                "CREATE TABLE IF NOT EXISTS bare_claim (key text PRIMARY KEY, until timestamptz NOT NULL, "
                "done boolean NOT NULL DEFAULT false)"
            )
            run = uuid4().hex
            begun = time.perf_counter()
            for number in range(self.events):
                key = f"billing/charge/shop/{run}-{number}"
                claimed = await connection.execute(
                    "INSERT INTO bare_claim (key, until) VALUES (%s, now() + interval '20 seconds') "
                    "ON CONFLICT (key) DO NOTHING",
                    (key,),
                )
                marked = await connection.execute("UPDATE bare_claim SET done = true WHERE key = %s", (key,))
                if claimed.rowcount != 1 or marked.rowcount != 1:
                    raise AssertionError("it was not claimed, or not marked")
            return time.perf_counter() - begun


class Redis(StoreBenchmark):
    """redis-py, on one connection. It has no fences: an owner that comes late overwrites what another has done."""

    title = "Redis"
    client = "redis-py"

    def store(self) -> Store:
        """Ours."""
        from anybroker_redis import RedisStore

        return RedisStore(self.url)

    async def bare(self) -> float:
        """A key that expires and is set if there is none; then the mark in its place."""
        from redis.asyncio import Redis as Client

        async with Client.from_url(self.url, single_connection_client=True) as client:
            run = uuid4().hex
            begun = time.perf_counter()
            for number in range(self.events):
                key = f"bare:billing/charge/shop/{run}-{number}"
                claimed = await client.set(key, "me", nx=True, px=int(LEASE * 1e3))
                marked = await client.set(key, "done", px=int(RETAIN * 1e3))
                if not claimed or not marked:
                    raise AssertionError("it was not claimed, or not marked")
            return time.perf_counter() - begun


STORES: dict[str, type[StoreBenchmark]] = {"postgres": Postgres, "redis": Redis}
"""By the kind of server that :mod:`anybroker_contract.brokers` starts."""
