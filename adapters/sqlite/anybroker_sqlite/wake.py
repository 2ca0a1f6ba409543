"""Waking the members in other processes: one FIFO for each receiver, in a folder beside the database.

An idle FIFO costs nothing, its path may be of any length, it works between containers that share the folder, and it
shows at once that its reader is dead, because the kernel closes that end.

Another user of the machine may have made the folder, or a file in it. Both are opened without following symbolic links
and checked once open: only a user who may write the database may own them. A receiver refuses to start in any other
folder, since a member without a FIFO counts as dead. A FIFO of another user is never written to. It is logged once and
counts as that of a living member, which finds events by polling (``poll``) and loses them when its lease ends.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from anybroker.errors import ConfigError
from anybroker.kit.file_access import warn_of_readers, writable_by_others
from anybroker.printable import logger

__all__ = ["Bells", "Fifo"]

_log = logger("anybroker.sqlite")

_NAME: Final = re.compile("[0-9a-f]{16}")
_SEARCH: Final = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_NOFOLLOW


class _Unsafe(OSError):
    """A user who may not write the database may have made it."""


@contextmanager
def _opened(folder: Path, database: Path) -> Iterator[int]:
    """The folder, as a descriptor. Raises OSError; _Unsafe if it must not be used."""
    try:
        descriptor = os.open(folder, _SEARCH)
    except OSError as exc:
        if exc.errno in (errno.ELOOP, errno.ENOTDIR) and folder.is_symlink():
            raise _Unsafe("it is a symbolic link") from exc
        raise
    try:
        status = os.fstat(descriptor)
        shared = writable_by_others(status)
        # In a sticky folder of root's, such as /tmp, other users cannot replace our files.
        if shared and not (status.st_mode & stat.S_ISVTX and status.st_uid == 0):
            database_status = _status_of(database)
            if shared & ~database_status.st_mode or (shared & stat.S_IWGRP and status.st_gid != database_status.st_gid):
                mode = stat.S_IMODE(status.st_mode)
                raise _Unsafe(f"users who cannot write the database can write it (mode {mode:04o})")
        _check_owner("it", status, database)
        yield descriptor
    finally:
        os.close(descriptor)


def _check_owner(what: str, status: os.stat_result, database: Path) -> None:
    if status.st_uid not in (os.geteuid(), 0) and status.st_uid != _status_of(database).st_uid:
        raise _Unsafe(f"{what} belongs to another user (uid {status.st_uid})")


def _status_of(database: Path) -> os.stat_result:
    try:
        return os.stat(database)
    except OSError as exc:
        raise _Unsafe(f"the database cannot be read ({exc.strerror})") from exc


def _open(folder: int, name: str, flags: int, database: Path) -> int:
    """Open the FIFO. Raises OSError; _Unsafe if it is not ours."""
    try:
        descriptor = os.open(name, flags | os.O_NONBLOCK | os.O_NOFOLLOW, dir_fd=folder)
    except OSError as exc:
        if exc.errno == errno.ELOOP:
            raise _Unsafe(f"{name} is a symbolic link") from exc
        raise
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISFIFO(status.st_mode):
            raise _Unsafe(f"{name} is not a FIFO")
        _check_owner(name, status, database)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


class Fifo:
    """The reading end."""

    def __init__(self, folder: Path, database: Path) -> None:
        """Make it, and the folder. ``ConfigError`` if the folder cannot hold a FIFO or is not safe."""
        self.name = secrets.token_hex(8)
        self._path = folder / self.name
        self.fd = -1
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
            with _opened(folder, database) as opened:
                os.mkfifo(self._path, 0o600)
                try:
                    self.fd = _open(opened, self.name, os.O_RDONLY, database)
                    # Keep a writing end open: without one the reading end is at its end of file, always readable.
                    self._writer = _open(opened, self.name, os.O_WRONLY, database)
                except BaseException:
                    if self.fd >= 0:
                        os.close(self.fd)
                    self._path.unlink(missing_ok=True)
                    raise
                sticky = os.fstat(opened).st_mode & stat.S_ISVTX
        except _Unsafe as exc:
            raise ConfigError(
                "wake_folder",
                f"{folder} is not safe to use: {exc}",
                "Remove it, or set wake_folder to a folder that only users who may write the database can write.",
            ) from exc
        except OSError as exc:
            raise ConfigError(
                "wake_folder", f"{folder} cannot hold a FIFO ({exc})", "Set wake_folder to a folder on a local disk."
            ) from exc
        if not sticky:
            warn_of_readers([folder])

    def drain(self) -> None:
        """Discard the wake-ups that have arrived."""
        try:
            os.read(self.fd, 65536)  # its capacity
        except BlockingIOError:
            pass  # there were none

    def close(self) -> None:
        """Close and remove it. Idempotent."""
        if self.fd < 0:
            return
        os.close(self.fd)
        os.close(self._writer)
        self.fd = -1
        self._path.unlink(missing_ok=True)  # the folder stays: another process may be about to make its own in it


class Bells:
    """The writing ends of the members in other processes, by the names of their FIFOs."""

    def __init__(self, folder: Path, database: Path) -> None:
        self._folder = folder
        self._database = database
        self._said: set[str] = set()

    def ring(self, names: Iterable[str]) -> None:
        """Wake the readers."""
        try:
            with _opened(self._folder, self._database) as folder:
                for name in names:
                    self._reader(folder, name, wake=True)
        except OSError as exc:
            self._say(exc)

    def has_reader(self, name: str) -> bool:
        """False: its process is dead or has closed it. True also if that cannot be told."""
        try:
            with _opened(self._folder, self._database) as folder:
                return self._reader(folder, name, wake=False)
        except FileNotFoundError:
            return False
        except OSError as exc:
            self._say(exc)
            return True

    def remove(self, name: str) -> None:
        """Remove a FIFO that has no reader."""
        try:
            if _NAME.fullmatch(name):  # any other name may lead out of the folder
                with _opened(self._folder, self._database) as folder:
                    os.unlink(name, dir_fd=folder)
        except OSError as exc:
            self._say(exc)

    def _reader(self, folder: int, name: str, *, wake: bool) -> bool:
        if not _NAME.fullmatch(name):
            return False  # not a name of ours
        try:
            writer = _open(folder, name, os.O_WRONLY, self._database)
        except OSError as exc:
            # ENXIO: no reader. ENOENT: removed. Other errors, such as another user's file, prove nothing.
            self._say(exc)
            return not isinstance(exc, FileNotFoundError) and exc.errno != errno.ENXIO
        try:
            if wake:
                os.write(writer, b"\0")
        except (BlockingIOError, BrokenPipeError):
            pass  # full: it will wake anyway; broken: the reader has just gone
        finally:
            os.close(writer)
        return True

    def _say(self, problem: OSError) -> None:
        """Log each problem once."""
        text = str(problem) if isinstance(problem, _Unsafe) else problem.strerror or ""
        if isinstance(problem, _Unsafe | PermissionError) and text not in self._said and len(self._said) < 100:
            self._said.add(text)
            _log.warning(
                "the wake folder %s cannot be used as it is: %s. Members in other processes find events by polling",
                self._folder,
                text,
            )
