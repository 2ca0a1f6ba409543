"""The outbox in an SQLite file, written through SQLAlchemy."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from anybroker import Bus, ConfigError, Event, MemoryBroker, Receipt
from anybroker.outbox import SqliteOutbox
from anybroker.testing import Recorder

Run = Callable[[Coroutine[Any, Any, None]], None]
Opened = Callable[[Path], Any]
TYPE = "order.placed.v1"


@asynccontextmanager
async def connection(path: Path) -> AsyncIterator[Connection]:
    engine = create_engine(f"sqlite:///{path}")
    try:
        with engine.connect() as opened:
            yield opened
    finally:
        engine.dispose()


@asynccontextmanager
async def session(path: Path) -> AsyncIterator[Session]:
    async with connection(path) as opened:
        with Session(opened.engine) as made:
            yield made


@asynccontextmanager
async def async_connection(path: Path) -> AsyncIterator[AsyncConnection]:
    engine = create_async_engine(f"sqlite+aiosqlite:///{path}")
    try:
        async with engine.connect() as opened:
            yield opened
    finally:
        await engine.dispose()


@asynccontextmanager
async def async_session(path: Path) -> AsyncIterator[AsyncSession]:
    async with async_connection(path) as opened, AsyncSession(opened.engine) as made:
        yield made


every = pytest.mark.parametrize("opened", [connection, session, async_connection, async_session])


async def done(result: Any) -> Any:
    """What a call returns, asynchronous or not."""
    return await result if isinstance(result, Coroutine) else result


@every
def test_the_event_is_part_of_the_transaction(opened: Opened, tmp_path: Path, run: Run) -> None:
    async def main() -> None:
        bus = Bus(MemoryBroker(), source="shop", outbox=SqliteOutbox(tmp_path / "shop.db"))
        seen = Recorder(bus, "orders")
        async with bus, opened(tmp_path / "shop.db") as within:
            await done(within.execute(text("CREATE TABLE shop_order (id TEXT PRIMARY KEY)")))
            await bus.publish("orders", "never", type=TYPE, within=within)
            await done(within.rollback())
            for number in range(3):
                await done(within.execute(text("INSERT INTO shop_order VALUES (:id)"), {"id": f"o-{number}"}))
                receipt = await bus.publish("orders", number, type=TYPE, key="ö", within=within)
                assert receipt.broker_id is not None
                await done(within.commit())
            with pytest.raises(IntegrityError):
                await place_twice(bus, within)
            await done(within.rollback())
            assert [event.data for event in await seen.wait(3)] == [0, 1, 2]
            await bus.publish("orders", "last", type=TYPE, within=within)
            await done(within.commit())
            assert [event.data for event in (await seen.wait(4))[3:]] == ["last"]

    async def place_twice(bus: Bus, within: Any) -> None:
        await bus.publish("orders", "twice", type=TYPE, within=within)
        await done(within.execute(text("INSERT INTO shop_order VALUES ('o-1')")))

    run(main())


@every
def test_a_batch_is_part_of_the_transaction(opened: Opened, tmp_path: Path, run: Run) -> None:
    async def main() -> None:
        bus = Bus(MemoryBroker(), source="shop", outbox=SqliteOutbox(tmp_path / "shop.db"))
        seen = Recorder(bus, "orders")
        batch = [Event.create(n, type=TYPE, source="shop", key="k") for n in range(100)]
        async with bus, opened(tmp_path / "shop.db") as within:
            await bus.publish_many("orders", batch, within=within)
            await done(within.rollback())
            await bus.publish("orders", -1, type=TYPE, key="k", within=within)
            receipts = await bus.publish_many("orders", batch, within=within)
            positions = [int(each.broker_id or "") for each in receipts if isinstance(each, Receipt)]
            first = positions[0]
            assert positions == list(range(first, first + 100))
            rows = await done(
                within.execute(
                    text("SELECT position, id FROM anybroker_outbox WHERE position >= :first ORDER BY 1"),
                    {"first": first},
                )
            )
            assert [tuple(row) for row in rows] == [(first + n, event.id) for n, event in enumerate(batch)]
            await done(within.commit())
            assert [event.data for event in await seen.wait(101)] == list(range(-1, 100))

    run(main())


@every
def test_a_file_without_the_tables_is_refused_with_the_remedy(opened: Opened, tmp_path: Path, run: Run) -> None:
    async def main() -> None:
        bus = Bus(source="shop", outbox=SqliteOutbox(tmp_path / "shop.db"), consume=False, relay=False)
        async with bus, opened(tmp_path / "shop.db") as within:
            with pytest.raises(ConfigError, match=r"no table anybroker_outbox.*anybroker db sql sqlite"):
                await bus.publish("orders", 1, type=TYPE, within=within)

    run(main())


def test_a_session_of_another_database_is_not_taken() -> None:
    outbox = SqliteOutbox("shop.db")
    assert outbox.takes(Session(create_engine("sqlite://")))
    assert not outbox.takes(Session(create_engine("postgresql+psycopg://localhost/shop")))
    assert not outbox.takes(AsyncSession(create_async_engine("postgresql+psycopg://localhost/shop")))
    assert not outbox.takes(Session())  # bound to nothing
