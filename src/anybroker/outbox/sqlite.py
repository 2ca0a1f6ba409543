"""The outbox in an SQLite file: in the application's own database, for the processes of one machine."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from os import PathLike
from pathlib import Path
from typing import TypeVar

from ..adapter import Outbound, Receipt
from ..errors import ConfigError, StateError
from . import sqlite_tables as tables
from .entry import SHARDS, Entry
from .shares import share_of
from .sqlite_writing import taken_by, write
from .table import OutboxUnavailable, Parked, Row, Taken, Waiting

__all__ = ["SqliteOutbox"]

_T = TypeVar("_T")

_FULL = 5.0
"""Seconds between two looks at the whole table, for rows that were set aside and put back."""
_LOOK = 0.02
"""Seconds between two questions whether another connection has committed something."""


class SqliteOutbox:
    """``Bus(sinks=[outbox])`` for writing, ``bus.add(OutboxRelay(outbox))`` for relaying.

    ::

        outbox = SqliteOutbox("shop.db")
        bus = Bus("nats://localhost", source="shop", sinks=[outbox])
        bus.add(OutboxRelay(outbox))

        with shop:  # an sqlite3.Connection to shop.db
            shop.execute("INSERT INTO orders …")
            await bus.publish("orders", OrderPlaced(order_id="o-1"), within=shop)

    ``within`` is a connection to this file, in the thread of the event loop or of ``bus.from_thread``, a session or
    connection of SQLAlchemy, asynchronous or not, or a :class:`~anybroker.idempotency.SqliteTransaction`, where each
    publish is a step of its own, and so is each ``publish_many``. In a handler that has such a transaction, a plain
    ``publish`` writes into the outbox too. The caller begins and commits.

    :param path: the application's file; created if it does not exist, but its folder must exist.
    :param create: make the tables when a relay starts. Without: ``anybroker db sql sqlite`` prints them.
    :param busy_timeout: seconds to wait for another connection's write lock.
    """

    def __init__(self, path: str | PathLike[str], *, create: bool = True, busy_timeout: float = 5.0) -> None:
        if not 0 <= busy_timeout <= 600:
            raise ConfigError("SqliteOutbox(busy_timeout=)", f"{busy_timeout!r} is not a number of seconds up to 600")
        self.path = Path(path).absolute()
        self._create = create
        self._busy_timeout = busy_timeout
        self._connection: sqlite3.Connection | None = None
        self._thread: ThreadPoolExecutor | None = None
        self._seen = 0
        self._place = tables.BEGINNING
        self._next_full = 0.0

    @property
    def target(self) -> str:
        """The file."""
        return str(self.path)

    # ---------------------------------------------------------------------------------------------------- the sink

    def takes(self, within: object, /) -> bool:
        """Sink.takes: connections of ``sqlite3``, transactions of a ``SqliteStore``, and SQLAlchemy's sessions and
        connections, asynchronous or not, to an SQLite file."""
        return taken_by(within)

    async def put(self, outbound: Outbound, within: object, /) -> Receipt:
        """Sink.put. Raises ConfigError where the file has no such table."""
        (position,) = await write([Entry.of(outbound)], within)
        return Receipt(outbound.topic, str(position))

    async def put_many(self, batch: Sequence[Outbound], within: object, /) -> Sequence[Receipt]:
        """PutsMany.put_many: a statement for each row, all in one visit to the thread of the connection; of a
        ``SqliteTransaction`` they are one step. Raises ConfigError where the file has no such table."""
        positions = await write([Entry.of(outbound) for outbound in batch], within)
        return [Receipt(each.topic, str(position)) for each, position in zip(batch, positions, strict=True)]

    # --------------------------------------------------------------------------------------------------- the table

    async def open(self) -> None:
        """OutboxTable.open."""
        if self._thread is not None:
            raise StateError(f"the outbox {self.path} is open: give each relay its own SqliteOutbox")
        self._thread = ThreadPoolExecutor(1, "anybroker outbox")
        self.again()
        try:
            await self._call(lambda _: None)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """OutboxTable.close."""
        thread, self._thread = self._thread, None
        if thread is not None:
            await asyncio.get_running_loop().run_in_executor(thread, self._disconnect)
            thread.shutdown(wait=False)

    async def _call(self, work: Callable[[sqlite3.Connection], _T], writes: bool = False) -> _T:
        if self._thread is None:
            raise StateError(f"the outbox {self.path} is not open")
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._work, work, writes)

    def _work(self, work: Callable[[sqlite3.Connection], _T], writes: bool) -> _T:
        """In the thread, and with ``writes`` in a transaction. What fails closes the connection."""
        try:
            connection = self._connection
            if connection is None:
                connection = self._connection = self._connect()
            if not writes:
                return work(connection)
            connection.execute("BEGIN IMMEDIATE")
            result = work(connection)
            connection.execute("COMMIT")
        except sqlite3.Error as exc:
            self._disconnect()
            raise OutboxUnavailable(f"the outbox {self.path}: {exc}") from exc
        except BaseException:
            self._disconnect()
            raise
        return result

    def _connect(self) -> sqlite3.Connection:
        if not self.path.parent.is_dir():
            raise ConfigError("SqliteOutbox(path)", f"there is no folder {self.path.parent}", "Create it.")
        connection = tables.connect(self.path, self._busy_timeout)
        try:
            tables.prepare(connection, self._create)
        except BaseException:
            connection.close()
            raise
        return connection

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    async def take(self, relay: str, lease: float, /) -> Taken:
        """OutboxTable.take."""

        def taking(connection: sqlite3.Connection) -> Taken:
            relays, holders = tables.meet(connection, relay, lease)
            share = share_of(relay, relays, holders, SHARDS)
            tables.lease(connection, relay, share.take)
            return Taken(share.held, share.surplus)

        return await self._call(taking, writes=True)

    async def give_up(self, relay: str, shards: Collection[int] | None, /) -> None:
        """OutboxTable.give_up."""
        await self._call(lambda connection: tables.give_up(connection, relay, shards), writes=True)

    async def rows(self, shards: Collection[int], limit: int, /) -> Sequence[Row]:
        """OutboxTable.rows. SQLite commits in the order of the positions, so no row appears behind the place."""

        now = time.monotonic()
        if now >= self._next_full:
            self.again()
            self._next_full = now + _FULL
        place = self._place
        found, after = await self._call(lambda connection: tables.rows(connection, shards, limit, place))
        if place is not self._place:
            return ()  # it was told to begin again
        self._place = after
        return found

    def again(self) -> None:
        """OutboxTable.again."""
        self._place = tables.Place(*tables.BEGINNING)  # another object, so that rows() sees it

    async def wait(self, seconds: float, /) -> None:
        """OutboxTable.wait."""
        end = time.monotonic() + seconds
        while True:
            version = await self._call(lambda connection: int(connection.execute("PRAGMA data_version").fetchone()[0]))
            if version != self._seen:
                self._seen = version
                return
            left = end - time.monotonic()
            if left <= 0:
                return
            await asyncio.sleep(min(_LOOK, left))

    async def remove(self, positions: Sequence[int], /) -> None:
        """OutboxTable.remove."""
        await self._call(lambda connection: tables.remove(connection, positions), writes=True)

    async def park(self, rejected: Sequence[tuple[int, str]], /) -> None:
        """OutboxTable.park."""
        await self._call(lambda connection: tables.park(connection, rejected), writes=True)

    async def parked(self, limit: int = 100, /) -> Sequence[Parked]:
        """OutboxTable.parked."""
        return await self._call(lambda connection: tables.parked(connection, limit))

    async def parked_keys(self) -> Collection[tuple[str, str]]:
        """OutboxTable.parked_keys."""
        return await self._call(tables.parked_keys)

    async def retry(self, positions: Sequence[int] | None = None, /) -> int:
        """OutboxTable.retry."""
        return await self._call(lambda connection: tables.retry(connection, positions), writes=True)

    async def discard(self, positions: Sequence[int] | None = None, /) -> int:
        """OutboxTable.discard."""
        return await self._call(lambda connection: tables.discard(connection, positions), writes=True)

    async def waiting(self) -> Waiting:
        """OutboxTable.waiting."""
        return await self._call(tables.waiting)
