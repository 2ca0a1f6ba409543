"""Opening a file: settings, durability, and what is said where the file cannot be used."""

from __future__ import annotations

import asyncio
import math
import sqlite3
import threading
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from pydantic import ValidationError

from anybroker.adapter import AdapterContext, BrokerUrl
from anybroker.capabilities import Support
from anybroker.errors import ConfigError, Unavailable
from anybroker_sqlite import SqliteAdapter, SqliteSettings
from anybroker_sqlite.store import ADMIN, CLAIM, PUBLISH, SETTLE

CONTEXT = AdapterContext("tests", "one")


def test_options_come_as_text() -> None:
    settings = SqliteSettings.model_validate(
        {"busy_timeout": "0.5", "retention": "inf", "max_event_bytes": "1048576", "deduplication_window": "0"}
    )
    assert settings.busy_timeout == 0.5
    assert settings.retention == math.inf
    assert settings.max_event_bytes == 1_048_576
    assert SqliteSettings().max_event_bytes == 16 * 1024 * 1024


@pytest.mark.parametrize("option", [{"busy_timeout": "-1"}, {"max_event_bytes": "100"}, {"pol": "1"}, {"poll": "0"}])
def test_senseless_options_are_refused(option: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        SqliteSettings.model_validate(option)


def test_the_limit_and_the_window_show_in_the_capabilities() -> None:
    settings = SqliteSettings(max_event_bytes=100_000, deduplication_window=0)
    adapter = SqliteAdapter(BrokerUrl("sqlite", (), path="/shop.db"), settings, CONTEXT)
    assert adapter.capabilities.max_event_bytes == 100_000
    assert adapter.capabilities.deduplication is Support.ABSENT
    assert SqliteAdapter.capabilities.deduplication is Support.NATIVE


@pytest.mark.parametrize("url", [BrokerUrl("sqlite", (("shop.db", None),)), BrokerUrl("sqlite", (), path="/")])
def test_a_url_without_a_file_is_refused(url: BrokerUrl) -> None:
    with pytest.raises(ConfigError, match=r"sqlite:///shop\.db"):
        SqliteAdapter(url, SqliteSettings(), CONTEXT)


def test_a_relative_path_is_beside_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    adapter = SqliteAdapter(BrokerUrl("sqlite", (), path="/shop.db"), SqliteSettings(), CONTEXT)
    run(adapter.connect())
    run(adapter.close())
    assert (tmp_path / "shop.db").exists()


def test_a_missing_folder_is_named(tmp_path: Path, kit: ModuleType, run: Any) -> None:
    with pytest.raises(ConfigError, match="no/such does not exist"):
        run(kit.make_adapter(tmp_path / "no/such/shop.db").connect())
    assert not (tmp_path / "no").exists()


def test_a_file_that_is_no_database(path: Path, kit: ModuleType, run: Any) -> None:
    path.write_bytes(b"These are no tables. " * 100)
    with pytest.raises(ConfigError, match="not a SQLite database") as caught:
        run(kit.make_adapter(path).connect())
    assert isinstance(caught.value.__cause__, sqlite3.DatabaseError)


def test_a_folder_instead_of_a_file(tmp_path: Path, kit: ModuleType, run: Any) -> None:
    with pytest.raises(ConfigError, match="cannot be opened"):
        run(kit.make_adapter(tmp_path).connect())


def test_tables_of_another_version(path: Path, kit: ModuleType, run: Any) -> None:
    adapter = kit.make_adapter(path)
    run(adapter.connect())
    run(adapter.close())
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE ab_meta SET version = 99")
    connection.close()
    with pytest.raises(ConfigError, match="version 99"):
        run(kit.make_adapter(path).connect())


def test_a_database_of_somebody_else_keeps_its_tables(path: Path, kit: ModuleType, run: Any) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE orders(id INTEGER PRIMARY KEY)")
    connection.close()
    adapter = kit.make_adapter(path)
    run(adapter.connect())
    assert adapter.native.execute("SELECT count(*) FROM orders").fetchone() == (0,)
    run(adapter.close())


def test_a_locked_file_is_unavailable(path: Path, kit: ModuleType, run: Any) -> None:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("BEGIN EXCLUSIVE")
    try:
        with pytest.raises(Unavailable, match="locked"):
            run(kit.make_adapter(path, busy_timeout=0.05).connect())
    finally:
        connection.close()


def test_a_connect_that_is_cancelled_leaves_no_thread(path: Path, kit: ModuleType, run: Any) -> None:
    async def scenario() -> None:
        connecting = asyncio.ensure_future(kit.make_adapter(path).connect())
        await asyncio.sleep(0)
        (thread,) = [each for each in threading.enumerate() if each.name == "anybroker sqlite"]
        connecting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await connecting
        await asyncio.to_thread(thread.join, 10)
        assert not thread.is_alive()

    run(scenario())


def test_what_was_accepted_survives_a_loss_of_power(opened: Any, run: Any) -> None:
    """The settings that decide it, read back from the connection that writes, inside its transactions."""

    async def scenario() -> None:
        async with opened() as broker:
            store = broker.adapter._store

            def pragma(name: str, rank: int) -> Any:
                return store.call(lambda store: store.execute(f"PRAGMA {name}").fetchone()[0], rank)

            assert await pragma("journal_mode", ADMIN) == "wal"
            assert await pragma("fullfsync", ADMIN) == 1
            for rank in (PUBLISH, SETTLE, ADMIN):
                await pragma("synchronous", CLAIM)  # nothing but claims may be forgotten: NORMAL
                assert await pragma("synchronous", rank) == 2, "FULL"

    run(scenario())


def test_many_processes_may_make_the_same_file(path: Path, kit: ModuleType, run: Any) -> None:
    async def scenario() -> None:
        adapters = [kit.make_adapter(path) for _ in range(8)]
        await asyncio.gather(*(adapter.connect() for adapter in adapters))
        await asyncio.gather(*(adapter.declare(kit.TOPOLOGY, "create") for adapter in adapters))
        await asyncio.gather(*(adapter.declare(kit.TOPOLOGY, "verify") for adapter in adapters))
        for adapter in adapters:
            await adapter.close()

    run(scenario())


def test_closed_is_unavailable_and_closing_again_is_fine(opened: Any, kit: ModuleType, run: Any) -> None:
    async def scenario() -> None:
        async with opened() as broker:
            await broker.adapter.close()
            (result,) = await broker.publish(kit.Outbound(kit.make_event(1), "orders"))
            assert isinstance(result, Unavailable)
            with pytest.raises(Unavailable):
                await broker.adapter.open_sender()
            await broker.sender.close()
            await broker.adapter.close()

    run(scenario())
