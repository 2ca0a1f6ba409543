"""The idempotency store in an SQLite file: durable, for several processes on one machine."""

from __future__ import annotations

import asyncio
import sqlite3
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from hashlib import blake2b
from os import PathLike
from pathlib import Path
from typing import Any, TypeVar

from pydantic_core import to_json

from ..errors import ConfigError, StateError
from ..kit.sqlite_file import Files
from . import _sqlite_parking as parking
from . import _sqlite_tables as tables
from ._parking import ParkedRow
from ._sqlite_tables import SqliteClaim
from ._store import Busy, Claim, Done, Key, StoreUnavailable, Transaction
from ._writer import Job, Writer

__all__ = ["SqliteStore", "SqliteTransaction"]

_T = TypeVar("_T")


class SqliteTransaction(Transaction):
    """Lets a handler write to the store's own file exactly once.

    ::

        @bus.subscribe("orders", group="billing")
        @idempotent(SqliteStore("shop.db"))
        async def charge(order: OrderPlaced, transaction: SqliteTransaction) -> None:
            def book(shop: sqlite3.Connection) -> int:
                shop.execute("UPDATE account SET cents = cents - ? WHERE customer = ?", (order.cents, order.customer))
                return shop.execute("SELECT cents FROM account WHERE customer = ?", (order.customer,)).fetchone()[0]

            left = await transaction.run(book)
            await bus.publish("accounts", Charged(order_id=order.order_id, left=left))

    Each :meth:`run` is one step, committed with its own mark before it returns. If the handler is started again because
    it failed, or its process died, committed steps do not run again: they return their first result. So decide inside
    the function, and publish after it: a second run then publishes the same, under the same ids. A replayed dead letter
    also continues after its last committed step, for as long as ``retain`` says.

    No lock is held between steps: a handler may wait, or publish to a broker in the same file.
    """

    __slots__ = ("_claim", "_loop", "_store")

    def __init__(self, store: SqliteStore, claim: SqliteClaim) -> None:
        self._store = store
        self._claim = claim
        self._loop = asyncio.get_running_loop()

    async def run(self, function: Callable[[sqlite3.Connection], _T], /) -> _T:
        """Run ``function(connection)`` in the store's thread and transaction, once for each event, and return its
        result.

        The steps of a handler are distinguished by their order. ``function`` only executes statements: it must not
        commit, roll back or wait for anything, and other handlers' writes wait while it runs. It returns JSON (None,
        numbers, strings, lists, dicts; a tuple comes back as a list). If it raises, its own writes are undone, and the
        exception is raised here.

        Raises ``ClaimLost`` if another owner has the event by now, ``StoreUnavailable`` if the file cannot be written.
        Do not catch these: the event then comes again, and no attempt is counted.
        """
        claim = self._claim
        step = claim.stepped = claim.stepped + 1
        result: _T = await self._store.call(Job(tables.STEP, (claim, step, function)))
        return result

    async def execute(self, statement: str, parameters: Sequence[object] = (), /) -> list[list[Any]]:
        """A step that executes one statement. Returns its rows, if any."""
        return await self.run(lambda connection: [list(row) for row in connection.execute(statement, parameters)])

    def run_from_thread(self, function: Callable[[sqlite3.Connection], _T], /) -> _T:
        """:meth:`run` for a plain ``def`` handler: blocks its thread. ``StateError`` in the event loop's own thread."""
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return asyncio.run_coroutine_threadsafe(self.run(function), self._loop).result()
        raise StateError("run_from_thread: called in an event loop's thread. Use 'await transaction.run(…)' there")


def _hash(key: Key) -> str:
    """What the tables know the key by. Files keep these hashes, so they stay as they are."""
    text = "\0".join(key)
    if "\0" in key[0] or "\0" in key[1] or "\0" in key[2]:  # joined, it could be another key's; JSON has no NUL
        text = to_json(key).decode()
    return b64encode(blake2b(text.encode(), digest_size=15).digest()).decode()


class SqliteStore:
    """Remembers in an SQLite file which events are done.

    Processes on one machine share it by naming the same file. That may be the application's own file: its handlers can
    then use a :class:`SqliteTransaction`. Several Buses of a process may share one object. All writes go through one
    thread and are committed together (WAL, ``synchronous=FULL``); copies on other machines are not seen.

    :param path: the file; created if it does not exist, but its folder must exist.
    :param retain: seconds for which done events are remembered; 7 days by default. A copy that arrives later, such as a
        replayed dead letter, is handled again.
    :param busy_timeout: seconds to wait for another process's write lock; after that the store counts as down.
    :param prepare: called with each new connection, in the store's thread, to create the application's tables or set
        pragmas. The connection commits each statement immediately during the call.
    """

    durable = True
    transaction_type = SqliteTransaction

    def __init__(
        self,
        path: str | PathLike[str],
        *,
        retain: float = 7 * 86_400.0,
        busy_timeout: float = 5.0,
        prepare: Callable[[sqlite3.Connection], object] | None = None,
    ) -> None:
        if not 0 < retain < float("inf"):
            raise ConfigError("SqliteStore(retain=)", f"{retain!r} is not a number of seconds over 0")
        if not 0 <= busy_timeout <= 600:
            raise ConfigError("SqliteStore(busy_timeout=)", f"{busy_timeout!r} is not a number of seconds up to 600")
        self.path = Path(path).absolute()
        self.retain = retain
        self._opened = 0
        self._writer = Writer(
            f"the idempotency store {self.path}",
            partial(self._connect, busy_timeout, prepare),
            tables.apply,
            self._check_file,
        )
        self._files: Files | None = None

    def _connect(
        self, busy_timeout: float, prepare: Callable[[sqlite3.Connection], object] | None
    ) -> sqlite3.Connection:
        """The first connection since :meth:`open` decides which file it is; another file of the same name is
        refused."""
        if self._files is not None:
            self._files.before_opening_again()
        connection = tables.connect(self.path, busy_timeout, prepare)
        if self._files is None:
            self._files = Files(self.path)
        return connection

    def _check_file(self) -> None:
        if self._files is not None:
            self._files.check()

    async def open(self) -> None:
        """Store.open. ``ConfigError`` for a missing folder or a file that is not a database."""
        self._opened += 1
        if self._opened > 1:
            return
        self._writer.start()
        try:
            await self.call(Job(tables.NOTHING))
        except BaseException:
            await self.close()
            raise

    async def call(self, job: Job) -> Any:
        """For the store itself: run a job."""
        return await self._writer.call(job)

    async def claim(self, key: Key, owner: str, lease: float, retain: float, /) -> Claim | Busy | Done:
        """Store.claim."""
        claim = SqliteClaim(key, _hash(key), owner, lease, retain)
        result: Claim | Busy | Done = await self._writer.call(Job(tables.CLAIM, claim, self._unwanted))
        return result

    def _unwanted(self, result: Any) -> None:
        """Release a claim whose waiter was cancelled."""
        if isinstance(result, Claim):
            try:
                self._writer.put(Job(tables.RELEASE, result))
            except StoreUnavailable:
                pass  # closed in the meantime: the claim expires with its lease

    async def extend(self, claims: Sequence[Claim], /) -> Sequence[bool]:
        """Store.extend."""
        result: Sequence[bool] = await self._writer.call(Job(tables.EXTEND, claims))
        return result

    async def done(self, claim: Claim, /) -> bool:
        """Store.done."""
        result: bool = await self._writer.call(Job(tables.DONE_JOB, claim))
        return result

    async def release(self, claim: Claim, /) -> None:
        """Store.release."""
        await self._writer.call(Job(tables.RELEASE, claim))

    async def purge(self) -> int:
        """Store.purge: at most 500 rows of each table in one transaction."""
        result: int = await self._writer.call(Job(tables.PURGE))
        return result

    async def parked(self, place: str, /) -> Mapping[str, int]:
        """ParkingStore.parked."""
        result: Mapping[str, int] = await self._writer.call(Job(tables.PARKING, parking.parked(place)))
        return result

    async def park(self, place: str, key: str, event: str, behind: bool, /) -> ParkedRow | None:
        """ParkingStore.park."""
        result: ParkedRow | None = await self._writer.call(Job(tables.PARKING, parking.park(place, key, event, behind)))
        return result

    async def unpark(self, place: str, key: str, event: str | None, /) -> int:
        """ParkingStore.unpark."""
        result: int = await self._writer.call(Job(tables.PARKING, parking.unpark(place, key, event)))
        return result

    def transaction(self, claim: Claim, /) -> SqliteTransaction:
        """TransactionalStore.transaction."""
        assert isinstance(claim, SqliteClaim)
        return SqliteTransaction(self, claim)

    async def close(self) -> None:
        """Store.close: commits what was queued before."""
        self._opened -= 1
        if self._opened == 0:
            await self._writer.stop()
            self._files = None
