"""The tables that this library has in an application's database: whether they fit, and bringing them up to date."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

from ..errors import ConfigError

__all__ = ["PARTS", "Database", "Migrated", "Steps", "TablesState", "check_not_newer", "statements_between"]

PARTS = ("store", "outbox")
"""Whose tables there are: the idempotency store's, and the outbox's. Each has a version of its own."""

Steps = Mapping[int, Sequence[str]]
"""By version: the statements that bring tables of this version to the next one."""


class TablesState(NamedTuple):
    """What is there of one part."""

    part: str
    found: int | None
    """The version that is there; None: none is."""
    needed: int
    """The version that this library reads and writes."""
    missing: tuple[str, ...] = ()
    """Tables, columns, indexes and privileges, as in ``column anybroker_outbox.payload``."""
    remedy: str | None = None
    """What to do; None where it fits."""

    @property
    def fits(self) -> bool:
        """Whether this library can work with it."""
        return self.found == self.needed and not self.missing

    @property
    def verdict(self) -> str:
        """In a few words."""
        if self.found is None:
            there = f"no version is there, and {self.needed} is needed"
        elif self.found == self.needed:
            there = f"version {self.found}, as needed"
        else:
            there = f"version {self.found}, and {self.needed} is needed"
        return f"{there}; missing: {', '.join(self.missing)}" if self.missing else there


class Migrated(NamedTuple):
    """What was done to one part."""

    part: str
    before: int | None
    """The version that was there; None: none was."""
    after: int
    made: tuple[str, ...] = ()
    """Tables, columns and indexes that were missing."""

    @property
    def said(self) -> str:
        """In a few words."""
        if self.before is None:
            return f"made, version {self.after}"
        if self.before != self.after:
            return f"brought from version {self.before} to {self.after}"
        return f"made what was missing: {', '.join(self.made)}" if self.made else f"nothing to do, version {self.after}"


@runtime_checkable
class Database(Protocol):
    """A database with such tables: what a function in the entry-point group ``anybroker.databases`` makes of a URL."""

    @property
    def target(self) -> str:
        """Which one it is, without a secret."""
        ...

    async def check(self, parts: Sequence[str], /) -> Sequence[TablesState]:
        """What is there of these parts; changes nothing. Raises ``Unavailable``; ``ConfigError`` where there is no such
        database, or it lets nobody in."""
        ...

    async def migrate(self, parts: Sequence[str], /) -> Sequence[Migrated]:
        """Make what is missing of these parts, and bring older versions to the current one: all in one transaction,
        under a lock, so that of two at once the second finds it done. Raises ``ConfigError``, and changes nothing, for
        a newer version, a missing privilege (with the statements that somebody else can run), or a table that has been
        changed by hand; ``Unavailable``."""
        ...


def check_not_newer(target: object, state: TablesState) -> None:
    """Raises ConfigError for tables that a newer release has made."""
    if state.found is not None and state.found > state.needed:
        raise ConfigError(
            f"tables of the {state.part}",
            f"{target}: they have version {state.found}, and this release of anybroker knows {state.needed}",
            "Update anybroker here: an older release must not change them.",
        )


def statements_between(found: int, needed: int, steps: Steps) -> Iterator[str]:
    """Those of each step, in order. Raises ConfigError where this release has no step from that version."""
    for version in range(found, needed):
        if version not in steps:
            raise ConfigError(
                "tables", f"nothing leads from version {version} to {version + 1}", "Use the release before this one."
            )
        yield from steps[version]
