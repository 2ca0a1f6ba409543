"""The idempotency store in an SQLite file: durable, for several processes of one machine."""

from __future__ import annotations

import asyncio
import sqlite3
from base64 import b64encode
from collections.abc import Callable, Sequence
from functools import partial
from hashlib import blake2b
from os import PathLike
from pathlib import Path
from typing import Any, TypeVar

from ..errors import ConfigError, StateError
from ..kit.sqlite_file import Files
from . import _sqlite_tables as tables
from ._sqlite_tables import SqliteClaim
from ._store import Busy, Claim, Done, Key, StoreUnavailable, Transaction
from ._writer import Job, Writer

__all__ = ["SqliteStore", "SqliteTransaction"]

_T = TypeVar("_T")


class SqliteTransaction(Transaction):
    """What a handler whose effect is in the store's own file writes through, to have it exactly once.

    ::

        @bus.subscribe("orders", group="billing")
        @idempotent(SqliteStore("shop.db"))
        async def charge(order: OrderPlaced, transaction: SqliteTransaction) -> None:
            def book(shop: sqlite3.Connection) -> int:
                shop.execute("UPDATE account SET cents = cents - ? WHERE customer = ?", (order.cents, order.customer))
                return shop.execute("SELECT cents FROM account WHERE customer = ?", (order.customer,)).fetchone()[0]

            left = await transaction.run(book)
            await bus.publish("accounts", Charged(order_id=order.order_id, left=left))

    Each :meth:`run` is one step, committed with a mark of its own before it returns. When the handler is started again
    because it failed, or its process died, the steps that were committed are not run again: they return what they
    returned. So write what decides inside the function, and publish behind it: the second run publishes the same, under
    the same ids. A dead letter that is replayed goes on behind its last step too, for as long as ``retain`` says.

    No lock is held between steps: a handler may wait, or publish to a broker in the same file.
    """

    __slots__ = ("_claim", "_loop", "_store")

    def __init__(self, store: SqliteStore, claim: SqliteClaim) -> None:
        self._store = store
        self._claim = claim
        self._loop = asyncio.get_running_loop()

    async def run(self, function: Callable[[sqlite3.Connection], _T], /) -> _T:
        """Run ``function(connection)`` in the store's thread and transaction, once for each event; what it returns.

        The steps of a handler are told apart by their order. ``function`` only executes statements: it may not commit,
        roll back or wait for anything, and other handlers' writes wait while it runs. It returns JSON (None, numbers,
        strings, lists, dicts; a tuple comes back as a list). What it raises undoes its own writes, and is raised here.

        Raises ``ClaimLost`` if another owner has the event by now, ``StoreUnavailable`` if the file cannot be written;
        let both through: the event comes again without counting an attempt.
        """
        claim = self._claim
        step = claim.stepped = claim.stepped + 1
        result: _T = await self._store.call(Job(tables.STEP, (claim, step, function)))
        return result

    async def execute(self, statement: str, parameters: Sequence[Any] = (), /) -> list[list[Any]]:
        """A step of one statement; its rows, if it gives any."""
        return await self.run(lambda connection: [list(row) for row in connection.execute(statement, parameters)])

    def run_from_thread(self, function: Callable[[sqlite3.Connection], _T], /) -> _T:
        """:meth:`run` for a plain ``def`` handler: blocks its thread. ``StateError`` in the event loop's own thread."""
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return asyncio.run_coroutine_threadsafe(self.run(function), self._loop).result()
        raise StateError("run_from_thread: called in an event loop's thread. Use 'await transaction.run(…)' there")


class SqliteStore:
    """Remembers in an SQLite file which events are done.

    Processes of one machine share it by naming the same file, which may be that of the application: its handlers then
    get a :class:`SqliteTransaction`. Several Buses of a process may be given one object. All writes go through one
    thread and are committed together (WAL, ``synchronous=FULL``); copies on other machines are not seen.

    :param path: the file; made if it is not there, in a folder that is.
    :param retain: seconds for which done events are remembered; 7 days by default. A copy that comes later, such as a
        replayed dead letter, is handled again.
    :param busy_timeout: seconds to wait for another process's write lock; then the store counts as down.
    :param prepare: called with each new connection, in the store's thread: to make the application's tables, to set
        pragmas. The connection commits each statement by itself meanwhile.
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
            raise ConfigError("SqliteStore(retain=)", f"{retain!r} is no number of seconds over 0")
        if not 0 <= busy_timeout <= 600:
            raise ConfigError("SqliteStore(busy_timeout=)", f"{busy_timeout!r} is no number of seconds up to 600")
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
        """The first connection since :meth:`open` decides which file it is; another one by the same name is refused."""
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
        """Store.open. ``ConfigError`` for a missing folder or a file that is no database."""
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
        digest = blake2b("\0".join(key).encode(), digest_size=15).digest()
        claim = SqliteClaim(key, b64encode(digest).decode(), owner, lease, retain)
        result: Claim | Busy | Done = await self._writer.call(Job(tables.CLAIM, claim, self._unwanted))
        return result

    def _unwanted(self, result: Any) -> None:
        """A claim whose waiter was cancelled meanwhile."""
        if isinstance(result, Claim):
            try:
                self._writer.put(Job(tables.RELEASE, result))
            except StoreUnavailable:
                pass  # closed meanwhile: it runs out with its lease

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
        """Store.purge: at most 500 rows of a kind in one transaction."""
        result: int = await self._writer.call(Job(tables.PURGE))
        return result

    def transaction(self, claim: Claim, /) -> SqliteTransaction:
        """TransactionalStore.transaction."""
        assert isinstance(claim, SqliteClaim)
        return SqliteTransaction(self, claim)

    async def close(self) -> None:
        """Store.close: what was asked for before is committed."""
        self._opened -= 1
        if self._opened == 0:
            await self._writer.stop()
            self._files = None
