"""The session of a transaction as another connection object, for a handler that cannot use the store's own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import psycopg
from psycopg.adapt import AdaptersMap

from .connection import Connection, cut_off, over, refused

if TYPE_CHECKING:
    from psycopg.abc import AdaptContext, PQGen

__all__ = ["AsyncView", "View"]

_T = TypeVar("_T")


class AsyncView(Connection):
    """An AsyncConnection on the session of another one, for an engine of SQLAlchemy.

    While that one is lent to a handler, this one cannot end its transaction. After :meth:`end` it does nothing: to
    commit, to roll back and to close it have no effect, and statements are a StateError.
    """

    def __init__(self, of: Connection, context: AdaptContext | None = None) -> None:
        self._before = of.pgconn.notice_handler, of.pgconn.notify_handler
        super().__init__(of.pgconn)
        self._autocommit = True
        self._adapters = AdaptersMap(context.adapters) if context is not None else None
        self.prepare_threshold = None  # the names of prepared statements are those of the other one
        self.lock = of.lock
        self.lent = of.lent
        self._over = False

    def __del__(self, *_: Any) -> None:
        """It holds nothing that is to be closed."""

    def end(self) -> None:
        """Its handler has ended."""
        self._over = True
        self.pgconn.notice_handler, self.pgconn.notify_handler = self._before

    @property
    def closed(self) -> bool:
        """Also after :meth:`end`."""
        return self._over or super().closed

    async def wait(self, gen: PQGen[_T], *more: Any, **options: Any) -> _T:
        """As in psycopg, which does all that it sends in here."""
        if self._over:
            raise over()
        return await super().wait(gen, *more, **options)

    async def commit(self) -> None:
        """Connection.commit."""
        if not self._over:
            await super().commit()

    async def rollback(self) -> None:
        """Connection.rollback."""
        if not self._over:
            await super().rollback()

    async def close(self) -> None:
        """The engine lets go: the session stays open."""


class View(psycopg.Connection[Any]):
    """A Connection on the session of an asynchronous one; otherwise as :class:`AsyncView`.

    :param for_engine: an engine of SQLAlchemy has it, and may close it, which has no effect.
    """

    def __init__(self, of: Connection, context: AdaptContext | None = None, *, for_engine: bool = False) -> None:
        self._before = of.pgconn.notice_handler, of.pgconn.notify_handler
        super().__init__(of.pgconn)
        self._autocommit = True
        self._adapters = AdaptersMap(context.adapters) if context is not None else None
        self.prepare_threshold = None  # the names of prepared statements are those of the other one
        self._lent = of.lent
        self._for_engine = for_engine
        self._over = False

    def __del__(self, *_: Any) -> None:
        """It holds nothing that is to be closed."""

    def in_use(self) -> bool:
        """Whether a thread is in a statement."""
        if self.lock.acquire(blocking=False):
            self.lock.release()
            return False
        return True

    def end(self) -> None:
        """Its handler has ended. A thread that it has left behind in a statement is cut off."""
        self._over = True
        if self.in_use():
            cut_off(self.pgconn)
        self.pgconn.notice_handler, self.pgconn.notify_handler = self._before

    @property
    def closed(self) -> bool:
        """Also after :meth:`end`."""
        return self._over or super().closed

    def wait(self, gen: PQGen[_T], *more: Any, **options: Any) -> _T:
        """As in psycopg, which does all that it sends in here."""
        if self._over:
            raise over()
        return super().wait(gen, *more, **options)

    def commit(self) -> None:
        """As in psycopg; StateError while a handler has it."""
        if not self._over:
            self._refuse_if_lent("commit()")
            super().commit()

    def rollback(self) -> None:
        """As in psycopg; StateError while a handler has it."""
        if not self._over:
            self._refuse_if_lent("rollback()")
            super().rollback()

    def close(self) -> None:
        """The session stays open; StateError while a handler has it."""
        if not self._over and not self._for_engine:
            self._refuse_if_lent("close()")

    def set_autocommit(self, value: bool) -> None:
        """As in psycopg; StateError while a handler has it."""
        self._refuse_if_lent("set_autocommit()")
        super().set_autocommit(value)

    def _refuse_if_lent(self, call: str) -> None:
        if self._lent:
            raise refused(call, "with")
