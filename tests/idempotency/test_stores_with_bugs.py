"""A store with a bug: it is told from a store that is down, and ends no task of the Bus's."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from anybroker import Bus, MemoryBroker
from anybroker.errors import HandlerExit
from anybroker.idempotency import Claim, MemoryStore, SqliteStore
from anybroker.middleware import idempotent
from anybroker.testing import settled


class Short(MemoryStore):
    """Its first answer to ``extend`` is too short, and its first purge fails."""

    def __init__(self) -> None:
        super().__init__()
        self.extended = 0
        self.purged = 0

    async def extend(self, claims: Sequence[Claim], /) -> Sequence[bool]:
        self.extended += 1
        return [] if self.extended == 1 else await super().extend(claims)

    async def purge(self) -> int:
        self.purged += 1
        if self.purged == 1:
            raise KeyError("a bug")
        return await super().purge()


def test_a_bug_of_the_store_ends_neither_extending_nor_purging(
    run: Any, until: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("anybroker.idempotency._stores._PURGE_EVERY", 0.05)
    store = Short()
    bus = Bus(MemoryBroker(), source="shop", idempotency=store)

    @bus.subscribe("orders", group="billing")
    @idempotent(lease=0.3)
    async def charge(number: int) -> None:
        await until(lambda: store.extended >= 2 and store.purged >= 2)

    async def main() -> None:
        async with bus:
            await bus.publish("orders", 1, type="order.v1")
            await settled(bus)
            assert bus.subscriptions[0].stats.postponed == 0

    run(main())
    said = {record.message.partition(":")[0]: record for record in caplog.records if record.levelno == logging.ERROR}
    assert set(said) == {"1 claims could not be extended", "old entries could not be purged"}
    assert all(record.exc_info for record in said.values())  # a bug is shown with where it is


@pytest.mark.parametrize("raised", [SystemExit(3), StopIteration(), KeyboardInterrupt()], ids=repr)
def test_a_function_in_the_stores_thread_that_raises_what_no_future_holds(
    run: Any, tmp_path: Path, raised: BaseException
) -> None:
    store = SqliteStore(tmp_path / "shop.db", prepare=lambda db: db.execute("CREATE TABLE IF NOT EXISTS t(x)"))

    def fail(db: sqlite3.Connection) -> None:
        db.execute("INSERT INTO t VALUES (1)")
        raise raised

    async def main() -> None:
        await store.open()
        try:
            async with asyncio.timeout(10):
                claim = await store.claim(("g", "h", "s", "1"), "me", 20.0, 60.0)
                assert isinstance(claim, Claim)
                transaction = store.transaction(claim)
                with pytest.raises(HandlerExit) as seen:
                    await transaction.run(fail)
                assert seen.value.__cause__ is raised
                assert await transaction.execute("SELECT count(*) FROM t") == [[0]]  # the thread goes on
                assert await store.done(claim)
        finally:
            await store.close()

    run(main())
