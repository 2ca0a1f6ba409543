"""What goes wrong around the file: many that write at once, locks, a file that is gone or damaged, faults of ours."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from anybroker.adapter import Ack, Outbound, Receipt
from anybroker.errors import BrokerError, PublishOutcomeUnknown, Rejected, Unavailable
from anybroker_sqlite.failures import text_of
from anybroker_sqlite.wire import encode


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Another process keeps the write lock."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        connection.close()


async def take(receiver: Any, count: int) -> list[Any]:
    found: list[Any] = []
    async with asyncio.timeout(30):
        while len(found) < count:
            found += await receiver.receive(count - len(found), lanes=None, timeout=1)
    return found


# ------------------------------------------------------------------------------------------------------ many at once


def test_a_hundred_buses_of_one_process_start_on_one_file(path: Path, kit: ModuleType, run: Any) -> None:
    """They wait in line for it: nobody is told of another process that does not exist."""

    async def start(adapter: Any) -> Any:
        await adapter.connect()
        await adapter.declare(kit.TOPOLOGY, "create")
        sender = await adapter.open_sender()
        receiver = await adapter.open_receiver(kit.SPEC, kit.Listener())
        (result,) = await kit.submit(sender, [Outbound(kit.make_event(1), "orders")])
        assert isinstance(result, Receipt), result
        return receiver

    async def scenario() -> None:
        adapters = [kit.make_adapter(path, busy_timeout=1) for _ in range(100)]
        receivers = await asyncio.gather(*map(start, adapters))
        for receiver in receivers:
            await receiver.close()
        for adapter in adapters:
            await adapter.close()

    run(scenario())


def test_what_waits_for_its_turn_too_long_names_the_other_buses(opened: Any, kit: ModuleType, run: Any) -> None:
    async def scenario() -> None:
        async with opened() as broker:
            store = broker.adapter._store
            store._patience = 0.01
            with store._file_turn:
                (result,) = await broker.publish(Outbound(kit.make_event(1), "orders"))
            assert type(result) is Unavailable
            assert "other Buses of this process" in str(result)
            (result,) = await broker.publish(Outbound(kit.make_event(1), "orders"))
            assert isinstance(result, Receipt)

    run(scenario())


# ------------------------------------------------------------------------------------------------------------- locks


def test_a_settlement_that_failed_can_be_made_again(opened: Any, kit: ModuleType, path: Path, run: Any) -> None:
    async def scenario() -> None:
        async with opened(busy_timeout=0.05) as broker:
            receiver = await broker.join()
            await broker.publish(*(Outbound(kit.make_event(n, "k"), "orders") for n in range(10)))
            settlements = [Ack(inbound) for inbound in await take(receiver, 10)]
            with locked(path):
                for _ in range(2):
                    results = await receiver.settle(settlements)
                    assert [type(result) for result in results] == [Unavailable] * 10
                    extended = await receiver.extend([each.inbound for each in settlements])
                    assert [type(result) for result in extended] == [Unavailable] * 10
            assert await receiver.extend([each.inbound for each in settlements]) == [None] * 10
            assert await receiver.settle(settlements) == [None] * 10
            await receiver.close()
            again = await broker.join()
            assert await again.receive(10, lanes=None, timeout=0.1) == ()

    run(scenario())


def test_what_was_handled_and_could_not_be_acked_does_not_come_again_after_close(
    opened: Any, kit: ModuleType, path: Path, run: Any
) -> None:
    async def scenario() -> None:
        async with opened(busy_timeout=0.05) as broker:
            receiver = await broker.join()
            await broker.publish(*(Outbound(kit.make_event(n, "k"), "orders") for n in range(4)))
            batch = await take(receiver, 4)
            with locked(path):
                assert [type(r) for r in await receiver.settle([Ack(item) for item in batch[:2]])] == [Unavailable] * 2
            await receiver.close()
            again = await broker.join()
            assert [item.event.data for item in await take(again, 2)] == [2, 3]
            assert await again.receive(10, lanes=None, timeout=0.1) == ()

    run(scenario())


def test_looking_for_events_that_fails_for_a_while_is_told(
    opened: Any, path: Path, run: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "anybroker.sqlite")

    async def scenario() -> None:
        async with opened(busy_timeout=0.01, poll=0.02) as broker:
            receiver = await broker.join()
            with locked(path):
                assert await receiver.receive(10, lanes=None, timeout=0.2) == ()
            assert await receiver.receive(10, lanes=None, timeout=0.05) == ()
            await receiver.close()

    run(scenario())
    said = [record.getMessage() for record in caplog.records if record.name == "anybroker.sqlite"]
    assert len(said) == 2, said
    assert "locked by another process" in said[0]
    assert "the file is writable again" in said[1]


# ------------------------------------------------------------------------------------- a file that is gone, or damaged


def emptied(path: Path) -> None:
    os.truncate(path, 0)


def deleted(path: Path) -> None:
    path.unlink()


def replaced(path: Path) -> None:
    other = path.with_name("other.db")
    other.write_bytes(path.read_bytes())
    other.replace(path)


def without_its_log(path: Path) -> None:
    path.with_name(f"{path.name}-wal").unlink()


def damaged(path: Path) -> None:
    """Every page but the first, and the log with the newest of them."""
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(100)
        file.write(os.urandom(size - 100))
    log = path.with_name(f"{path.name}-wal")
    with log.open("r+b") as file:
        file.seek(32)
        file.write(os.urandom(max(log.stat().st_size - 32, 0)))


@pytest.mark.parametrize("harm", [emptied, deleted, replaced, without_its_log])
def test_a_file_that_is_gone_while_it_is_open_is_noticed(
    opened: Any, kit: ModuleType, path: Path, run: Any, harm: Any
) -> None:
    """SQLite would go on, and say that all is stored."""

    async def scenario() -> None:
        async with opened(poll=0.02) as broker:
            receiver = await broker.join()
            await broker.publish(Outbound(kit.make_event(1), "orders"))
            (held,) = await take(receiver, 1)
            harm(path)
            (result,) = await broker.publish(Outbound(kit.make_event(2), "orders"))
            assert isinstance(result, Unavailable)
            assert "while it was open" in str(result)
            (result,) = await receiver.settle([Ack(held)])
            assert isinstance(result, Unavailable)
            with pytest.raises(Unavailable, match="while it was open"):
                await receiver.receive(10, lanes=None, timeout=5)
            await receiver.close()

    run(scenario())


def test_a_file_that_is_damaged_while_it_is_open_is_noticed(opened: Any, kit: ModuleType, path: Path, run: Any) -> None:
    async def scenario() -> None:
        async with opened() as broker:
            await broker.publish(Outbound(kit.make_event(1), "orders"))
        async with opened() as broker:
            damaged(path)
            connection = broker.adapter._store._connection
            await broker.adapter._store.call(lambda _: connection.execute("PRAGMA shrink_memory"))
            results = await broker.publish(*(Outbound(kit.make_event(n), "orders") for n in range(3)))
            assert {type(result) for result in results} <= {Unavailable, PublishOutcomeUnknown}
            assert any("damaged" in str(result) for result in results)

    run(scenario())


# ----------------------------------------------------------------------------------------------------- faults of ours


def test_one_event_that_cannot_be_written_fails_alone_and_is_rejected(
    opened: Any, kit: ModuleType, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An exception in the thread that writes is one of the three that publish may end with."""

    def odd(outbound: Any) -> Any:
        row, body, rough = encode(outbound)
        return (row, body, rough) if outbound.event.data != "odd" else ([*row[:3], "\ud800", *row[4:]], body, rough)

    monkeypatch.setattr("anybroker_sqlite.sender.encode", odd)

    async def scenario() -> None:
        async with opened() as broker:
            first, broken, last = await broker.publish(
                *(Outbound(kit.make_event(data), "orders") for data in ("one", "odd", "two"))
            )
            assert type(broken) is Rejected
            assert isinstance(first, Receipt)
            assert isinstance(last, Receipt)
            receiver = await broker.join()
            assert broken.__cause__ is not None
            await receiver.close()

    run(scenario())


@pytest.mark.parametrize(
    ("fault", "kind"), [(RuntimeError("a bug"), Rejected), (MemoryError(), Unavailable), (OSError(), Rejected)]
)
def test_a_fault_in_the_thread_is_one_of_the_three(
    opened: Any, kit: ModuleType, run: Any, monkeypatch: pytest.MonkeyPatch, fault: Exception, kind: type[BrokerError]
) -> None:
    async def scenario() -> None:
        async with opened() as broker:
            with monkeypatch.context() as patch:

                def fail(*_: Any) -> None:
                    raise fault

                patch.setattr("anybroker_sqlite.sender.trim", fail)
                results = await broker.publish(*(Outbound(kit.make_event(n), "orders") for n in range(2)))
                assert [type(result) for result in results] == [kind] * 2
                assert all(result.__cause__ is fault for result in results)
            (stored,) = await broker.publish(Outbound(kit.make_event(3), "orders"))
            assert isinstance(stored, Receipt)
            assert stored.broker_id == "1", "nothing of what failed is there"

    run(scenario())


def test_a_fault_while_settling_leaves_the_delivery_ours(
    opened: Any, kit: ModuleType, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        async with opened() as broker:
            receiver = await broker.join()
            await broker.publish(Outbound(kit.make_event(1), "orders"))
            (held,) = await take(receiver, 1)
            with monkeypatch.context() as patch:

                def fail(*_: Any) -> None:
                    raise RuntimeError("a bug")

                patch.setattr(receiver._member, "_refresh", fail)
                assert [type(result) for result in await receiver.settle([Ack(held)])] == [Unavailable]
            assert await receiver.settle([Ack(held)]) == [None]
            await receiver.close()

    run(scenario())


def test_an_error_of_the_disk_says_that_it_is_full_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exc = sqlite3.OperationalError(os.strerror(errno.EIO))
    exc.sqlite_errorcode = sqlite3.SQLITE_IOERR
    exc.sqlite_errorname = "SQLITE_IOERR_SHMSIZE"
    assert "SQLITE_IOERR_SHMSIZE" in text_of(exc, tmp_path / "shop.db")
    assert "disk is full" not in text_of(exc, tmp_path / "shop.db")
    monkeypatch.setattr("anybroker_sqlite.failures._is_full", lambda _: True)
    assert "The disk is full" in text_of(exc, tmp_path / "shop.db")
