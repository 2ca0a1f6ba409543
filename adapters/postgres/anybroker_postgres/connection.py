"""Connections that end within a time, whatever the server does, and that a handler cannot commit."""

from __future__ import annotations

import asyncio
import os
import socket
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import pq

from anybroker.errors import StateError
from anybroker.kit.client_logs import quiet

from .options import Target
from .statements import KEEPALIVE, settings

if TYPE_CHECKING:
    from psycopg.pq.abc import PGconn

__all__ = ["Connection", "connect", "cut_off", "over", "refused"]

quiet("psycopg")
_GRACE = 1.0
"""Seconds that a server has to cancel a statement, before the connection is cut."""


class Connection(psycopg.AsyncConnection[Any]):
    """An AsyncConnection that can be cut, and lent to a handler."""

    lent = False
    """While a handler has it, it must not end the transaction."""

    def cut(self) -> None:
        """Let every call under way fail at once, also if the server does not answer any more."""
        if not self.closed:
            cut_off(self.pgconn)

    def _cut_if_active(self) -> None:
        if not self.closed and self.pgconn.transaction_status == pq.TransactionStatus.ACTIVE:
            self.cut()

    async def cancel_safe(self, *, timeout: float = 30.0) -> None:
        """As in psycopg, where a cancelled task calls it too; but a server that does not answer is not waited for."""
        asyncio.get_running_loop().call_later(_GRACE, self._cut_if_active)
        await super().cancel_safe(timeout=min(timeout, _GRACE))

    async def commit(self) -> None:
        """As in psycopg; StateError while a handler has the connection."""
        self._refuse_if_lent("commit()")
        await super().commit()

    async def rollback(self) -> None:
        """As in psycopg; StateError while a handler has the connection."""
        self._refuse_if_lent("rollback()")
        await super().rollback()

    async def close(self) -> None:
        """As in psycopg; StateError while a handler has the connection."""
        self._refuse_if_lent("close()")
        await super().close()

    async def set_autocommit(self, value: bool) -> None:
        """As in psycopg; StateError while a handler has the connection."""
        self._refuse_if_lent("set_autocommit()")
        await super().set_autocommit(value)

    def _refuse_if_lent(self, call: str) -> None:
        if self.lent:
            raise refused(call, "async with")


def cut_off(pgconn: PGconn) -> None:
    """Let every call under way on it fail at once."""
    try:
        with socket.socket(fileno=os.dup(pgconn.socket)) as same:
            same.shutdown(socket.SHUT_RDWR)
    except (OSError, psycopg.Error):
        pass  # it had ended before


def refused(call: str, block: str) -> StateError:
    """The error of a handler that wants to end its transaction."""
    return StateError(
        f"{call}: the connection is in the transaction of this event, which the store commits together with its mark "
        f"after the handler has returned. To undo a part of it, use '{block} connection.transaction()'; to undo all, "
        "raise"
    )


def over() -> StateError:
    """The error of a call after that."""
    return StateError("the transaction is over: its handler has ended")


async def connect(target: Target, deadline: float, session: tuple[tuple[str, str], ...] = ()) -> Connection:
    """A connection in autocommit, with these settings. Raises ``psycopg.Error``, ``OSError`` or ``TimeoutError``, at
    the event loop's time ``deadline`` at the latest."""
    connection: Connection | None = None
    try:
        async with asyncio.timeout_at(deadline):
            connection = await Connection.connect(**target.parameters, autocommit=True)
            await connection.execute(settings((*KEEPALIVE, *session)))
    except BaseException:
        if connection is not None:
            connection.cut()
            await connection.close()
        raise
    return connection
