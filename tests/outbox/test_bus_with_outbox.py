"""``Bus(outbox=)``: how it is set, what a Bus without a connection does, and what is wrong with it."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Coroutine, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from anybroker import Bus, Event, MemoryBroker, Receipt
from anybroker.errors import CapabilityError, ConfigError, Rejected, StateError
from anybroker.outbox import OutboxRelay, SqliteOutbox

Run = Callable[..., Any]
Until = Callable[[Callable[[], object]], Coroutine[Any, Any, None]]


@pytest.fixture
def shop(own_folder: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(own_folder / "shop.db")) as connection:
        yield connection


def listens(bus: Bus) -> list[str]:
    seen: list[str] = []

    @bus.subscribe("orders", group="g")
    async def see(event: Event[Any]) -> None:
        seen.append(event.id)

    return seen


@pytest.mark.parametrize("how", ["url", "object", "environment"])
def test_one_setting_is_enough_to_write_and_to_relay(
    how: str, shop: sqlite3.Connection, own_folder: Path, run: Run, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"sqlite:///{own_folder}/shop.db"
    if how == "environment":
        monkeypatch.setenv("ANYBROKER_OUTBOX", url)
    given: Any = {"url": url, "object": SqliteOutbox(own_folder / "shop.db"), "environment": None}[how]

    async def main() -> None:
        bus = Bus(MemoryBroker(), source="shop", outbox=given)
        seen = listens(bus)
        async with bus:
            with shop:
                await bus.publish("orders", {}, type="order.v1", id="o-1", within=shop)
                await asyncio.sleep(0.2)
                assert seen == [], "the transaction is open"
            await until(lambda: seen == ["o-1"])
            await bus.publish("orders", {}, type="order.v1", id="o-2", within=shop)
            shop.rollback()
            with shop:
                await bus.publish("orders", {}, type="order.v1", id="o-3", within=shop)
            await until(lambda: "o-3" in seen)
            assert seen == ["o-1", "o-3"]

    run(main())


def test_without_a_connection_events_are_written_and_nothing_else(
    shop: sqlite3.Connection, own_folder: Path, run: Run, until: Until
) -> None:
    """The URL names a broker that does not exist: nobody asks it."""
    url = f"sqlite:///{own_folder}/shop.db"

    async def main() -> None:
        relaying = Bus(MemoryBroker(), source="relay", outbox=url)
        seen = listens(relaying)
        writing = Bus("kafka://127.0.0.1:1", source="web", outbox=url, consume=False, relay=False)
        async with relaying, writing:
            with shop:
                receipt = await writing.publish("orders", {}, type="order.v1", id="o-1", within=shop)
                late = await writing.publish("orders", {}, type="order.v1", id="o-2", within=shop, delay=0.6)
            assert (receipt.topic, receipt.broker_id) == ("orders", "1")
            assert late.event is not None
            await until(lambda: seen == ["o-1"])
            assert writing.health().ready
            with pytest.raises(Rejected, match="has no connection to a broker"):
                await writing.publish("orders", {}, type="order.v1")
            (refused,) = await writing.publish_many("orders", [Event.create({}, type="t", source="/s")])
            assert isinstance(refused, Rejected)
            with pytest.raises(CapabilityError):
                await writing.backlog("orders", "g")
            await until(lambda: seen == ["o-1", "o-2"])
        assert isinstance(receipt, Receipt)

    run(main())


def test_only_the_relay_needs_a_broker_for_a_delay(own_folder: Path, shop: sqlite3.Connection, run: Run) -> None:
    async def main() -> None:
        bus = Bus(MemoryBroker(), source="shop", outbox=SqliteOutbox(own_folder / "shop.db"))
        async with bus:
            with shop, pytest.raises(ConfigError, match="would be overtaken"):
                await bus.publish("orders", {}, type="t", key="k", within=shop, delay=1.0)

    run(main())


def test_what_is_no_outbox_is_refused(own_folder: Path, run: Run) -> None:
    wrong: Any = SqliteOutbox
    with pytest.raises(ConfigError, match="is not an outbox"):
        Bus(MemoryBroker(), source="shop", outbox=wrong)
    with pytest.raises(ConfigError, match=r"no outbox for 'sqlit'.*sqlite"):
        Bus(MemoryBroker(), source="shop", outbox="sqlit:///shop.db")
    with pytest.raises(ConfigError, match="names no file"):
        Bus(MemoryBroker(), source="shop", outbox="sqlite://")
    with pytest.raises(ConfigError, match="there is no such option"):
        Bus(MemoryBroker(), source="shop", outbox="sqlite:///shop.db?size=3")
    with pytest.raises(ConfigError, match=r"batch=.*over 0"):
        OutboxRelay(SqliteOutbox(own_folder / "shop.db"), batch=0)
    with pytest.raises(ConfigError, match="'pass' or 'hold'"):
        OutboxRelay(SqliteOutbox(own_folder / "shop.db"), rejected="wait")  # type: ignore[arg-type]

    async def main() -> None:
        with pytest.raises(StateError, match="is in no Bus"):
            await OutboxRelay(SqliteOutbox(own_folder / "shop.db")).start()
        bus = Bus(MemoryBroker(), source="shop", outbox=SqliteOutbox(own_folder / "nowhere" / "shop.db"))
        with pytest.raises(ConfigError, match="there is no folder"):
            await bus.start()

    run(main())


def test_a_file_without_the_table_is_a_clear_error(own_folder: Path, shop: sqlite3.Connection, run: Run) -> None:
    async def main() -> None:
        bus = Bus("kafka://127.0.0.1:1", source="web", outbox="sqlite:///shop.db", consume=False, relay=False)
        async with bus:
            with pytest.raises(ConfigError, match=r"no table anybroker_outbox.*anybroker db sql sqlite"):
                await bus.publish("orders", {}, type="t", within=shop)
            with pytest.raises(ConfigError, match="no sink of the Bus takes a str"):
                await bus.publish("orders", {}, type="t", within="shop")

    run(main())
