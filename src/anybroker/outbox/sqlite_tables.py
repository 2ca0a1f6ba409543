"""The tables of the outbox in SQLite, and the statements on them. All of it runs in one transaction of the caller's."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from ..errors import ConfigError
from .entry import Entry
from .table import Parked, Row, Waiting

__all__ = [
    "BEGINNING",
    "DDL",
    "INSERT",
    "LAST",
    "VERSION",
    "Place",
    "connect",
    "discard",
    "give_up",
    "insert",
    "lacks_table",
    "lease",
    "meet",
    "no_table",
    "park",
    "parked",
    "parked_keys",
    "prepare",
    "remove",
    "retry",
    "rows",
    "waiting",
]

VERSION: Final = 1
_NOW: Final = "((julianday('now') - 2440587.5) * 86400.0)"
"""Seconds since the epoch, by this machine's clock."""
_COLUMNS: Final = "id, aggregatetype, aggregateid, type, payload, headers, not_before, shard"

DDL: Final = f"""\
CREATE TABLE IF NOT EXISTS anybroker_outbox (
    position INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL,
    aggregatetype TEXT NOT NULL,
    aggregateid TEXT,
    type TEXT NOT NULL,
    payload TEXT NOT NULL,
    headers TEXT,
    not_before REAL,
    shard INTEGER NOT NULL,
    written REAL NOT NULL DEFAULT {_NOW}
);
CREATE INDEX IF NOT EXISTS anybroker_outbox_due ON anybroker_outbox (not_before) WHERE not_before IS NOT NULL;
CREATE TABLE IF NOT EXISTS anybroker_outbox_parked (
    position INTEGER PRIMARY KEY,
    id TEXT NOT NULL,
    aggregatetype TEXT NOT NULL,
    aggregateid TEXT,
    type TEXT NOT NULL,
    payload TEXT NOT NULL,
    headers TEXT,
    not_before REAL,
    shard INTEGER NOT NULL,
    written REAL NOT NULL,
    reason TEXT NOT NULL,
    since REAL NOT NULL DEFAULT {_NOW}
);
CREATE TABLE IF NOT EXISTS anybroker_outbox_relay (
    relay TEXT PRIMARY KEY,
    until REAL NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS anybroker_outbox_shard (
    shard INTEGER PRIMARY KEY,
    relay TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS anybroker_schema (
    part TEXT PRIMARY KEY,
    version INTEGER NOT NULL
) WITHOUT ROWID;
INSERT INTO anybroker_schema (part, version) VALUES ('outbox', {VERSION}) ON CONFLICT (part) DO NOTHING;
"""
INSERT: Final = f"INSERT INTO anybroker_outbox ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
LAST: Final = "SELECT last_insert_rowid()"
"""The position of the row that this connection has written last."""
_READ: Final = "position, shard, aggregatetype, aggregateid, payload, headers"


class Place(NamedTuple):
    """How far the table was read."""

    position: int
    """Of the rows that may be relayed at once."""
    due: tuple[float, int]
    """Of those that may not: ``not_before``, and the position."""


BEGINNING: Final = Place(0, (0.0, 0))


def connect(path: Path, busy_timeout: float) -> sqlite3.Connection:
    """A connection that any thread may use, with explicit transactions."""
    connection = sqlite3.connect(path, timeout=busy_timeout, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
    except BaseException:
        connection.close()
        raise
    return connection


def prepare(connection: sqlite3.Connection, create: bool) -> None:
    """Make the tables, or check that they are there. ConfigError for another version, or none."""
    if create:
        connection.executescript(f"BEGIN IMMEDIATE;\n{DDL}COMMIT;")
    try:
        found = connection.execute("SELECT version FROM anybroker_schema WHERE part = 'outbox'").fetchone()
    except sqlite3.OperationalError:
        found = None
    if found is None:
        raise no_table("SqliteOutbox(create=False)")
    if found[0] != VERSION:
        raise ConfigError(
            "SqliteOutbox",
            f"the tables have version {found[0]}, and this anybroker knows {VERSION}",
            "Update the older.",
        )


def no_table(setting: str) -> ConfigError:
    """What is raised where the tables are missing."""
    return ConfigError(
        setting,
        "the file has no table anybroker_outbox",
        "'anybroker db sql sqlite' prints the statements that make it.",
    )


def insert(connection: sqlite3.Connection, entry: Entry) -> int:
    """Write a row; its position."""
    try:
        position = connection.execute(INSERT, entry).lastrowid
    except sqlite3.OperationalError as exc:
        if lacks_table(exc):
            raise no_table("publish(within=)") from exc
        raise
    assert position is not None
    return position


def lacks_table(error: sqlite3.OperationalError) -> bool:
    """Whether a statement failed because the tables are missing."""
    return "no such table" in str(error)


def rows(connection: sqlite3.Connection, shards: Collection[int], limit: int, place: Place) -> tuple[list[Row], Place]:
    """Rows behind that place, and the next one."""
    mine = ", ".join(str(int(shard)) for shard in shards)
    at_once = connection.execute(
        f"SELECT {_READ} FROM anybroker_outbox WHERE position > ? AND not_before IS NULL AND shard IN ({mine}) "
        "ORDER BY position LIMIT ?",
        (place.position, limit),
    ).fetchall()
    when, position = place.due
    due = connection.execute(
        f"SELECT {_READ}, not_before FROM anybroker_outbox WHERE not_before IS NOT NULL "
        f"AND (not_before, position) > (?, ?) AND not_before <= {_NOW} AND shard IN ({mine}) "
        "ORDER BY not_before, position LIMIT ?",
        (when, position, limit),
    ).fetchall()
    last = place.due if not due else (due[-1][-1], due[-1][0])
    after = Place(at_once[-1][0] if at_once else place.position, last)
    return [Row(*found) for found in sorted([*at_once, *(row[:-1] for row in due)])], after


def meet(connection: sqlite3.Connection, relay: str, lease: float) -> tuple[list[str], dict[int, str]]:
    """Say that the relay lives; which ones do, and who has which shard."""
    connection.execute(f"DELETE FROM anybroker_outbox_relay WHERE until < {_NOW}")
    connection.execute(f"INSERT OR REPLACE INTO anybroker_outbox_relay VALUES (?, {_NOW} + ?)", (relay, lease))
    connection.execute(
        "DELETE FROM anybroker_outbox_shard WHERE relay NOT IN (SELECT relay FROM anybroker_outbox_relay)"
    )
    relays = [found[0] for found in connection.execute("SELECT relay FROM anybroker_outbox_relay")]
    return relays, dict(connection.execute("SELECT shard, relay FROM anybroker_outbox_shard").fetchall())


def lease(connection: sqlite3.Connection, relay: str, shards: Iterable[int]) -> None:
    """Have these shards, which are free."""
    connection.executemany("INSERT INTO anybroker_outbox_shard VALUES (?, ?)", [(shard, relay) for shard in shards])


def give_up(connection: sqlite3.Connection, relay: str, shards: Collection[int] | None) -> None:
    """Let them be free; None: all, and the relay has left."""
    if shards is None:
        connection.execute("DELETE FROM anybroker_outbox_shard WHERE relay = ?", (relay,))
        connection.execute("DELETE FROM anybroker_outbox_relay WHERE relay = ?", (relay,))
        return
    connection.executemany(
        "DELETE FROM anybroker_outbox_shard WHERE shard = ? AND relay = ?", [(shard, relay) for shard in shards]
    )


def remove(connection: sqlite3.Connection, positions: Sequence[int]) -> None:
    """Forget these rows."""
    connection.executemany("DELETE FROM anybroker_outbox WHERE position = ?", [(each,) for each in positions])


def park(connection: sqlite3.Connection, rejected: Sequence[tuple[int, str]]) -> None:
    """Set these rows aside."""
    connection.executemany(
        f"INSERT OR IGNORE INTO anybroker_outbox_parked (position, {_COLUMNS}, written, reason) "
        f"SELECT position, {_COLUMNS}, written, ? FROM anybroker_outbox WHERE position = ?",
        [(reason, position) for position, reason in rejected],
    )
    remove(connection, [position for position, _ in rejected])


def parked(connection: sqlite3.Connection, limit: int) -> list[Parked]:
    """What was set aside."""
    found = connection.execute(
        "SELECT position, aggregatetype, aggregateid, id, type, reason, since, payload FROM anybroker_outbox_parked "
        "ORDER BY position LIMIT ?",
        (limit,),
    )
    return [Parked(*each) for each in found]


def parked_keys(connection: sqlite3.Connection) -> list[tuple[str, str]]:
    """The topics and keys of it."""
    found: list[tuple[str, str]] = connection.execute(
        "SELECT DISTINCT aggregatetype, aggregateid FROM anybroker_outbox_parked WHERE aggregateid IS NOT NULL"
    ).fetchall()
    return found


def retry(connection: sqlite3.Connection, positions: Sequence[int] | None) -> int:
    """Put these, or all, back where they were; how many."""
    chosen = _chosen(connection, positions)
    connection.executemany(
        f"INSERT INTO anybroker_outbox (position, {_COLUMNS}, written) "
        f"SELECT position, {_COLUMNS}, written FROM anybroker_outbox_parked WHERE position = ?",
        chosen,
    )
    return _drop(connection, chosen)


def discard(connection: sqlite3.Connection, positions: Sequence[int] | None) -> int:
    """Drop these, or all; how many."""
    return _drop(connection, _chosen(connection, positions))


def _chosen(connection: sqlite3.Connection, positions: Sequence[int] | None) -> list[tuple[int]]:
    there: list[tuple[int]] = connection.execute("SELECT position FROM anybroker_outbox_parked").fetchall()
    wanted = None if positions is None else set(positions)
    return [each for each in there if wanted is None or each[0] in wanted]


def _drop(connection: sqlite3.Connection, chosen: Sequence[tuple[int]]) -> int:
    connection.executemany("DELETE FROM anybroker_outbox_parked WHERE position = ?", chosen)
    return len(chosen)


def waiting(connection: sqlite3.Connection) -> Waiting:
    """What there is."""
    row: tuple[Any, ...] = connection.execute(
        "SELECT (SELECT count(*) FROM anybroker_outbox), "
        f"(SELECT {_NOW} - min(since) FROM (SELECT written AS since FROM anybroker_outbox WHERE not_before IS NULL "
        f"UNION ALL SELECT not_before FROM anybroker_outbox WHERE not_before <= {_NOW})), "
        "(SELECT count(*) FROM anybroker_outbox_parked)"
    ).fetchone()
    return Waiting(row[0], None if row[1] is None else max(0.0, row[1]), row[2])
