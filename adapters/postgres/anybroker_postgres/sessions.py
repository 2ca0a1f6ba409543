"""Sessions and connections of SQLAlchemy in a handler's transaction. Imported where a handler asks for one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any, Final

import psycopg
from psycopg.pq import TransactionStatus
from sqlalchemy import Connection as SyncConnection
from sqlalchemy import Engine, create_engine, event
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool

from anybroker.errors import StateError
from anybroker.kit.uncancelled import uncancelled

from .connection import Connection
from .failures import unavailable
from .loan import Loan, check_left
from .pool import Pool
from .views import AsyncView, View

__all__ = ["Engines"]

_URL = "postgresql+psycopg://"
_lent: ContextVar[Connection] = ContextVar("anybroker_postgres_lent")
"""The connection whose session an engine is to use; set while it "connects"."""


class Engines:
    """The two engines of a store. They have no connections of their own: each that they make is a view of a handler's,
    which they can neither commit nor roll back nor close.

    An engine asks the server for a few facts when it first connects, and rolls back. That happens on a session that is
    in no transaction."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._lock = asyncio.Lock()
        self._sync: Engine | None = None
        self._async: AsyncEngine | None = None

    async def loan(self, kind: Any) -> Loan:
        """Lending.loan."""
        if issubclass(kind, AsyncSession | AsyncConnection):
            return _AsyncLoan(await self._asynchronous(), kind)
        return _SyncLoan(await self._synchronous(), kind)

    async def _asynchronous(self) -> AsyncEngine:
        async with self._lock:
            if self._async is None:
                engine = create_async_engine(_URL, poolclass=NullPool, pool_reset_on_return=None)

                @event.listens_for(engine.sync_engine, "do_connect")
                def lend(dialect: Any, record: Any, arguments: Any, options: dict[str, Any]) -> None:
                    options["async_creator_fn"] = _view

                async def connect() -> None:
                    await (await engine.connect()).close()

                await self._first(connect)
                self._async = engine
            return self._async

    async def _synchronous(self) -> Engine:
        async with self._lock:
            if self._sync is None:
                engine = create_engine(_URL, poolclass=NullPool, pool_reset_on_return=None)

                @event.listens_for(engine, "do_connect")
                def lend(dialect: Any, record: Any, arguments: Any, options: dict[str, Any]) -> View:
                    return View(_lent.get(), options.get("context"), for_engine=True)

                async def connect() -> None:
                    await _in_thread(lambda: engine.connect().close())

                await self._first(connect)
                self._sync = engine
            return self._sync

    async def _first(self, connect: Callable[[], Awaitable[None]]) -> None:
        connection = await self._pool.take(b"SELECT 1")
        timer = asyncio.get_running_loop().call_later(self._pool.timeout, connection.cut)
        token = _lent.set(connection)
        usable = False
        try:
            await connect()
            usable = connection.info.transaction_status == TransactionStatus.IDLE
        except (DBAPIError, psycopg.Error) as exc:
            raise unavailable(self._pool.target, getattr(exc, "orig", None) or exc) from exc
        finally:
            _lent.reset(token)
            timer.cancel()
            await self._pool.give_back(connection, usable=usable)


async def _view(*arguments: Any, context: Any = None, **options: Any) -> AsyncView:
    return AsyncView(_lent.get(), context)


async def _in_thread(function: Callable[[], object]) -> None:
    """To its end, also if this task is cancelled."""
    await uncancelled(asyncio.ensure_future(asyncio.to_thread(function)))


_SAVEPOINT: Final = "create_savepoint"
"""What a session commits and rolls back is a savepoint."""
_GONE = (
    "the handler has returned after the connection of its session was closed or invalidated, which also follows a "
    "cancelled statement: what it had written is incomplete. Let the error out"
)


class _AsyncLoan:
    """An AsyncSession of any class, or an AsyncConnection."""

    def __init__(self, engine: AsyncEngine, kind: type[AsyncSession | AsyncConnection]) -> None:
        self._engine = engine
        self._kind = kind
        self._connection: AsyncConnection | None = None
        self._session: AsyncSession | None = None
        self._view: Any = None

    async def begin(self, connection: Connection, /) -> object:
        """Loan.begin."""
        token = _lent.set(connection)
        try:
            self._connection = made = await self._engine.connect()
        finally:
            _lent.reset(token)
        self._view = (await made.get_raw_connection()).driver_connection
        await made.begin()
        if issubclass(self._kind, AsyncConnection):
            return made
        self._session = self._kind(bind=made, join_transaction_mode=_SAVEPOINT)
        return self._session

    async def finish(self) -> None:
        """Loan.finish."""
        if self._connection is None or self._connection.closed or self._connection.invalidated:
            raise StateError(_GONE)
        if self._session is not None:
            await self._session.commit()
            await self._session.close()

    async def end(self) -> None:
        """Loan.end."""
        if self._view is not None:
            self._view.end()
        try:
            if self._session is not None:
                await self._session.invalidate()
            if self._connection is not None:
                await self._connection.close()
        except SQLAlchemyError:
            pass  # a task that the handler has left behind is in it: the view refuses what it does


class _SyncLoan:
    """A Session of any class, or a Connection."""

    def __init__(self, engine: Engine, kind: type[Session | SyncConnection]) -> None:
        self._engine = engine
        self._kind = kind
        self._connection: SyncConnection | None = None
        self._session: Session | None = None
        self._view: Any = None

    async def begin(self, connection: Connection, /) -> object:
        """Loan.begin: sends nothing, so it needs no thread."""
        token = _lent.set(connection)
        try:
            self._connection = made = self._engine.connect()
        finally:
            _lent.reset(token)
        self._view = made.connection.driver_connection
        made.begin()
        if issubclass(self._kind, SyncConnection):
            return made
        self._session = self._kind(bind=made, join_transaction_mode=_SAVEPOINT)
        return self._session

    async def finish(self) -> None:
        """Loan.finish."""
        if self._connection is None or self._connection.closed or self._connection.invalidated:
            raise StateError(_GONE)
        check_left(self._view)
        if self._session is not None:
            await _in_thread(self._commit)

    def _commit(self) -> None:
        assert self._session is not None
        self._session.commit()
        self._session.close()

    async def end(self) -> None:
        """Loan.end: sends nothing, so it needs no thread."""
        if self._view is not None:
            self._view.end()
        try:
            if self._session is not None:
                self._session.invalidate()
            if self._connection is not None:
                self._connection.close()
        except SQLAlchemyError:
            pass  # a thread that the handler has left behind is in it: the view refuses what it does
