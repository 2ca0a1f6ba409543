"""Which other users of the machine can read or write a file: ours are made private, and what is not private is said."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path
from threading import Lock

from ..printable import logger

__all__ = ["make_private", "other_writers", "warn_of_readers", "writable_by_others"]

_log = logger("anybroker")

_OWNERS = hasattr(os, "geteuid")
"""Whether files have owners and modes that say something: not on Windows."""

_making = Lock()
_warned: set[str] = set()


def _make_anew() -> None:
    """In the child of a fork: the thread that held it is not there."""
    global _making
    _making = Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_make_anew)


def make_private(path: Path) -> None:
    """Make the SQLite file, with nothing in it, for its owner only (0600), unless there is something of that name.

    SQLite itself would make it as the umask says; ``-wal`` and ``-shm`` get the mode of the file. Errors are left to
    SQLite, which meets them again and names them.
    """
    # Closing a file ends all locks that the process has on it, SQLite's too. Under the lock no other thread has opened
    # the new file yet, and one that is there is never opened here.
    with _making:
        try:
            os.close(os.open(os.path.realpath(path), os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
        except OSError:
            pass  # it is there, or cannot be made


def warn_of_readers(paths: Iterable[str | Path]) -> None:
    """Log, once in this process for each that is there, that others can read or write it; where the first of them is
    another user's, only that."""
    for path in map(str, paths):
        try:
            found = os.stat(path)
        except OSError:
            continue  # not there
        mode = stat.S_IMODE(found.st_mode)
        if _is_strangers(found.st_uid):
            _warn(path, f"belongs to another user (uid {found.st_uid})", "use a file of your own")
            return
        if _OWNERS and mode & 0o077:
            _warn(path, f"can be used by other users of this machine (mode {mode:04o})", f"chmod go= '{path}'")


def _warn(path: str, problem: str, remedy: str) -> None:
    if path not in _warned:
        _warned.add(path)
        _log.warning("%s %s. Unless that is meant: %s", path, problem, remedy)


def other_writers(found: os.stat_result) -> str | None:
    """Who else may have written what is in the file, as the rest of a sentence; None: only root and us."""
    if _is_strangers(found.st_uid):
        return f"belongs to another user (uid {found.st_uid})"
    if writable_by_others(found):
        return f"can be written by other users (mode {stat.S_IMODE(found.st_mode):04o})"
    return None


def writable_by_others(found: os.stat_result) -> int:
    """``S_IWGRP`` and ``S_IWOTH`` of its mode, as far as there is a user beside the owner whom they let write."""
    if not _OWNERS or stat.S_ISLNK(found.st_mode):
        return 0  # the mode says nothing
    bits = found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return bits & ~stat.S_IWGRP if bits & stat.S_IWGRP and _is_private_group(found) else bits


def _is_strangers(uid: int) -> bool:
    return _OWNERS and uid not in (0, os.geteuid())


def _is_private_group(found: os.stat_result) -> bool:
    """Whether the group is the owner's own, as many systems give each user one, with a umask of 002."""
    import grp  # not on every platform, and seldom asked for
    import pwd

    try:
        group, owner = grp.getgrgid(found.st_gid), pwd.getpwuid(found.st_uid)
    except KeyError:
        return False
    return group.gr_name == owner.pw_name and group.gr_gid == owner.pw_gid and set(group.gr_mem) <= {owner.pw_name}
