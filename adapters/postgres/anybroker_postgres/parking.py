"""Parked keys in PostgreSQL. The table is made, and the connection opened, when they are asked for first.

What changes a key does so under an advisory lock of it, so that rows are numbered in the order in which they are
written, and a key is not freed while an event joins it. Whether a key is parked at all is asked without a lock, for all
calls of a batch in one statement.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from anybroker.idempotency import ParkedRow

from .all_tables import PARKING_TABLES
from .batches import Job
from .connection import Connection
from .ddl import qualified
from .options import Target
from .schema import prepare

__all__ = ["Parking"]

_LOCK = b"SELECT pg_advisory_xact_lock(hashtextextended(%s, 7165308221942))"
_KEYS = """\
SELECT key, count(*) FROM {schema}anybroker_parked WHERE place = %s AND NOT finished GROUP BY key"""
_ANY = """\
SELECT asked.place, asked.key FROM unnest(%s::text[], %s::text[]) AS asked (place, key)
WHERE EXISTS (SELECT FROM {schema}anybroker_parked there WHERE there.place = asked.place AND there.key = asked.key)"""
_INSERT = """\
INSERT INTO {schema}anybroker_parked (place, key, event) SELECT %s, %s, %s
WHERE NOT %s OR EXISTS (SELECT FROM {schema}anybroker_parked WHERE place = %s AND key = %s)
ON CONFLICT (place, key, event) DO NOTHING"""
_ROW = """\
SELECT number, finished, (
    SELECT event FROM {schema}anybroker_parked WHERE place = %s AND key = %s AND NOT finished ORDER BY number LIMIT 1
) FROM {schema}anybroker_parked WHERE place = %s AND key = %s AND event = %s"""
_FINISH = """\
UPDATE {schema}anybroker_parked SET finished = true WHERE place = %s AND key = %s AND event = %s"""
_LEFT = """\
SELECT count(*) FROM {schema}anybroker_parked WHERE place = %s AND key = %s AND NOT finished"""
_FREE = """\
DELETE FROM {schema}anybroker_parked WHERE place = %s AND key = %s"""


class Parking:
    """What the connection for parked keys does with a batch. The value of a job is what the call was given."""

    def __init__(self, schema: str | None, target: Target) -> None:
        def of(text: str) -> bytes:
            return text.format(schema=qualified(schema).replace("%", "%%")).encode()

        self._schema = schema
        self._target = target
        self._keys, self._any, self._insert, self._row = of(_KEYS), of(_ANY), of(_INSERT), of(_ROW)
        self._finish, self._left, self._free = of(_FINISH), of(_LEFT), of(_FREE)
        self._calls: dict[str, Callable[..., Awaitable[Any]]] = {
            "parked": self._parked,
            "park": self._park,
            "unpark": self._unpark,
        }

    async def connected(self, connection: Connection) -> None:
        """For Batches: first on each new connection."""
        await prepare(connection, self._schema, self._target, PARKING_TABLES)

    async def run(self, connection: Connection, jobs: list[Job]) -> None:
        """For Batches. In the order of the calls, but for those that only ask about keys that are free."""
        asking = [job for job in jobs if job.kind == "park" and job.value[3]]
        if asking:
            places, keys = [job.value[0] for job in asking], [job.value[1] for job in asking]
            cursor = await connection.execute(self._any, (places, keys))
            there = set(await cursor.fetchall())
            for job in asking:
                if job.value[:2] not in there:
                    job.finish(None)
        for job in jobs:
            if job.future is not None:
                job.finish(await self._calls[job.kind](connection, *job.value))

    async def _parked(self, connection: Connection, place: str) -> dict[str, int]:
        cursor = await connection.execute(self._keys, (place,))
        found: dict[str, int] = dict(await cursor.fetchall())
        return found

    async def _park(self, connection: Connection, place: str, key: str, event: str, behind: bool) -> ParkedRow | None:
        async with connection.transaction():
            await connection.execute(_LOCK, (f"{place} {key}",))
            await connection.execute(self._insert, (place, key, event, behind, place, key))
            cursor = await connection.execute(self._row, (place, key, place, key, event))
            row = await cursor.fetchone()
        if row is None:
            return None
        number, finished, first = row
        return ParkedRow(number, "", True) if finished else ParkedRow(number, first, False)

    async def _unpark(self, connection: Connection, place: str, key: str, event: str | None) -> int:
        async with connection.transaction():
            await connection.execute(_LOCK, (f"{place} {key}",))
            left = 0
            if event is not None:
                await connection.execute(self._finish, (place, key, event))
                cursor = await connection.execute(self._left, (place, key))
                row = await cursor.fetchone()
                left = 0 if row is None else row[0]
            if not left:
                await connection.execute(self._free, (place, key))
        return left
