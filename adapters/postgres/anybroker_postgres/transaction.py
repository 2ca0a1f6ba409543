"""The handler's transaction: its writes and the mark are committed together, or not at all."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, get_origin

import psycopg
from psycopg.abc import QueryNoTemplate
from psycopg.pq import TransactionStatus

from anybroker.errors import StateError
from anybroker.idempotency import StoreUnavailable, Transaction, TransactionConflict

from . import failures
from .connection import over
from .lending import check

if TYPE_CHECKING:
    from .claims import PostgresClaim
    from .connection import Connection
    from .lending import Lending
    from .loan import Loan
    from .pool import Pool
    from .statements import Statements

__all__ = ["PostgresTransaction"]


class PostgresTransaction(Transaction):
    """Lets a handler write to the store's database exactly once.

    ::

        @bus.subscribe("orders", group="billing")
        @idempotent(PostgresStore("postgresql://localhost/shop"))
        async def charge(order: OrderPlaced, transaction: PostgresTransaction) -> None:
            await transaction.execute(
                "UPDATE account SET cents = cents - %s WHERE customer = %s", (order.cents, order.customer)
            )

    One transaction covers the whole handler. It begins with the first use, on a connection of its own, and is committed
    together with the mark after the handler has returned. If the handler raises, is cancelled, or has lost its claim to
    another owner, all of it is rolled back. So the handler must not commit, and what it does elsewhere (a publish, a
    call over HTTP) is outside of the transaction: it happens at once, and again if the handler runs again.
    """

    __slots__ = (
        "_begun",
        "_claim",
        "_connection",
        "_lending",
        "_loan",
        "_lock",
        "_loop",
        "_lost",
        "_mark",
        "_over",
        "_pool",
        "_statements",
        "_unsure",
    )

    def __init__(
        self,
        claim: PostgresClaim,
        pool: Pool,
        lending: Lending,
        statements: Statements,
        mark: Callable[[str, Any], Awaitable[Any]],
    ) -> None:
        self._claim = claim
        self._pool = pool
        self._lending = lending
        self._loan: Loan | None = None
        self._statements = statements
        self._mark = mark
        self._connection: Connection | None = None
        self._lock = asyncio.Lock()
        self._loop = asyncio.get_running_loop()
        self._begun = False
        self._lost = False
        self._over = False
        self._unsure = False

    async def connection(self) -> psycopg.AsyncConnection[Any]:
        """The connection of the transaction, which the first call begins.

        Do not commit, roll back or close it (``StateError``): nested ``async with connection.transaction()`` are
        savepoints, and may be used. Waits for a free connection of the store's pool. Raises ``StoreUnavailable``."""
        async with self._lock:
            if self._over:
                raise over()
            if self._connection is None:
                connection = await self._pool.take(self._begin())
                if self._over:  # its handler was cancelled, and went on in another task
                    await self._pool.give_back(connection, usable=False)
                    raise over()
                self._begun = True
                connection.lent = True
                self._connection = connection
            return self._connection

    async def execute(
        self, query: QueryNoTemplate, parameters: Sequence[Any] | Mapping[str, Any] | None = None, /
    ) -> psycopg.AsyncCursor[Any]:
        """Execute one statement in the transaction; the cursor has its rows. As ``AsyncConnection.execute``."""
        return await (await self.connection()).execute(query, parameters)

    def execute_from_thread(
        self, query: QueryNoTemplate, parameters: Sequence[Any] | Mapping[str, Any] | None = None, /
    ) -> list[tuple[Any, ...]]:
        """:meth:`execute` for a plain ``def`` handler: blocks its thread, and returns the rows, if any. ``StateError``
        in the event loop's own thread."""
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return asyncio.run_coroutine_threadsafe(self._rows(query, parameters), self._loop).result()
        raise StateError("execute_from_thread: called in an event loop's thread. Use 'await transaction.execute(…)'")

    async def _rows(self, query: QueryNoTemplate, parameters: Any) -> list[tuple[Any, ...]]:
        cursor = await self.execute(query, parameters)
        return [] if cursor.description is None else await cursor.fetchall()

    @classmethod
    def check(cls, annotation: object, is_async: bool, setting: str, /) -> None:
        """Transaction.check: what blocks is for plain ``def`` handlers, what is awaited for ``async def`` ones."""
        check(annotation, is_async, setting)

    async def given(self, annotation: object, /) -> object:
        """Transaction.given: the connection, or a connection or session of another kind in the same transaction, which
        the annotation says: ``psycopg.AsyncConnection`` or ``Connection``, ``AsyncSession``, ``Session``,
        ``AsyncConnection`` or ``Connection`` of SQLAlchemy, a session class of one's own."""
        kind = get_origin(annotation) or annotation
        if kind is psycopg.AsyncConnection:
            return await self.connection()
        loan = await self._lending.loan(kind)
        await self.connection()
        if self._connection is None:
            raise over()
        self._loan = loan
        return await loan.begin(self._connection)

    async def finish(self) -> None:
        """Transaction.finish: flushes a session of SQLAlchemy. Raises what it raises."""
        if self._loan is not None:
            await self._loan.finish()

    def reason(self, failure: Exception, /) -> StoreUnavailable | TransactionConflict | None:
        """Transaction.reason: serialization failures, deadlocks, and a server that ended or cannot write."""
        return failures.reason(self._pool.target, failure, self._lost) if self._begun else None

    def _begin(self) -> bytes:
        # The setting ends with the transaction: if it is gone at the end, the handler has committed. SET does not
        # count as a query, so the handler may still set the isolation level.
        return f"BEGIN; SET LOCAL anybroker.claim = '{self._claim.fence}'".encode()

    # ---------------------------------------------------------------------------------------- for the store

    @property
    def used(self) -> bool:
        """Whether the handler has begun it, so that the mark belongs into it."""
        return self._begun

    async def commit(self) -> bool:
        """For the store: commit the handler's writes with the mark. False if the claim was taken over, or if the
        writes were undone by the server, so that the handler must run again. Raises ``StoreUnavailable`` if the outcome
        is unknown; the next call finds it out."""
        self._over = True
        if self._unsure:
            committed = bool(await self._mark("settle", self._claim))
            self._unsure = False
            return committed
        connection, self._connection = self._connection, None
        if connection is None:  # called again after it has ended
            return bool(await self._mark("settle", self._claim))
        timer = asyncio.get_running_loop().call_later(self._pool.timeout, connection.cut)
        usable = False
        try:
            await self._end_loan(connection)
            result = await self._commit(connection)
            usable = connection.info.transaction_status == TransactionStatus.IDLE
        except failures.CONFLICTS:
            await self._mark("release", self._claim)
            result = False
        except psycopg.Error as exc:
            if connection.closed or isinstance(exc, psycopg.OperationalError):
                self._unsure = True
                raise failures.unavailable(self._pool.target, exc, "committing a handler's transaction: ") from exc
            await self._mark("release", self._claim)
            raise
        except asyncio.CancelledError:
            self._unsure = True
            raise
        finally:
            timer.cancel()
            await self._pool.give_back(connection, usable=usable)
        return result

    async def _commit(self, connection: Connection) -> bool:
        status = connection.info.transaction_status
        claim = self._claim
        if status == TransactionStatus.INERROR:
            await self._mark("release", claim)
            raise StateError(
                "the handler has returned although a statement of its transaction had failed: nothing of it can be "
                "committed. Let the error out, or use 'async with connection.transaction()' around what may fail"
            )
        if status == TransactionStatus.INTRANS:
            cursor = await connection.execute(
                self._statements.mark, (claim.hash, claim.fence, claim.owner, str(claim.fence)), prepare=False
            )
            if cursor.rowcount == 1:
                await connection.commit()
                return True
            row = await (await connection.execute("SELECT current_setting('anybroker.claim', true)")).fetchone()
            await connection.rollback()
            if row is not None and row[0] == str(claim.fence):
                return False
        elif connection.closed:
            raise psycopg.OperationalError("the connection was lost")
        await self._mark("release", claim)
        raise StateError(
            "the handler has ended the transaction of its event (COMMIT or ROLLBACK): its writes and the mark are not "
            "together any more. Leave both to the store; for a part, use 'async with connection.transaction()'"
        )

    async def _end_loan(self, connection: Connection) -> None:
        loan, self._loan = self._loan, None
        if loan is not None:
            await loan.end()
        connection.lent = False

    async def roll_back(self) -> None:
        """For the store: drop the handler's writes."""
        self._over = True
        connection, self._connection = self._connection, None
        if connection is None:
            return
        self._lost = connection.closed
        timer = asyncio.get_running_loop().call_later(self._pool.timeout, connection.cut)
        usable = False
        try:
            await self._end_loan(connection)
            if not connection.closed and connection.info.transaction_status in (
                TransactionStatus.INTRANS,
                TransactionStatus.INERROR,
            ):
                await connection.rollback()
            usable = not connection.closed and connection.info.transaction_status == TransactionStatus.IDLE
        except psycopg.Error:
            pass  # the connection is closed, which rolls back as well
        finally:
            timer.cancel()
            await self._pool.give_back(connection, usable=usable)
