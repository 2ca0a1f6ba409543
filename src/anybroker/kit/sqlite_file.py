"""A SQLite file that several processes share: durable at each commit, with tables of a known version.

The embedded broker and the idempotency store both are one. All of it blocks, and runs in the thread that will use the
connection.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterable
from pathlib import Path
from threading import Lock
from time import monotonic, sleep
from weakref import WeakValueDictionary

from ..errors import ConfigError, Unavailable

__all__ = ["FileGone", "Files", "files_of", "make_durable", "make_tables", "primary_code", "turn_of"]

_PAUSE = 0.005
"""Seconds between two tries to switch a new file to WAL."""

_turns: WeakValueDictionary[tuple[int, int], Lock] = WeakValueDictionary()
_turns_lock = Lock()


def _forget_turns() -> None:
    """In the child of a fork: the threads that held these are not there."""
    global _turns_lock
    _turns_lock = Lock()
    _turns.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_turns)


def turn_of(path: Path) -> Lock:
    """The lock under which the threads of this process write the file, which is there: one for all of them.

    SQLite's own lock is not queued for but asked for again and again, and of a hundred threads that do so some come
    away with nothing. The threads of one process wait in line for it here; SQLite's is for the other processes.
    """
    found = os.stat(path)
    with _turns_lock:
        key = found.st_dev, found.st_ino
        turn = _turns.get(key)
        if turn is None:
            turn = _turns[key] = Lock()
        return turn


class FileGone(Unavailable):
    """The file that is open is not the one that its name leads to any more: what is written to it would be lost."""


class Files:
    """Notices that the database, or its log, was deleted, replaced or emptied while it is open.

    SQLite does not: it goes on to write into files that have no name, and says that all is stored.
    """

    def __init__(self, path: Path) -> None:
        """Of a database that is open."""
        self._path = path
        self._database = _identity(os.stat(path))
        self._log: tuple[int, int] | None = None
        """Not known before the first transaction: SQLite makes it."""

    def before_opening_again(self) -> None:
        """Raises FileGone if what would be opened is another file, or a new one: what was done in the first would be
        unknown in it."""
        self._log = None  # SQLite has removed it with its last connection, and makes another
        self._check(with_log=False)

    def check(self) -> None:
        """Within a transaction. Raises FileGone."""
        self._check(with_log=True)

    def _check(self, with_log: bool) -> None:
        problem: str | None = None
        try:
            found = os.stat(self._path)
            if _identity(found) != self._database:
                problem = "was replaced by another file"
            elif not found.st_size:
                problem = "was emptied"
            elif with_log:
                log = _identity(os.stat(f"{self._path}-wal"))
                self._log = self._log or log
                if log != self._log:
                    problem = "has another log (its -wal file was replaced)"
        except OSError as exc:
            problem = f"cannot be found any more, or its -wal file cannot ({exc.strerror})"
        if problem is not None:
            raise FileGone(
                f"{self._path} {problem}, while it was open: nothing is stored in it any more. Put the file back, and "
                "start the programs that use it again"
            )


def files_of(path: Path) -> tuple[str, str, str]:
    """The database, its log and the log's index."""
    return str(path), f"{path}-wal", f"{path}-shm"


def _identity(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino


def primary_code(exc: sqlite3.Error) -> int:
    """SQLite's primary result code; 0 for errors of the module itself."""
    return (getattr(exc, "sqlite_errorcode", None) or 0) & 0xFF


def make_durable(connection: sqlite3.Connection, path: Path, setting: str, busy_timeout: float) -> None:
    """WAL, and a commit that survives a loss of power. Other processes may do the same at this moment.

    ``ConfigError`` of ``setting`` where the file system or the build of SQLite cannot; ``sqlite3.OperationalError``
    where the file is locked for longer than ``busy_timeout`` seconds.
    """
    execute = connection.execute
    until = monotonic() + busy_timeout
    while True:
        try:
            mode = execute("PRAGMA journal_mode=WAL").fetchone()[0]
            break
        except sqlite3.OperationalError as exc:
            # Two that switch the same new file deadlock: SQLite refuses one of them at once, whatever its time-out.
            if primary_code(exc) != sqlite3.SQLITE_BUSY or monotonic() >= until:
                raise
            sleep(_PAUSE)
    if mode != "wal":
        raise ConfigError(setting, f"{path} is on a file system without shared memory", "Use a local disk.")
    execute("PRAGMA synchronous=FULL")  # NORMAL does not sync the log
    execute("PRAGMA fullfsync=ON")  # macOS: fsync alone leaves the data in the drive's cache; elsewhere without effect
    found = execute("PRAGMA synchronous").fetchone()[0]
    if found != 2:
        raise ConfigError("sqlite", f"does not take synchronous=FULL (it says {found})", "Use another build of SQLite.")


def make_tables(
    connection: sqlite3.Connection,
    path: Path,
    setting: str,
    *,
    version: int,
    read_version: Callable[[sqlite3.Connection], int | None],
    statements: Iterable[str],
) -> None:
    """Make the tables in one transaction, unless somebody was faster.

    ``read_version`` is None where they are not there. ``ConfigError`` of ``setting`` where another release made them.
    """
    if read_version(connection) is None:
        connection.execute("BEGIN IMMEDIATE")
        if read_version(connection) is None:
            for statement in statements:
                connection.execute(statement)
        connection.execute("COMMIT")
    found = read_version(connection)
    if found != version:
        raise ConfigError(
            setting,
            f"{path} has version {found} of the tables, and this release reads {version}",
            "Use the anybroker release that wrote the file, or another file.",
        )
