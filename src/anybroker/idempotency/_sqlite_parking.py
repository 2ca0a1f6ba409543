"""Parked keys in the SQLite store: the table, and the statements on it. Everything runs in the store's own thread.

The table is made when a key is parked first, so that files of earlier releases need no change.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Any

from ._parking import ParkedRow

__all__ = ["Statement", "park", "parked", "unpark"]

Statement = Callable[[sqlite3.Connection], Any]
"""Run within the transaction of its batch."""

# number: the order in which rows were written. finished: handled or discarded while others of its key still wait.
_TABLE = (
    "CREATE TABLE IF NOT EXISTS anybroker_parked(number INTEGER PRIMARY KEY AUTOINCREMENT, place TEXT NOT NULL, "
    "key TEXT NOT NULL, event TEXT NOT NULL, finished INTEGER NOT NULL DEFAULT 0, UNIQUE(place, key, event))"
)


def _exists(connection: sqlite3.Connection) -> bool:
    return connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'anybroker_parked'").fetchone() is not None


def parked(place: str) -> Statement:
    """ParkingStore.parked."""

    def run(connection: sqlite3.Connection) -> dict[str, int]:
        if not _exists(connection):
            return {}
        rows = connection.execute(
            "SELECT key, count(*) FROM anybroker_parked WHERE place = ? AND finished = 0 GROUP BY key", (place,)
        )
        return dict(rows.fetchall())

    return run


def park(place: str, key: str, event: str, behind: bool) -> Statement:
    """ParkingStore.park."""

    def run(connection: sqlite3.Connection) -> ParkedRow | None:
        if behind:
            if (
                not _exists(connection)
                or connection.execute(
                    "SELECT 1 FROM anybroker_parked WHERE place = ? AND key = ? LIMIT 1", (place, key)
                ).fetchone()
                is None
            ):
                return None
        else:
            connection.execute(_TABLE)
        row = (place, key, event)
        connection.execute("INSERT OR IGNORE INTO anybroker_parked(place, key, event) VALUES (?, ?, ?)", row)
        number, finished = connection.execute(
            "SELECT number, finished FROM anybroker_parked WHERE place = ? AND key = ? AND event = ?", row
        ).fetchone()
        if finished:
            return ParkedRow(number, "", True)
        (first,) = connection.execute(
            "SELECT event FROM anybroker_parked WHERE place = ? AND key = ? AND finished = 0 ORDER BY number LIMIT 1",
            (place, key),
        ).fetchone()
        return ParkedRow(number, first, False)

    return run


def unpark(place: str, key: str, event: str | None) -> Statement:
    """ParkingStore.unpark."""

    def run(connection: sqlite3.Connection) -> int:
        if not _exists(connection):
            return 0
        left = 0
        if event is not None:
            connection.execute(
                "UPDATE anybroker_parked SET finished = 1 WHERE place = ? AND key = ? AND event = ?",
                (place, key, event),
            )
            (left,) = connection.execute(
                "SELECT count(*) FROM anybroker_parked WHERE place = ? AND key = ? AND finished = 0", (place, key)
            ).fetchone()
        if not left:
            connection.execute("DELETE FROM anybroker_parked WHERE place = ? AND key = ?", (place, key))
        return int(left)

    return run
