"""An SQLite file that several processes share: durable at each commit, with tables of a known version.

The embedded broker and the idempotency store both use one. All functions block, and run in the thread that will use the
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
    """In the child of a fork: the threads that held these locks do not exist there."""
    global _turns_lock
    _turns_lock = Lock()
    _turns.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_turns)


def turn_of(path: Path) -> Lock:
    """The lock under which the threads of this process write the file, which must exist. One lock for each file.

    SQLite's own lock has no queue: threads poll for it, and of a hundred some time out. So the threads of one process
    queue here, and SQLite's lock is only for other processes.
    """
    status = os.stat(path)
    with _turns_lock:
        key = status.st_dev, status.st_ino
        turn = _turns.get(key)
        if turn is None:
            turn = _turns[key] = Lock()
        return turn


class FileGone(Unavailable):
    """The open file is no longer the one with that name: what is written to it would be lost."""


class Files:
    """Detects that the database, or its log, was deleted, replaced or emptied while it is open.

    SQLite does not: it keeps writing to files that have no name, and reports success.
    """

    def __init__(self, path: Path) -> None:
        """``path``: of an open database."""
        self._path = path
        self._database = _identity(os.stat(path))
        self._log: tuple[int, int] | None = None
        """Unknown before the first transaction, in which SQLite creates it."""

    def before_opening_again(self) -> None:
        """Raises FileGone if another file, or a new one, would be opened: it lacks what was written to the first."""
        self._log = None  # SQLite has removed it with its last connection, and creates another
        self._check(with_log=False)

    def check(self) -> None:
        """Within a transaction. Raises FileGone."""
        self._check(with_log=True)

    def _check(self, with_log: bool) -> None:
        problem: str | None = None
        try:
            status = os.stat(self._path)
            if _identity(status) != self._database:
                problem = "was replaced by another file"
            elif not status.st_size:
                problem = "was emptied"
            elif with_log:
                log = _identity(os.stat(f"{self._path}-wal"))
                self._log = self._log or log
                if log != self._log:
                    problem = "has another log (its -wal file was replaced)"
        except OSError as exc:
            problem = f"or its -wal file is gone ({exc.strerror})"
        if problem is not None:
            raise FileGone(
                f"{self._path} {problem}, while it was open: nothing more is stored in it. Put the file back, and "
                "restart the programs that use it"
            )


def files_of(path: Path) -> tuple[str, str, str]:
    """The database, its log and the log's index."""
    return str(path), f"{path}-wal", f"{path}-shm"


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def primary_code(exc: sqlite3.Error) -> int:
    """SQLite's primary result code; 0 for errors of the module itself."""
    return (getattr(exc, "sqlite_errorcode", None) or 0) & 0xFF


def make_durable(connection: sqlite3.Connection, path: Path, setting: str, busy_timeout: float) -> None:
    """Switch to WAL, and make commits survive a power failure. Other processes may do the same at this moment.

    ``ConfigError`` of ``setting`` if the file system or the build of SQLite cannot; ``sqlite3.OperationalError`` if the
    file is locked for longer than ``busy_timeout`` seconds.
    """
    execute = connection.execute
    until = monotonic() + busy_timeout
    while True:
        try:
            mode = execute("PRAGMA journal_mode=WAL").fetchone()[0]
            break
        except sqlite3.OperationalError as exc:
            # Two processes that switch the same new file deadlock: SQLite refuses one at once, whatever its time-out.
            if primary_code(exc) != sqlite3.SQLITE_BUSY or monotonic() >= until:
                raise
            sleep(_PAUSE)
    if mode != "wal":
        raise ConfigError(setting, f"{path} is on a file system without shared memory", "Use a local disk.")
    execute("PRAGMA synchronous=FULL")  # NORMAL does not sync the log
    execute("PRAGMA fullfsync=ON")  # macOS: fsync alone leaves the data in the drive's cache; no effect elsewhere
    synchronous = execute("PRAGMA synchronous").fetchone()[0]
    if synchronous != 2:
        raise ConfigError(
            "sqlite", f"does not accept synchronous=FULL (it says {synchronous})", "Use another build of SQLite."
        )


def make_tables(
    connection: sqlite3.Connection,
    path: Path,
    setting: str,
    *,
    version: int,
    read_version: Callable[[sqlite3.Connection], int | None],
    statements: Iterable[str],
) -> None:
    """Create the tables in one transaction, unless another process has done so.

    ``read_version`` returns None if they do not exist. ``ConfigError`` of ``setting`` if another release made them.
    """
    if read_version(connection) is None:
        connection.execute("BEGIN IMMEDIATE")
        if read_version(connection) is None:
            for statement in statements:
                connection.execute(statement)
        connection.execute("COMMIT")
    existing = read_version(connection)
    if existing != version:
        raise ConfigError(
            setting,
            f"{path} has version {existing} of the tables, and this release reads {version}",
            "Use the anybroker release that wrote the file, or another file.",
        )
