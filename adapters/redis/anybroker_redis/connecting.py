"""Connections to one server, and whether that server can be the store."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

from redis.asyncio.connection import AbstractConnection, Connection, SSLConnection, UnixDomainSocketConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, ReadOnlyError, RedisError, ResponseError

from anybroker.adapter import BrokerUrl
from anybroker.errors import ConfigError
from anybroker.kit.tls import tls_refusal
from anybroker.printable import logger

from .failures import SETTING, Unsuitable, config_error, unavailable
from .operations import Call
from .settings import RedisSettings

__all__ = ["Address", "Connector", "Link"]

_log = logger("anybroker.redis")

Address = tuple[str, int]
"""Host and port; the path of a Unix socket and 0."""
_OLDEST = (7, 0)


class Link:
    """A connection to a server that can be the store."""

    def __init__(self, connection: AbstractConnection, check: Callable[[Link], Awaitable[None]]) -> None:
        self.connection = connection
        self._check = check
        self.cluster = False
        """Whether the server is a node of a cluster."""

    async def ask(self, *command: bytes | int) -> Any:
        """One command, one answer. What redis-py raises."""
        await self.connection.send_command(*command)
        return await self.connection.read_response()

    async def run(self, calls: Sequence[Call]) -> list[bytes | ResponseError]:
        """All these scripts in one round trip, a second one for those that the server does not have yet. Raises what
        redis-py raises for a lost connection, which is closed then."""
        answers = await self._send([_packed(b"EVALSHA", script.sha, *rest) for script, *rest, _ in calls])
        unknown = [n for n, answer in enumerate(answers) if isinstance(answer, NoScriptError)]
        if unknown:
            again = [calls[n] for n in unknown]
            texts = await self._send([_packed(b"EVAL", script.text, *rest) for script, *rest, _ in again])
            for n, text in zip(unknown, texts, strict=True):
                answers[n] = text
        return answers

    async def check(self) -> None:
        """Raises ``Unsuitable`` if the server cannot be the store any more, or what redis-py raises."""
        await self._check(self)

    async def _send(self, commands: list[bytes]) -> list[bytes | ResponseError]:
        await self.connection.send_packed_command(commands)
        answers: list[bytes | ResponseError] = []
        for _ in commands:
            try:
                answer: Any = await self.connection.read_response()
                answers.append(answer)
            except ResponseError as exc:
                answers.append(exc)
        return answers

    async def close(self) -> None:
        """Close without waiting for the server."""
        try:
            await self.connection.disconnect(nowait=True)
        except RedisError as exc:
            _log.debug("a connection could not be closed: %s", exc)


def _packed(command: bytes, script: bytes, keys: Sequence[bytes], arguments: Sequence[bytes]) -> bytes:
    """EVAL or EVALSHA in Redis's protocol. redis-py's own way costs three times as much for many arguments."""
    parts = (command, script, b"%d" % len(keys), *keys, *arguments)
    return b"*%d\r\n%b" % (len(parts), b"".join([b"$%d\r\n%b\r\n" % (len(part), part) for part in parts]))


class Connector:
    """Makes connections to the servers of a URL, and says once what is worth knowing of them."""

    def __init__(self, url: BrokerUrl, settings: RedisSettings) -> None:
        self.url = url
        self.settings = settings
        self._tls = settings.tls_context(url, "rediss")
        self.db = settings.db
        if url.hosts:
            if "db" in settings.model_fields_set:
                raise ConfigError(f"{SETTING} {url.scheme}.db", "is for a Unix socket", f"Write {url.scheme}://host/0.")
            self.addresses = [(host, port or 6379) for host, port in url.hosts]
            self.db = _database(url)
        elif len(url.path) > 1 and url.scheme == "redis":
            self.addresses = [(url.path, 0)]
        else:
            raise ConfigError(SETTING, f"{url} names no server", f"Write {url.scheme}://host:6379/0.")
        self._said: set[str] = set()

    def name(self, address: Address) -> str:
        """The address in a message."""
        host, port = address
        return f"{host}:{port}" if port else host

    async def connect(self, addresses: Sequence[Address], deadline: float) -> Link:
        """A connection to the first of these that can be the store. ``deadline``: on the loop's clock.

        Raises ``TimeoutError``, ``Unsuitable``, or what redis-py raises: of the last server tried."""
        failure: Exception = RedisConnectionError("there is no server to connect to")
        now = asyncio.get_running_loop().time
        for n, address in enumerate(addresses):
            share = (deadline - now()) / (len(addresses) - n)
            try:
                async with asyncio.timeout(share):
                    return await self._connect(address)
            except (RedisError, OSError, Unsuitable) as exc:  # TimeoutError is an OSError
                failure = exc
        raise failure

    async def _connect(self, address: Address) -> Link:
        where = self.name(address)
        link = Link(self._connection(address), partial(self._check_memory, where))
        try:
            await link.connection.connect()  # type: ignore[no-untyped-call]
            await self._check(where, link)
        except BaseException:
            await link.close()
            raise
        return link

    def _connection(self, address: Address) -> AbstractConnection:
        host, port = address
        # Without redis-py's time-outs and retries: the store has its own.
        common: dict[str, Any] = {
            "db": self.db,
            "username": self.url.username,
            "password": self.url.password,
            "socket_timeout": None,
            "socket_connect_timeout": None,
            "protocol": 2,
        }
        if not port:
            return UnixDomainSocketConnection(path=host, **common)
        if self._tls is None:
            return Connection(host=host, port=port, **common)
        connection = SSLConnection(host=host, port=port, **common)
        connection.ssl_context.context = self._tls
        return connection

    async def _check(self, where: str, link: Link) -> None:
        """Raises ``Unsuitable``, or what redis-py raises."""
        try:
            answer = await link.ask(b"HELLO")
        except ResponseError as exc:
            if "unknown command" not in str(exc).lower():
                raise
            raise Unsuitable(f"{where} is older than Redis {_written(_OLDEST)} ({exc})", "Use a newer server.") from exc
        hello = dict(zip(answer[::2], answer[1::2], strict=True))
        version = hello[b"version"].decode()
        if tuple(int(part) for part in version.split(".")[:2] if part.isdigit()) < _OLDEST:
            raise Unsuitable(f"{where} is Redis {version}", f"Use Redis {_written(_OLDEST)} or later, or Valkey.")
        if hello[b"mode"] == b"sentinel":
            raise Unsuitable(f"{where} is a Sentinel", "Name the servers that it watches: redis://one,two,three/0.")
        link.cluster = hello[b"mode"] == b"cluster"
        # A replica in a cluster knows the map too, and says MOVED to anything else.
        if hello[b"role"] != b"master" and not link.cluster:
            raise ReadOnlyError(f"{where} is a replica, which takes no writes")
        await self._check_memory(where, link)

    async def _check_memory(self, where: str, link: Link) -> None:
        try:
            info = _fields(await link.ask(b"INFO", b"memory")) | _fields(await link.ask(b"INFO", b"persistence"))
        except ResponseError as exc:
            if self.settings.eviction == "refuse":
                self._warn(
                    "policy",
                    f"{where} does not tell its maxmemory-policy ({exc}). If it may evict keys, what was handled is "
                    "handled again. Allow the user INFO; or check it, and say so by eviction=ignore in the store's URL",
                )
            return
        policy = info.get("maxmemory_policy", "noeviction")
        if policy != "noeviction" and self.settings.eviction == "refuse":
            raise Unsuitable(
                f"{where} evicts keys when its memory is full (maxmemory-policy {policy}): what was handled would be "
                "handled again",
                "Set maxmemory-policy noeviction, use a server of its own, or accept that: eviction=ignore in the "
                "store's URL.",
            )
        if info.get("aof_enabled") == "0":
            self._warn(
                "appendonly",
                f"{where} keeps no append-only file (appendonly no): when it restarts, what was handled since its last "
                "snapshot is handled again. Set appendonly yes",
            )
            return
        try:
            answer = await link.ask(b"CONFIG", b"GET", b"appendfsync")
        except ResponseError:
            return  # it is 'everysec' unless somebody has changed it
        if b"no" in answer[1:]:
            self._warn(
                "appendfsync",
                f"{where} leaves it to the system when its append-only file reaches the disk (appendfsync no): a loss "
                "of power makes what was handled in the last half minute be handled again. Set appendfsync everysec",
            )

    def _warn(self, what: str, text: str) -> None:
        if what not in self._said:
            self._said.add(what)
            _log.warning("the idempotency store %s", text)

    async def explained(self, exc: Exception) -> Exception:
        """Why the store cannot be opened: a ``ConfigError`` or ``StoreUnavailable``."""
        error = config_error(exc, str(self.url), self.settings.prefix)
        if error is None and self._tls is not None and isinstance(exc, RedisConnectionError):
            error = await _refusal(self.addresses, self._tls)
        return error or unavailable(exc, str(self.url))


async def _refusal(addresses: Sequence[Address], context: ssl.SSLContext) -> ConfigError | None:
    for host, port in addresses:
        error = await tls_refusal(host, port, context)
        if error is not None:
            return error
    return None


def _database(url: BrokerUrl) -> int:
    text = url.path.removeprefix("/")
    if not text:
        return 0
    if not (text.isascii() and text.isdigit() and len(text) < 6):
        raise ConfigError(SETTING, f"{url}: {text!r} is not a database's number", f"Write {url.scheme}://host:6379/0.")
    return int(text)


def _fields(info: bytes) -> dict[str, str]:
    """What INFO says."""
    lines = (line.partition(":") for line in info.decode(errors="replace").splitlines())
    return {name: value for name, _, value in lines}


def _written(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))
