"""What a failure of SQLite means for the caller, and the sentence that says it."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

from anybroker.errors import ConfigError, Unavailable
from anybroker.kit.sqlite_file import primary_code

__all__ = ["in_use", "opening_error", "text_of"]


def in_use(path: Path, seconds: float) -> str:
    """The error text for a file that other threads of this process have used for this many seconds."""
    return f"{path} has been in use by other Buses of this process for {seconds:g} s: nothing was stored"


def opening_error(exc: sqlite3.Error, path: Path) -> ConfigError | Unavailable:
    """The error to raise for an error while opening the file."""
    code = primary_code(exc)
    if code == sqlite3.SQLITE_NOTADB:
        return ConfigError("url", f"{path} is not a SQLite database", "Name another file, or move this one away.")
    if code in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM):
        return ConfigError(
            "url",
            f"{path} cannot be opened for writing ({exc})",
            "Give this user the right to write the file and its folder, or change the path.",
        )
    return Unavailable(text_of(exc, path))


def text_of(exc: sqlite3.Error, path: Path) -> str:
    """The error text: what happened, to which file, and what to do."""
    code = primary_code(exc)
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return f"{path} is locked by another process, or by a transaction left open in this one: nothing was stored"
    if code == sqlite3.SQLITE_FULL:
        return f"the disk of {path} (or the one for temporary files) is full: nothing was stored. Free space on it"
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return f"{path} is damaged ({exc}): nothing was stored. Put a copy of it back, and start the programs again"
    if code == sqlite3.SQLITE_IOERR:
        full = " The disk is full: free space on it" if _is_full(path) else ""
        return f"the system could not read or write {path} ({exc}, {exc.sqlite_errorname}).{full}"
    return f"SQLite failed on {path}: {exc}"


def _is_full(path: Path) -> bool:
    """Whether its disk is nearly full. SQLite reports a full disk as "disk I/O error" while writing the index of
    its log."""
    try:
        found = os.statvfs(path.parent)
    except OSError:
        return False
    return found.f_bavail * found.f_frsize < 65_536
