"""How far a replay is, in memory and in a file, so that it goes on after it was killed."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

from ..adapter import Peeked
from ..errors import ConfigError

__all__ = ["Cursor"]

_VERSION = 1
_COUNTS = ("read", "matched", "replayed", "failed", "duplicates")


@dataclass
class Cursor:
    """What is done of each lane, what was counted, and the name of this replay."""

    told: Mapping[str, object]
    """What to replay where: has to be the same when it goes on."""
    lanes: dict[str, tuple[int, int]]
    """By lane, the next position, and the end."""
    begins: dict[str, int]
    path: Path | None = None
    run: str = field(default_factory=lambda: secrets.token_hex(16))
    """A name that nobody else knows. Part of the hop of each copy: the broker may drop one that it has already."""
    tries: int = 0
    """Grows with each failure: what was sent out of order then must not be taken for what is sent again."""
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_COUNTS, 0))
    _writing: Lock = field(default_factory=Lock, repr=False)

    @property
    def total(self) -> int:
        """Positions from the start to the end."""
        return sum(end - self.begins[lane] for lane, (_, end) in self.lanes.items())

    @property
    def passed(self) -> int:
        """Positions that are done."""
        return sum(at - self.begins[lane] for lane, (at, _) in self.lanes.items())

    def done(self, item: Peeked) -> None:
        """This event is done, and all before it in its lane."""
        self.lanes[item.lane] = item.position + 1, self.lanes[item.lane][1]

    def finish(self) -> None:
        """Nothing is left up to the ends."""
        self.lanes = {lane: (end, end) for lane, (_, end) in self.lanes.items()}

    def written(self) -> bytes:
        """As it is in the file."""
        state = {
            "version": _VERSION,
            "told": dict(self.told),
            "run": self.run,
            "tries": self.tries,
            "counts": self.counts,
            "lanes": {lane: [self.begins[lane], at, end] for lane, (at, end) in self.lanes.items()},
        }
        return json.dumps(state, indent=1).encode()

    def write(self, state: bytes) -> None:
        """Replace the file, and return when the disk has it. Raises OSError. In any thread, one at a time."""
        assert self.path is not None
        beside = self.path.with_name(f"{self.path.name}.new")
        with self._writing:
            with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                file.write(state)
                file.flush()
                os.fsync(file.fileno())
            os.replace(beside, self.path)
            folder = os.open(self.path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)

    @classmethod
    def read(cls, path: Path, told: Mapping[str, object]) -> Cursor:
        """From the file of an interrupted replay. ConfigError if it cannot be read, or was told something else."""
        try:
            state: Any = json.loads(path.read_bytes())
            if state["version"] != _VERSION:
                raise ValueError(f"version {state['version']}")
            lanes = {str(lane): (int(at), int(end)) for lane, (_, at, end) in state["lanes"].items()}
            begins = {str(lane): int(begin) for lane, (begin, _, _) in state["lanes"].items()}
            counts = {name: int(state["counts"][name]) for name in _COUNTS}
            before: dict[str, object] = dict(state["told"])
            cursor = cls(before, lanes, begins, path, str(state["run"]), int(state["tries"]), counts)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as exc:
            raise ConfigError(
                "replay(resume=)", f"{path} is not the file of a replay: {exc!r}", "Name another file to begin anew."
            ) from exc
        for name in told.keys() | before.keys():
            if told.get(name) != before.get(name):
                raise ConfigError(
                    "replay(resume=)",
                    f"{path} is of a replay with {name} {before.get(name)!r}, and not {told.get(name)!r}",
                    "Say the same as before to go on, or name another file to begin anew.",
                )
        return cursor
