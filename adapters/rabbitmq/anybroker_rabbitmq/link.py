"""One connection to RabbitMQ, which is made again on demand after it was lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, ClassVar

import aio_pika
from aio_pika.abc import AbstractConnection
from aiormq.channel import Channel
from aiormq.connection import Connection

from anybroker.errors import AnybrokerError, Unavailable
from anybroker.kit.client_logs import quiet
from anybroker.kit.tls import tls_refusal
from anybroker.printable import logger

from .failures import CLIENT_ERRORS, amqp_errors, check_cancelled, connect_failure
from .transport import ReadableTransport

__all__ = ["Link", "end_channel"]

_log = logger("anybroker.rabbitmq")

_CLOSE = 3.0
"""Seconds that RabbitMQ has to confirm that a channel or connection is closed; without an answer it is dropped."""


async def end_channel(channel: Channel) -> None:
    """Close a channel; returns when the broker has answered, or will not. Raises nothing but a cancellation."""
    try:
        await channel.close(timeout=_CLOSE)
    except (asyncio.CancelledError, *CLIENT_ERRORS):
        pass  # it ends with its connection; aiormq cancels calls on a connection that is lost meanwhile
    check_cancelled()


class _Connection(aio_pika.Connection):
    """One whose reader survives a message that it cannot read."""

    blocked: ClassVar[Callable[[str | None], None]]

    def __init__(self, url: Any, **options: Any) -> None:
        super().__init__(url, **options)
        self.kwargs["transport_factory"] = ReadableTransport(type(self).blocked)


class Link:
    """One connection. A Bus has two: RabbitMQ stops reading from one that publishes while memory or disk run out, and
    acknowledgements must not wait for that."""

    def __init__(
        self, servers: Sequence[tuple[str, int]], options: dict[str, Any], connect_timeout: float, timeout: float
    ) -> None:
        self._servers = servers
        self._options = options
        self._connect_timeout = connect_timeout
        self.timeout = timeout
        self._lock = asyncio.Lock()
        self._connection: AbstractConnection | None = None
        self._closed = False
        self._class = type("_Connection", (_Connection,), {"blocked": staticmethod(self._blocked)})
        self.hindrance: str | None = None
        """Why the broker reads nothing from this connection now; None while it reads."""

    def _blocked(self, why: str | None) -> None:
        if why is not None:
            self.hindrance = f"RabbitMQ takes no events now: it is {why} (connection.blocked)"
            _log.warning("%s. Publishing waits; consuming goes on", self.hindrance)
        elif self.hindrance is not None:
            self.hindrance = None
            _log.warning("RabbitMQ takes events again")

    @property
    def native(self) -> AbstractConnection | None:
        """aio_pika's connection; None before the first one, and once closed."""
        return self._connection

    async def connect(self) -> None:
        """Connect, if there is no open connection. Raises what :func:`connect_failure` says of the last server."""
        quiet("aio_pika", "aiormq")
        async with self._lock:
            if self._closed:
                raise Unavailable("the RabbitMQ adapter is closed")
            if self._connection is not None and not _transport(self._connection).is_opened:
                await self._drop()
            if self._connection is None:
                self._connection = await self._connect_to_any()

    async def _connect_to_any(self) -> AbstractConnection:
        failure: AnybrokerError | None = None
        seconds = 0.9 * self._connect_timeout / len(self._servers)
        for host, port in self._servers:
            try:
                connection: AbstractConnection = await aio_pika.connect(
                    host=host, port=port, timeout=seconds, connection_class=self._class, **self._options
                )
            except (asyncio.CancelledError, *CLIENT_ERRORS) as exc:
                check_cancelled()
                failure = connect_failure(exc, f"{host}:{port}", self._options["virtualhost"])
                failure.__cause__ = exc
                context = self._options.get("ssl_context")
                if context is not None and isinstance(failure, Unavailable) and not isinstance(exc, TimeoutError):
                    failure = await tls_refusal(host, port, context) or failure
            else:
                self.hindrance = None  # that was the last connection's; the broker tells this one when it publishes
                return connection
        assert failure is not None
        raise failure

    async def transport(self) -> Connection:
        """The open connection of aiormq, which aio_pika is built on. Raises ``Unavailable``."""
        connection = self._connection
        if connection is None or not _transport(connection).is_opened:
            try:
                await self.connect()
            except AnybrokerError as exc:
                if isinstance(exc, Unavailable):
                    raise
                raise Unavailable(str(exc)) from exc.__cause__
            connection = self._connection
            assert connection is not None
        return _transport(connection)

    async def channel(self, *, confirms: bool = False) -> Channel:
        """Another channel; with ``confirms`` it confirms publishes and raises for what is returned."""
        transport = await self.transport()
        with amqp_errors("opening a channel"):
            channel = await transport.channel(
                publisher_confirms=confirms, on_return_raises=confirms, timeout=self.timeout
            )
        assert isinstance(channel, Channel)
        return channel

    @asynccontextmanager
    async def scratch(self, doing: str, *, confirms: bool = False) -> AsyncIterator[Channel]:
        """A channel for a few requests; errors inside become ours. A refused request closes it."""
        channel = await self.channel(confirms=confirms)
        try:
            with amqp_errors(doing):
                yield channel
        finally:
            await end_channel(channel)

    async def close(self) -> None:
        """Close the connection, in ``_CLOSE`` seconds at most. Idempotent."""
        self._closed = True
        await self._drop()

    async def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            closing = asyncio.ensure_future(connection.close())
            await asyncio.wait({closing}, timeout=_CLOSE)
            if not closing.cancel() and not closing.cancelled():
                closing.exception()  # asyncio would log it; the connection is closed either way


def _transport(connection: AbstractConnection) -> Connection:
    transport = connection.transport
    assert transport is not None
    assert isinstance(transport.connection, Connection)
    return transport.connection
