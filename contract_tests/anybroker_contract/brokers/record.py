"""The state files of ``up``: which processes hold brokers up, and where those are.

One file for each running ``up``. It is locked for as long as its process lives, and the kernel gives the lock back when
that ends in any way: so a file without a lock is left over, and a process id that is used again misleads nobody.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from .places import state

__all__ = ["Record", "Up", "end", "records"]

LOOK_SECONDS = 0.05


@dataclass(frozen=True)
class Record:
    """One running ``up``."""

    pid: int
    brokers: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Name -> ``url``, ``source``, ``detail``; empty while they are starting."""


class Up:
    """This process's own record, from entering to leaving."""

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._path = state() / f"{self._pid}.json"
        self._file: IO[str] | None = None

    def __enter__(self) -> Self:
        # Locked under another name first: a file with its final name and no lock would be taken for left over.
        early = self._path.with_suffix(".new")
        self._file = early.open("w")
        fcntl.flock(self._file, fcntl.LOCK_EX)
        self.write({})
        early.rename(self._path)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._path.unlink(missing_ok=True)
        if self._file is not None:
            self._file.close()

    def write(self, brokers: Mapping[str, Mapping[str, str]]) -> None:
        """Say which brokers are up now."""
        if self._file is None:
            raise RuntimeError("write() outside of the with block")
        self._file.seek(0)
        self._file.truncate()
        self._file.write(json.dumps(asdict(Record(self._pid, brokers))))
        self._file.flush()


def records() -> list[Record]:
    """Every ``up`` of this user that runs now; removes the files of those that do not."""
    found = (_read(path) for path in sorted(state().glob("*.json")))
    return [record for record in found if record is not None]


def end(record: Record, seconds: float) -> bool:
    """Ask an ``up`` to end (SIGTERM) and wait until it has; ``False`` when it still runs after this many seconds."""
    path = state() / f"{record.pid}.json"
    if _read(path) is None:
        return True
    os.kill(record.pid, signal.SIGTERM)
    deadline = time.monotonic() + seconds
    while _read(path) is not None:
        if time.monotonic() > deadline:
            return False
        time.sleep(LOOK_SECONDS)
    return True


def _read(path: Path) -> Record | None:
    try:
        with path.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                text = file.read()
            else:
                path.unlink(missing_ok=True)
                return None
    except FileNotFoundError:
        return None
    if not text:  # between its truncate and its write
        return Record(int(path.stem))
    content = json.loads(text)
    return Record(content["pid"], content["brokers"])
