"""Who changed which dead letters, and when: one line for each change, in the log and in a file."""

from __future__ import annotations

import asyncio
import getpass
import json
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from socket import gethostname

from ..engine.failures import now
from ..errors import ConfigError, text_of
from ..printable import brief, logger

__all__ = ["Audit", "Entry", "this_user"]

_log = logger("anybroker.audit")

_NAMED = 1_000
"""Most ids in one line."""


def this_user() -> str:
    """``user@host``, as far as the system says."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        user = str(os.getuid()) if hasattr(os, "getuid") else "unknown"
    return f"{user}@{gethostname()}"


@dataclass
class Entry:
    """What one change did; filled while it is made."""

    facts: dict[str, object]
    done: list[str] = field(default_factory=list)
    """The ids of those that were changed."""


class Audit:
    """Writes to the logger ``anybroker.audit`` at INFO, and to a file if one is named. No data are written."""

    def __init__(self, path: str | None) -> None:
        """``path``: of a file to which JSON lines are appended."""
        self._path = path

    @asynccontextmanager
    async def change(
        self, action: str, topic: str, group: str, who: str, facts: Mapping[str, object]
    ) -> AsyncIterator[Entry]:
        """Around one change: a line before it, and one after it, which says how many were changed and what it failed
        with. A process that is killed in between leaves the first line alone.

        Raises ConfigError, before anything is changed, where the file cannot be written. Afterwards that is only
        logged.
        """
        entry = Entry({"who": who, "action": action, "topic": topic, "group": group, **facts})
        await self._write({"at": now(), "phase": "begins", **entry.facts})
        error: BaseException | None = None
        try:
            yield entry
        except BaseException as exc:
            error = exc
            raise
        finally:
            ended = {"at": now(), "phase": "ended", **entry.facts, "count": len(entry.done), "ids": entry.done[:_NAMED]}
            if error is not None:
                ended["error"] = brief(f"{type(error).__name__}: {text_of(error)}")
            _log.info(
                "%s: %s of %d dead letters of %s/%s%s",
                *(who, action, len(entry.done), topic, group),
                "" if error is None else f", ended by {ended['error']}",
            )
            try:
                await self._write(ended)
            except ConfigError as exc:
                _log.error("what was done is not in the audit file: %s", exc)

    async def _write(self, facts: Mapping[str, object]) -> None:
        if self._path is None:
            return
        writing = asyncio.to_thread(_append, self._path, (json.dumps(facts) + "\n").encode())
        try:
            await asyncio.shield(writing)
        except OSError as exc:
            raise ConfigError(
                "audit",
                f"{self._path} cannot be written: {exc.strerror or exc}",
                "Name a file that this user can append to.",
            ) from exc


def _append(path: str, line: bytes) -> None:
    """One line, on the disk when this returns. A file that is made is its owner's alone."""
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        if os.write(file, line) != len(line):
            raise OSError("the disk took only a part of a line")
        os.fsync(file)
    finally:
        os.close(file)
