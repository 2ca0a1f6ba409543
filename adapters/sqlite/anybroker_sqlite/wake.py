"""Waking the members in other processes: one FIFO for each receiver, in a folder beside the database.

A FIFO costs nothing while nobody writes, has no limit on the length of its path, works between containers that share
the folder, and tells at once when its reader is dead: the kernel has closed its end.
"""

from __future__ import annotations

import errno
import os
import secrets
from pathlib import Path

from anybroker.errors import ConfigError

__all__ = ["Fifo", "ring"]


class Fifo:
    """The reading end."""

    def __init__(self, folder: Path) -> None:
        """Make it. ``ConfigError`` where the folder cannot hold one."""
        self.name = secrets.token_hex(8)
        self._path = folder / self.name
        try:
            folder.mkdir(exist_ok=True)
            os.mkfifo(self._path)
            self.fd = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK)
            # An end for writing of our own: without any, the other one would be at its end of file, always readable.
            self._writer = os.open(self._path, os.O_WRONLY | os.O_NONBLOCK)
        except OSError as exc:
            raise ConfigError(
                "wake_folder", f"{folder} cannot hold a FIFO ({exc})", "Set wake_folder to a folder on a local disk."
            ) from exc

    def drain(self) -> None:
        """Forget the wake-ups that have come."""
        try:
            os.read(self.fd, 65536)  # as much as it holds
        except BlockingIOError:
            pass  # none had come

    def close(self) -> None:
        """Close and remove it. Idempotent."""
        if self.fd < 0:
            return
        os.close(self.fd)
        os.close(self._writer)
        self.fd = -1
        self._path.unlink(missing_ok=True)  # the folder stays: another process may be about to make its own in it


def ring(path: Path, *, wake: bool) -> bool:
    """Wake the reader (or only look whether there is one). False: its process is dead, or closed it."""
    try:
        writer = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
    except OSError as exc:
        # ENXIO: nobody reads. ENOENT: removed. Anything else, such as another user's file, says nothing about life.
        return not isinstance(exc, FileNotFoundError) and exc.errno != errno.ENXIO
    try:
        if wake:
            os.write(writer, b"\0")
    except (BlockingIOError, BrokenPipeError):
        pass  # full: it has enough to wake it; broken: it has just gone
    finally:
        os.close(writer)
    return True
