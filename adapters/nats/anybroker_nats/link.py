"""The connection to NATS: made once, repaired by nats-py, and made anew when nats-py has given it up."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

from anybroker.errors import AnybrokerError, ConfigError, Unavailable
from anybroker.printable import logger

from .client import RawClient
from .failures import CLIENT_ERRORS, FORBIDDEN, ApiError, Refusal, connect_failure, refusal_of, said

__all__ = ["Link", "Watcher"]

_log = logger("anybroker.nats")

_CLOSE: Final = 3.0
"""Seconds that closing may take; a connection that does not answer ends by itself."""
_RECONNECT_WAIT: Final = 0.5
"""Seconds between two tries of nats-py with the same server."""
_TELL: Final = 60.0
"""Seconds between two warnings about one kind of subject that the user may not use."""
_KINDS: Final = 1_000
"""How many kinds of subject are remembered for that."""


class Watcher(Protocol):
    """Is told what becomes of the connection, from the event loop's thread."""

    def lost(self) -> None:
        """The connection is lost: what was written may have arrived, or not."""
        ...

    def back(self) -> None:
        """It is there again, with its subscriptions."""
        ...

    def gone(self) -> None:
        """nats-py has given it up: there will be another client."""
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
        self._asking: dict[str, set[asyncio.Future[Refusal]]] = {}
        """Requests under way, by subject in lower case, as nats-py tells of a refused one."""
        self._inbox_refused: Refusal | None = None
        self._told: dict[str, float] = {}

    @property
    def native(self) -> RawClient | None:
        """nats-py's client; None before the first and after the last."""
        return self._client

    async def connect(self) -> None:
        """Connect, if there is no client. Raises what :func:`connect_failure` says."""
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
                self._refuse(refusal)
                return
            if connected:
                _log.debug("NATS: %s", said(exc))
                return
            failures.append(exc)
            if len(failures) >= len(self._servers):
                raise _GaveUpError  # nats-py itself would go on for ever

        async def lost() -> None:
            if connected and not self._closed:
                _log.warning("the connection to NATS is lost; connecting again")
            for watcher in list(self.watchers):
                watcher.lost()

        async def back() -> None:
            _log.info("connected to NATS again")
            self._inbox_refused = None
            for watcher in list(self.watchers):
                watcher.back()

        async def gone() -> None:
            self._inbox_refused = None
            for watcher in list(self.watchers):
                watcher.gone()

        seconds = 0.9 * self._connect_timeout
        try:
            async with asyncio.timeout(seconds):
                await client.connect(
                    self._servers,
                    error_cb=failed,
                    disconnected_cb=lost,
                    reconnected_cb=back,
                    closed_cb=gone,
                    max_reconnect_attempts=-1,
                    reconnect_time_wait=_RECONNECT_WAIT,  # type: ignore[arg-type]  # seconds, whole or not
                    connect_timeout=seconds / len(self._servers),  # type: ignore[arg-type]  # as above
                    max_outstanding_pings=2,
                    **self._options,
                )
        except (_GaveUpError, ValueError, *CLIENT_ERRORS) as exc:
            await self._end(client)
            found = [connect_failure(each, self._where, self._login) for each in (*failures, exc)]
            error = next((each for each in found if not isinstance(each, Unavailable)), found[0])
            if (
                isinstance(error, Unavailable)
                and isinstance(error.__cause__, ConnectionError)
                and client.verifies_clients
            ):
                # Under TLS 1.3 it refuses a certificate after the handshake, when we have sent something already.
                raise ConfigError(
                    "tls_cert_file",
                    f"NATS at {self._where} refused the client's certificate, or asks for one",
                    "Name a certificate that is valid now, of an authority that the server trusts.",
                ) from error.__cause__
            raise error from error.__cause__
        except BaseException:
            await self._end(client)
            raise
        connected = True
        return client

    def _refuse(self, refusal: Refusal) -> None:
        """The server has dropped one command of ours: whoever waits for its answer is told, and the log, once."""
        now = asyncio.get_running_loop().time()
        if now - self._told.get(refusal.kind, -_TELL) >= _TELL:
            if len(self._told) >= _KINDS:
                self._told.clear()
            self._told[refusal.kind] = now
            _log.warning("NATS refuses this user: %s", refusal.text)
        if not refusal.publishing:
            if refusal.subject.startswith("_inbox."):
                self._inbox_refused = refusal  # no answer to any request will come
            waiting = [future for futures in self._asking.values() for future in futures]
        else:
            waiting = list(self._asking.get(refusal.subject, ()))
        for future in waiting:
            if not future.done():
                future.set_result(refusal)
        for watcher in list(self.watchers):
            watcher.refused(refusal)

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
            raise Unavailable("the connection to NATS is lost, and not there again yet")
        return self._client

    async def api(
        self, operation: str, body: Mapping[str, Any] | None = None, timeout: float | None = None
    ) -> dict[str, Any]:
        """A request to JetStream's API (``$JS.API.<operation>``). Raises ApiError, and what nats-py raises.

        What this user may not ask is an ApiError with the code ``FORBIDDEN``, at once: the server sends no answer.
        ``timeout``: seconds, where it is less than for others.
        """
        client = await self.client()
        payload = b"" if body is None else json.dumps(body).encode()
        if self._inbox_refused is not None:
            raise _forbidden(self._inbox_refused)
        subject = f"$JS.API.{operation}"
        refused: asyncio.Future[Refusal] = asyncio.get_running_loop().create_future()
        others = self._asking.setdefault(subject.lower(), set())
        others.add(refused)
        request = asyncio.ensure_future(client.request(subject, payload, timeout=timeout or self.timeout))
        try:
            either: set[asyncio.Future[Any]] = {request, refused}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if refused.done() and not request.done():
                raise _forbidden(refused.result())
            reply = await request
        finally:
            others.discard(refused)
            if not others:
                self._asking.pop(subject.lower(), None)
            if not request.done():
                request.cancel()
        try:
            answer: Any = json.loads(reply.data)
        except (ValueError, RecursionError) as exc:
            raise Unavailable(f"NATS answered {operation} with what is not JSON") from exc
        if not isinstance(answer, dict):
            raise Unavailable(f"NATS answered {operation} with what is not a JSON object")
        if "error" in answer:
            raise ApiError(answer["error"])
        return answer

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
            closing.exception()  # looked at: what is closed has nothing more to say


def _forbidden(refusal: Refusal) -> ApiError:
    return ApiError({"code": FORBIDDEN, "description": f"this user has no permission: {refusal.text}"})
