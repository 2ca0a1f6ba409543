"""Opening a SQLite file that several open at once."""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path
from typing import Any

import pytest

from anybroker.errors import ConfigError
from anybroker.kit.sqlite_file import make_durable, make_tables


def read_version(connection: sqlite3.Connection) -> int | None:
    """The version in the table of these tests."""
    if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'mine'").fetchone():
        return None
    return int(connection.execute("SELECT version FROM mine").fetchone()[0])


STATEMENTS = ("CREATE TABLE mine(version INTEGER NOT NULL)", "INSERT INTO mine VALUES (3)")


class RefusedOnce(sqlite3.Connection):
    """Is told once, at once, that the file is locked, as SQLite does where two switch it at the same moment."""

    refusals = 1

    def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
        """As usual, but for the first switch."""
        if "journal_mode=WAL" in sql and self.refusals:
            self.refusals -= 1
            error = sqlite3.OperationalError("database is locked")
            error.sqlite_errorcode = sqlite3.SQLITE_BUSY
            raise error
        return super().execute(sql, *parameters)


def test_a_file_that_another_switches_to_wal_is_waited_for(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "a.db", isolation_level=None, factory=RefusedOnce)
    try:
        make_durable(connection, tmp_path / "a.db", "url", 5.0)
        assert connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
        assert connection.execute("PRAGMA synchronous").fetchone()[0] == 2
    finally:
        connection.close()


def test_the_wait_has_an_end(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "a.db", isolation_level=None, factory=RefusedOnce)
    connection.refusals = 10**9
    try:
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            make_durable(connection, tmp_path / "a.db", "url", 0.05)
    finally:
        connection.close()


def test_many_open_a_new_file_at_once(tmp_path: Path) -> None:
    errors: list[BaseException] = []

    def open_it(path: Path, together: threading.Barrier) -> None:
        connection = sqlite3.connect(path, timeout=20, isolation_level=None)
        try:
            together.wait()
            make_durable(connection, path, "url", 20.0)
            make_tables(connection, path, "url", version=3, read_version=read_version, statements=STATEMENTS)
        except BaseException as exc:  # noqa: BLE001 - the test's own thread looks at it
            errors.append(exc)
        finally:
            connection.close()

    for number in range(30):
        path, together = tmp_path / f"{number}.db", threading.Barrier(6)
        threads = [threading.Thread(target=open_it, args=(path, together)) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        reader = sqlite3.connect(path)
        assert reader.execute("SELECT * FROM mine").fetchall() == [(3,)]
        reader.close()
    assert errors == []


def test_another_release_s_tables_are_refused(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "a.db", isolation_level=None)
    try:
        make_tables(connection, tmp_path, "url", version=3, read_version=read_version, statements=STATEMENTS)
        with pytest.raises(ConfigError, match="has version 3 of the tables, and this release reads 4"):
            make_tables(connection, tmp_path, "url", version=4, read_version=read_version, statements=STATEMENTS)
    finally:
        connection.close()
