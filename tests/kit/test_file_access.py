"""Database files are private to their owner, and there is one warning about those that are not."""

from __future__ import annotations

import logging
import os
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from anybroker import Bus
from anybroker.idempotency import SqliteStore
from anybroker.kit.file_access import make_private, other_writers, warn_of_readers
from anybroker.middleware import idempotent
from anybroker.testing import settled

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="gives a file to another user, which only root can")
SOMEBODY = 64_321
"""A user who is not there."""


@pytest.fixture(autouse=True)
def usual_umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


def mode(path: str | Path) -> int:
    return stat.S_IMODE(os.stat(path).st_mode)


def test_every_file_of_a_bus_and_its_store_is_private(tmp_path: Path, run: Any) -> None:
    found: dict[str, int] = {}

    def look() -> None:
        found.update((path.name, mode(path)) for path in tmp_path.rglob("*"))

    async def main() -> None:
        bus = Bus(f"sqlite:///{tmp_path}/shop.db", source="shop")

        @bus.subscribe("orders", group="billing")
        @idempotent()
        async def charge(order: dict[str, Any]) -> None:
            look()

        async with bus:
            await bus.publish("orders", {"cents": 1}, type="order.v1")
            await settled(bus)

    run(main())
    folder = found.pop("shop.db-wake")
    assert folder == 0o700
    names = {"shop.db", "shop.db-wal", "shop.db-shm"}
    assert names | {name.replace("shop", "shop-idempotency") for name in names} < set(found)
    assert len(found) == 7  # and the FIFO
    assert set(found.values()) == {0o600}


def test_a_connection_for_the_user_makes_no_public_file(tmp_path: Path, run: Any) -> None:
    async def main() -> None:
        bus = Bus(f"sqlite:///{tmp_path}/shop.db", source="shop")
        async with bus:
            bus.adapter.native.execute("SELECT 1")

    run(main())
    assert mode(tmp_path / "shop.db") == 0o600


def test_a_laxer_mode_is_kept_and_warned_of_once(tmp_path: Path, run: Any, caplog: pytest.LogCaptureFixture) -> None:
    path, done = tmp_path / "shop.db", tmp_path / "done.db"
    for each in (path, done):
        each.touch(0o644)
    (tmp_path / "shop.db-wake").mkdir(0o755)

    async def main() -> None:
        bus = Bus(f"sqlite:///{path}", source="shop", idempotency=f"sqlite:///{done}")

        @bus.subscribe("orders", group="billing")
        @idempotent()
        async def charge(order: dict[str, Any]) -> None: ...

        async with bus:
            await bus.publish("orders", {"cents": 1}, type="order.v1")
            await settled(bus)

    run(main())
    run(main())
    warned = [record.getMessage() for record in caplog.records if "can be used by other users" in record.getMessage()]
    assert sorted(text.partition(" ")[0] for text in warned) == sorted(
        str(tmp_path / name)
        for name in (
            *("shop.db", "shop.db-wal", "shop.db-shm", "shop.db-wake"),
            *("done.db", "done.db-wal", "done.db-shm"),
        )
    )
    assert (
        f"{path} can be used by other users of this machine (mode 0644). Unless that is intended: chmod go= '{path}'"
        in warned
    )
    assert (mode(path), mode(done), mode(tmp_path / "shop.db-wake")) == (0o644, 0o644, 0o755)


@needs_root
def test_another_users_file_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "shop.db"
    path.touch(0o600)
    os.chown(path, SOMEBODY, SOMEBODY)
    warn_of_readers([path])
    warn_of_readers([path])
    assert [record.getMessage() for record in caplog.records] == [
        f"{path} belongs to another user (uid {SOMEBODY}). Unless that is intended: use a file of your own"
    ]


def test_what_is_private_is_not_warned_of(tmp_path: Path, run: Any, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        store = SqliteStore(tmp_path / "done.db")
        await store.open()
        await store.close()

    run(main())
    run(main())
    assert caplog.records == []


def test_making_it_private_ends_no_lock(tmp_path: Path) -> None:
    """Closing a descriptor of a file ends every lock of the process on it: a file that is there is not opened."""
    path = tmp_path / "shop.db"
    make_private(path)
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        connection.execute("BEGIN IMMEDIATE")
        make_private(path)
        connection.execute("CREATE TABLE mine(number INTEGER)")
        program = f"import sqlite3; sqlite3.connect({str(path)!r}, timeout=0).execute('BEGIN IMMEDIATE')"
        ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
        assert "database is locked" in ended.stderr
    finally:
        connection.close()


def test_many_threads_make_one_file(tmp_path: Path) -> None:
    for number in range(20):
        path = tmp_path / f"{number}.db"
        threads = [threading.Thread(target=make_private, args=(path,)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert mode(path) == 0o600


def test_a_link_leads_to_a_private_file(tmp_path: Path) -> None:
    (tmp_path / "shop.db").symlink_to(tmp_path / "elsewhere.db")
    make_private(tmp_path / "shop.db")
    assert mode(tmp_path / "elsewhere.db") == 0o600


# ------------------------------------------------------------------------------------------------------- who writes


def written_by(path: Path, mode: int) -> str | None:
    path.chmod(mode)
    return other_writers(os.stat(path))


def test_who_else_may_have_written_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "anybroker.toml"
    path.touch()
    assert written_by(path, 0o600) is None
    assert written_by(path, 0o644) is None
    assert written_by(path, 0o646) == "can be written by other users (mode 0646)"
    monkeypatch.setattr("anybroker.kit.file_access._is_private_group", lambda found: False)
    assert written_by(path, 0o664) == "can be written by other users (mode 0664)"
    monkeypatch.setattr("anybroker.kit.file_access._is_private_group", lambda found: True)
    assert written_by(path, 0o664) is None


def test_a_group_of_the_owners_own_is_nobody_else(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Many systems give each user a group of the same name, and a umask of 002."""
    import grp
    import pwd
    from types import SimpleNamespace

    path = tmp_path / "anybroker.toml"
    path.touch()
    path.chmod(0o664)
    found = os.stat(path)
    monkeypatch.setattr(pwd, "getpwuid", lambda uid: SimpleNamespace(pw_name="ann", pw_gid=found.st_gid))
    for name, members, alone in (
        ("ann", [], True),
        ("ann", ["ann"], True),
        ("ann", ["bob"], False),
        ("users", [], False),
    ):
        group = SimpleNamespace(gr_name=name, gr_mem=members, gr_gid=found.st_gid)
        monkeypatch.setattr(grp, "getgrgid", lambda gid, group=group: group)
        assert (other_writers(os.stat(path)) is None) is alone


@needs_root
def test_another_users_file_is_somebody_elses(tmp_path: Path) -> None:
    path = tmp_path / "anybroker.toml"
    path.touch(0o600)
    os.chown(path, SOMEBODY, SOMEBODY)
    assert other_writers(os.stat(path)) == f"belongs to another user (uid {SOMEBODY})"


def test_roots_file_is_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "anybroker.toml"
    path.touch(0o644)
    if os.geteuid() == 0:
        monkeypatch.setattr(os, "geteuid", lambda: SOMEBODY)
    assert other_writers(os.stat(path)) is None


def test_the_log_is_not_flooded(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    path.touch(0o644)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            warn_of_readers([path, tmp_path / "not-there.db"])
    assert len(caplog.records) == 1
