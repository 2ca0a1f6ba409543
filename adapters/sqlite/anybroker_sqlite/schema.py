"""The tables, and how a connection to them is opened."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from threading import Lock

from anybroker.errors import ConfigError, Unavailable
from anybroker.kit.file_access import make_private, warn_of_readers
from anybroker.kit.sqlite_file import files_of, make_durable, make_tables, turn_of

from .failures import in_use, opening_error

__all__ = ["SEGMENT_EVENTS", "SHIFT", "VERSION", "connect"]

VERSION = 1
"""The schema's version, kept in ``ab_meta``."""

SHIFT = 40
"""A sequence number is the topic's id, shifted by this many bits, plus the event's number in the topic from 1: one
table holds all topics, each of them in one place, and needs no index."""

SEGMENT_EVENTS = 1024
"""The most events in one segment."""

_TABLES = """
CREATE TABLE ab_meta(version INTEGER NOT NULL);
-- last: the highest sequence number given out. trimmed: the newest time among what retention has deleted.
CREATE TABLE ab_topic(
    id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, ordered INTEGER NOT NULL, retention REAL,
    last INTEGER NOT NULL, trimmed REAL NOT NULL DEFAULT 0);
-- cursor: all up to it has been claimed once, or put aside.
CREATE TABLE ab_group(
    id INTEGER PRIMARY KEY, topic INTEGER NOT NULL, name TEXT NOT NULL, ordered INTEGER NOT NULL,
    cursor INTEGER NOT NULL, UNIQUE(topic, name));
-- What one transaction published to one topic (or to the inlet of one group of it), numbered from first.
-- meta: JSON, for each event [id, source, type, time, datacontenttype, key, size of the body or null, more or null].
CREATE TABLE ab_segment(
    first INTEGER PRIMARY KEY, count INTEGER NOT NULL, at REAL NOT NULL, only_group INTEGER,
    meta TEXT NOT NULL, body BLOB NOT NULL);
-- Handed over to a member and not settled. until: on the machine's monotonic clock.
CREATE TABLE ab_claim(
    grp INTEGER NOT NULL, owner INTEGER NOT NULL, seq INTEGER NOT NULL, key TEXT, until REAL NOT NULL,
    attempts INTEGER NOT NULL, deliveries INTEGER NOT NULL, PRIMARY KEY(grp, owner, seq)) WITHOUT ROWID;
-- Passed by the cursor and to be handed over: given back, lost by its member, or of a key that another member has.
CREATE TABLE ab_parked(
    grp INTEGER NOT NULL, seq INTEGER NOT NULL, key TEXT, attempts INTEGER NOT NULL, deliveries INTEGER NOT NULL,
    PRIMARY KEY(grp, seq)) WITHOUT ROWID;
-- The same, but not before due (seconds since the epoch).
CREATE TABLE ab_delayed(
    grp INTEGER NOT NULL, due REAL NOT NULL, seq INTEGER NOT NULL, key TEXT, attempts INTEGER NOT NULL,
    deliveries INTEGER NOT NULL, PRIMARY KEY(grp, due, seq)) WITHOUT ROWID;
CREATE INDEX ab_delayed_seq ON ab_delayed(grp, seq);
-- wake: the member's FIFO. lost: how often claims were taken from it. hungry: until when (on the monotonic clock)
-- it waits for keys that others have.
CREATE TABLE ab_member(
    id INTEGER PRIMARY KEY, grp INTEGER NOT NULL, wake TEXT NOT NULL, lost INTEGER NOT NULL DEFAULT 0,
    hungry REAL NOT NULL DEFAULT 0);
-- For people: one row an event.
CREATE VIEW ab_event AS
    SELECT t.name AS topic, s.first + j.key - (t.id << 40) AS number, datetime(s.at, 'unixepoch') AS stored,
        g.name AS only_group, j.value ->> 0 AS id, j.value ->> 1 AS source, j.value ->> 2 AS type,
        j.value ->> 3 AS time, j.value ->> 4 AS datacontenttype, j.value ->> 5 AS key,
        nullif(j.value -> 7, 'null') AS more,
        CASE WHEN j.value ->> 6 IS NOT NULL THEN substr(s.body, 1 + sum(coalesce(j.value ->> 6, 0))
            OVER (PARTITION BY s.first ORDER BY j.key) - (j.value ->> 6), j.value ->> 6) END AS body
    FROM ab_segment s JOIN ab_topic t ON t.id = s.first >> 40 LEFT JOIN ab_group g ON g.id = s.only_group,
        json_each(s.meta) j;
"""


def connect(path: Path, busy_timeout: float, timeout: float) -> tuple[sqlite3.Connection, Lock]:
    """Open the file, creating it if needed, and prepare its tables and durability. Also returns the lock under which
    the threads of this process write the file.

    Runs in the thread that will use the connection. ``ConfigError`` for a missing folder, a file that is not a
    database or has another version; ``Unavailable`` if another process has it locked for ``busy_timeout`` seconds,
    other threads of this one use it for ``timeout`` seconds, or the disk is full.
    """
    if sqlite3.sqlite_version_info < (3, 38):
        raise ConfigError("sqlite", f"is version {sqlite3.sqlite_version}", "Use a Python with SQLite 3.38 or later.")
    if not path.parent.is_dir():
        raise ConfigError("url", f"the folder {path.parent} does not exist", "Make it, or change the path.")
    connection: sqlite3.Connection | None = None
    make_private(path)
    try:
        connection = sqlite3.connect(path, timeout=busy_timeout, isolation_level=None, cached_statements=256)
        turn = turn_of(path)
        if not turn.acquire(timeout=timeout):
            raise Unavailable(in_use(path, timeout))
        try:
            _prepare(connection, path, busy_timeout)
        finally:
            turn.release()
    except sqlite3.Error as exc:
        if connection is not None:
            connection.close()
        raise opening_error(exc, path) from exc
    except BaseException:
        if connection is not None:
            connection.close()
        raise
    warn_of_readers(files_of(path))
    return connection, turn


def _prepare(connection: sqlite3.Connection, path: Path, busy_timeout: float) -> None:
    execute = connection.execute
    make_durable(connection, path, "url", busy_timeout)
    execute("PRAGMA secure_delete=FAST")
    execute("PRAGMA wal_autocheckpoint=4000")
    execute("PRAGMA cache_size=-8000")
    execute("PRAGMA temp.journal_mode=MEMORY")
    statements = (*_TABLES.split(";\n"), f"INSERT INTO ab_meta VALUES ({VERSION})")
    make_tables(connection, path, "url", version=VERSION, read_version=_version, statements=statements)
    execute("PRAGMA busy_timeout=0")  # from here on the store waits by itself: SQLite waits up to 100 ms between tries


def _version(connection: sqlite3.Connection) -> int | None:
    if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'ab_meta'").fetchone():
        return None
    return int(connection.execute("SELECT version FROM ab_meta").fetchone()[0])
