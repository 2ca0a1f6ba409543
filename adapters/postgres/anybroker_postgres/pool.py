"""Connections for handlers' transactions: kept while they are used, and made when they are needed."""

from __future__ import annotations

import asyncio
import time

import psycopg

from anybroker.idempotency import StoreUnavailable

from .connection import Connection, connect
from .failures import not_open, unavailable
from .options import Target

__all__ = ["Pool"]

_IDLE = 300.0
"""Seconds after which a connection that nobody used is closed."""


class Pool:
    """At most ``size`` connections at once. Who finds none free waits its turn; making one takes ``timeout`` seconds at
    most, and its failure says why."""

    def __init__(self, target: Target, size: int, timeout: float) -> None:
        self.target = target
        self.timeout = timeout
        self._places = asyncio.Semaphore(size)
        self._free: list[tuple[Connection, float]] = []
        self._closed = False

    async def take(self, begin: bytes) -> Connection:
        """A connection on which ``begin`` was executed. Raises ``StoreUnavailable``. Give it back."""
        await self._places.acquire()
        try:
            while True:
                if self._closed:
                    raise not_open(self.target)
                deadline = asyncio.get_running_loop().time() + self.timeout
                kept = await self._kept()
                try:
                    connection = kept or await connect(self.target, deadline)
                except TimeoutError as exc:
                    raise StoreUnavailable(
                        f"the idempotency store {self.target}: no connection within {self.timeout:g} s"
                    ) from exc
                except (psycopg.Error, OSError) as exc:
                    raise unavailable(self.target, exc) from exc
                timer = asyncio.get_running_loop().call_at(deadline, connection.cut)
                try:
                    await connection.execute(begin, prepare=False)
                except BaseException as exc:
                    connection.cut()
                    await connection.close()
                    if kept is not None and isinstance(exc, psycopg.OperationalError):
                        continue  # it may have ended while nobody used it
                    if isinstance(exc, psycopg.Error | OSError):
                        raise unavailable(self.target, exc, "beginning a transaction: ") from exc
                    raise
                else:
                    return connection
                finally:
                    timer.cancel()
        except BaseException:
            self._places.release()
            raise

    async def _kept(self) -> Connection | None:
        now = time.monotonic()
        while self._free and now - self._free[0][1] > _IDLE:
            await self._free.pop(0)[0].close()
        return self._free.pop()[0] if self._free else None

    async def give_back(self, connection: Connection, *, usable: bool) -> None:
        """It is free again; closed unless it is usable, which means outside of any transaction."""
        try:
            if usable and not self._closed and not connection.closed:
                self._free.append((connection, time.monotonic()))
            else:
                connection.cut()
                await connection.close()
        finally:
            self._places.release()

    async def close(self) -> None:
        """Close what is free; what is lent is closed when it comes back."""
        self._closed = True
        free, self._free = self._free, []
        for connection, _ in free:
            await connection.close()
