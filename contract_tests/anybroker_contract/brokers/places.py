"""Where files that outlive a run are kept: downloads, and the state file of ``up``."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from .context import Context

__all__ = ["cache", "locked", "once", "state"]

LOOK_SECONDS = 0.1


def cache() -> Path:
    """``$XDG_CACHE_HOME/anybroker``, else ``~/.cache/anybroker``; made when missing."""
    base = os.environ.get("XDG_CACHE_HOME")
    folder = (Path(base) if base else Path.home() / ".cache") / "anybroker"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def state() -> Path:
    """The folder of the state files, one for each running ``up``."""
    folder = cache() / "up"
    folder.mkdir(exist_ok=True)
    return folder


@contextlib.contextmanager
def locked(name: str, context: Context) -> Iterator[None]:
    """Only one process (and one thread) of this user is inside, for one name; a dead one holds no lock.

    Raises ``Cancelled`` while waiting when the start is given up.
    """
    locks = cache() / "locks"
    locks.mkdir(exist_ok=True)
    # A new file description each time: flock then excludes threads of one process as well.
    with (locks / name).open("w") as file:
        while True:
            context.check()
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(LOOK_SECONDS)
            else:
                break
        yield


def once(name: str, context: Context, build: Callable[[Path], None]) -> Path:
    """The folder ``name`` in the cache; when it is not there yet, ``build`` fills a folder that becomes it.

    Complete or absent: a build that fails or is killed leaves nothing under ``name``, and what it left beside it
    is removed by the next one. Processes that want the same name wait for the first.
    """
    target = cache() / name
    if target.is_dir():
        return target
    with locked(name, context):
        if target.is_dir():
            return target
        unfinished = cache() / f"{name}.unfinished"
        if unfinished.exists():
            shutil.rmtree(unfinished)
        unfinished.mkdir()
        build(unfinished)
        unfinished.rename(target)
    return target
