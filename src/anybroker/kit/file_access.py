"""Which other users of the machine can read or write a file. Our files are made private; others are warned about."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path
from threading import Lock

from ..printable import logger

__all__ = ["make_private", "other_writers", "warn_of_readers", "writable_by_others"]

_log = logger("anybroker.bus")

_OWNERS = hasattr(os, "geteuid")
"""Whether the owners and modes of files mean anything: not on Windows."""

_making = Lock()
_warned: set[str] = set()


def _make_anew() -> None:
    """In the child of a fork: the thread that held the lock does not exist there."""
    global _making
    _making = Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_make_anew)


def make_private(path: Path) -> None:
    """Create an empty SQLite file that only its owner can use (0600), unless something with that name exists.

    SQLite itself would create it with the umask; ``-wal`` and ``-shm`` get the mode of the file. Errors are left to
    SQLite, which runs into them again and names them.
    """
    # Closing a file releases all locks that the process has on it, SQLite's too. While this lock is held no other
    # thread has opened the new file yet, and an existing file is never opened here.
    with _making:
        try:
            os.close(os.open(os.path.realpath(path), os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
        except OSError:
            pass  # it exists, or cannot be created


def warn_of_readers(paths: Iterable[str | Path]) -> None:
    """Log, once in this process for each file that exists, that others can read or write it. If the first file belongs
    to another user, log only that."""
    for path in map(str, paths):
        try:
            status = os.stat(path)
        except OSError:
            continue  # it does not exist
        mode = stat.S_IMODE(status.st_mode)
        if _is_strangers(status.st_uid):
            _warn(path, f"belongs to another user (uid {status.st_uid})", "use a file of your own")
            return
        if _OWNERS and mode & 0o077:
            _warn(path, f"can be used by other users of this machine (mode {mode:04o})", f"chmod go= '{path}'")


def _warn(path: str, problem: str, remedy: str) -> None:
    if path not in _warned:
        _warned.add(path)
        _log.warning("%s %s. Unless that is intended: %s", path, problem, remedy)


def other_writers(status: os.stat_result) -> str | None:
    """Who else may have written to the file, as the end of a sentence; None if only root and this user can."""
    if _is_strangers(status.st_uid):
        return f"belongs to another user (uid {status.st_uid})"
    if writable_by_others(status):
        return f"can be written by other users (mode {stat.S_IMODE(status.st_mode):04o})"
    return None


def writable_by_others(status: os.stat_result) -> int:
    """``S_IWGRP`` and ``S_IWOTH`` of its mode, without a bit that lets no user but the owner write."""
    if not _OWNERS or stat.S_ISLNK(status.st_mode):
        return 0  # the mode means nothing
    bits = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return bits & ~stat.S_IWGRP if bits & stat.S_IWGRP and _is_private_group(status) else bits


def _is_strangers(uid: int) -> bool:
    return _OWNERS and uid not in (0, os.geteuid())


def _is_private_group(status: os.stat_result) -> bool:
    """Whether the group is the owner's private group, which many systems give each user, with a umask of 002."""
    import grp  # not on every platform, and rarely needed
    import pwd

    try:
        group, owner = grp.getgrgid(status.st_gid), pwd.getpwuid(status.st_uid)
    except KeyError:
        return False
    return group.gr_name == owner.pw_name and group.gr_gid == owner.pw_gid and set(group.gr_mem) <= {owner.pw_name}
