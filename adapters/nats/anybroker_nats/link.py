"""The connection to NATS: made once, repaired by nats-py, and made anew when nats-py has given up."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

from anybroker.errors import AnybrokerError, ConfigError, Unavailable
from anybroker.kit.client_logs import quiet
from anybroker.printable import logger

from .client import RawClient
from .failures import CLIENT_ERRORS, ApiError, connect_failure, said
from .refusals import Refusal, Refusals, forbidden, refusal_of

__all__ = ["Link", "Watcher"]

_log = logger("anybroker.nats")

_CLOSE: Final = 3.0
"""Seconds that closing may take; a connection that does not answer ends by itself."""
LOST: Final = "the connection to NATS is lost, and not made again yet"
"""Why nothing is sent and received meanwhile."""
_RECONNECT_WAIT: Final = 0.5
"""Seconds between two tries of nats-py with the same server."""
_NOT_FOUND: Final = 404


class Watcher(Protocol):
    """Is told what happens to the connection, from the event loop's thread."""

    def lost(self) -> None:
        """The connection is lost: what was written may have arrived, or not."""
        ...

    def back(self) -> None:
        """It exists again, with its subscriptions."""
        ...

    def gone(self) -> None:
        """nats-py has given up: there will be another client."""
        ...

    def refused(self, refusal: Refusal) -> None:
        """The server says that this user may not use a subject: what was published there is not stored."""
        ...


class _GaveUpError(Exception):
    """Raised through nats-py's error callback: the first connection has failed with every server."""


class Link:
    """One nats-py client, and requests to JetStream's API."""

    def __init__(
        self,
        servers: Sequence[tuple[str, int]],
        options: dict[str, Any],
        login: str,
        connect_timeout: float,
        request_timeout: float,
    ) -> None:
        self._where = ", ".join(f"{host}:{port}" for host, port in servers)
        self._servers = [f"nats://{f'[{host}]' if ':' in host else host}:{port}" for host, port in servers]
        self._options = options
        self._login = login
        self._connect_timeout = connect_timeout
        self.timeout = request_timeout
        self._lock = asyncio.Lock()
        self._client: RawClient | None = None
        self._closed = False
        self.watchers: set[Watcher] = set()
        self._refusals = Refusals()

    @property
    def native(self) -> RawClient | None:
        """nats-py's client; None before the first and after the last."""
        return self._client

    async def connect(self) -> None:
        """Connect, if there is no client. Raises what :func:`connect_failure` says."""
        quiet("nats")
        async with self._lock:
            if self._closed:
                raise Unavailable("the NATS adapter is closed")
            if self._client is None or self._client.is_closed:
                self._client = await self._connect()

    async def _connect(self) -> RawClient:
        client = RawClient("tls" in self._options)
        failures: list[Exception] = []
        connected = False

        async def failed(exc: Exception) -> None:
            if (refusal := refusal_of(exc)) is not None:
                self._refused(refusal)
            elif connected:
                _log.debug("NATS: %s", said(exc))
            else:
                failures.append(exc)
                if len(failures) >= len(self._servers):
                    raise _GaveUpError  # nats-py itself would never stop trying

        async def lost() -> None:
            if connected and not self._closed:
                _log.warning("the connection to NATS is lost; connecting again")
            for watcher in list(self.watchers):
                watcher.lost()

        seconds = 0.9 * self._connect_timeout
        try:
            async with asyncio.timeout(seconds):
                await client.connect(
                    self._servers,
                    error_cb=failed,
                    disconnected_cb=lost,
                    reconnected_cb=self._back,
                    closed_cb=self._gone,
                    max_reconnect_attempts=-1,
                    reconnect_time_wait=_RECONNECT_WAIT,  # type: ignore[arg-type]  # seconds, whole or not
                    connect_timeout=seconds / len(self._servers),  # type: ignore[arg-type]  # as above
                    max_outstanding_pings=2,
                    **self._options,
                )
        except (_GaveUpError, ValueError, *CLIENT_ERRORS) as exc:
            await self._end(client)
            error = self._failure([*failures, exc], client)
            raise error from error.__cause__
        except BaseException:
            await self._end(client)
            raise
        connected = True
        return client

    def _failure(self, failures: Sequence[Exception], client: RawClient) -> AnybrokerError:
        """The error that says most about why no server took the connection."""
        errors = [connect_failure(each, self._where, self._login) for each in failures]
        error = next((each for each in errors if not isinstance(each, Unavailable)), errors[0])
        cut_off = isinstance(error, Unavailable) and isinstance(error.__cause__, ConnectionError)
        if not (cut_off and client.verifies_clients):
            return error
        # With TLS 1.3 it refuses a certificate after the handshake, when we have sent something already.
        refused = ConfigError(
            "tls_cert_file",
            f"NATS at {self._where} refused the client's certificate, or asks for one",
            "Name a certificate that is valid now, of an authority that the server trusts.",
        )
        refused.__cause__ = error.__cause__
        return refused

    async def _back(self) -> None:
        _log.info("connected to NATS again")
        self._refusals.new_connection()
        for watcher in list(self.watchers):
            watcher.back()

    async def _gone(self) -> None:
        self._refusals.new_connection()
        for watcher in list(self.watchers):
            watcher.gone()

    def _refused(self, refusal: Refusal) -> None:
        self._refusals.tell(refusal)
        for watcher in list(self.watchers):
            watcher.refused(refusal)

    @property
    def hindrance(self) -> str | None:
        """That the connection is lost, and not made again yet; None while it is there."""
        client = self._client
        return None if client is None or self._closed or client.is_connected else LOST

    async def client(self) -> RawClient:
        """The client, connected at this moment. Raises ``Unavailable``."""
        if self._client is None or self._client.is_closed:
            try:
                await self.connect()
            except AnybrokerError as exc:
                if isinstance(exc, Unavailable):
                    raise
                raise Unavailable(str(exc)) from exc.__cause__
        assert self._client is not None
        if not self._client.is_connected:
            raise Unavailable(LOST)
        return self._client

    async def api(
        self, operation: str, body: Mapping[str, Any] | None = None, timeout: float | None = None
    ) -> dict[str, Any]:
        """A request to JetStream's API (``$JS.API.<operation>``). Raises ApiError, and what nats-py raises.

        What this user may not ask is an ApiError with the code ``FORBIDDEN``, at once: the server sends no answer.
        ``timeout``: seconds, where it is less than usual.
        """
        client = await self.client()
        payload = b"" if body is None else json.dumps(body).encode()
        subject = f"$JS.API.{operation}"
        with self._refusals.of_request(subject) as refused:
            request = asyncio.ensure_future(client.request(subject, payload, timeout=timeout or self.timeout))
            try:
                either: set[asyncio.Future[Any]] = {request, refused}
                await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
                if refused.done() and not request.done():
                    raise forbidden(refused.result())
                reply = await request
            finally:
                if not request.done():
                    request.cancel()
        return _content(operation, reply.data)

    async def find(self, operation: str) -> dict[str, Any] | None:
        """A request as above; None where what it is about does not exist."""
        try:
            return await self.api(operation)
        except ApiError as exc:
            if exc.code == _NOT_FOUND:
                return None
            raise

    async def close(self) -> None:
        """Close the connection, in ``_CLOSE`` seconds at most. Idempotent."""
        self._closed = True
        client, self._client = self._client, None
        if client is not None:
            await self._end(client)

    async def _end(self, client: RawClient) -> None:
        closing = asyncio.ensure_future(client.close())
        await asyncio.wait({closing}, timeout=_CLOSE)
        client.abort()  # where it could not be flushed
        if not closing.cancel() and not closing.cancelled():
            closing.exception()  # retrieved, so that asyncio does not log it


def _content(operation: str, data: bytes) -> dict[str, Any]:
    """What an answer of the API says. Raises ApiError for an error in it, ``Unavailable`` for what cannot be read."""
    try:
        answer: Any = json.loads(data)
    except (ValueError, RecursionError) as exc:
        raise Unavailable(f"NATS answered {operation} with what is not JSON") from exc
    if not isinstance(answer, dict):
        raise Unavailable(f"NATS answered {operation} with what is not a JSON object")
    if "error" in answer:
        raise ApiError(answer["error"])
    return answer
