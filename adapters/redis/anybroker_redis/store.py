"""The idempotency store in Redis, for services on many machines."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping, Sequence
from typing import Literal

from redis.exceptions import RedisError

from anybroker.adapter import BrokerUrl
from anybroker.errors import ConfigError
from anybroker.idempotency import Busy, Claim, Done, Key, ParkedRow, StoreUnavailable, read_store_url

from . import parking
from .connecting import Connector
from .deployment import Deployment
from .failures import SETTING, Unsuitable
from .keys import Names
from .operations import ClaimOperation, EndOperation, RedisClaim
from .settings import RedisSettings

__all__ = ["RedisStore"]


class RedisStore:
    """Remembers in Redis which events are done. Services on several machines share it by naming the same server.

    All calls that are made in one tick of the event loop, and while a round trip is under way, are sent together, in
    one call of a Lua script for each kind. The server's clock decides when a lease ends. What the server's persistence
    can lose, the README of this package says.

    :param url: ``redis://user:password@host:6379/0``, or ``rediss://`` for TLS, with the settings of
        :class:`RedisSettings` as options. Several hosts: the one that is the primary now, or the nodes of a cluster, is
        found by asking them. ``redis:///run/redis/redis.sock`` is a Unix socket. ConfigError if it is wrong.
    :param retain: seconds for which done events are remembered; 7 days by default.
    :param prefix: what the names of all keys begin with. Stores that share a server and a prefix share their contents.
    :param timeout: seconds by which every call has ended; 5 by default. A server that has not answered then is down.
    :param eviction: ``"ignore"`` accepts a server whose ``maxmemory-policy`` evicts keys, or does not tell it.
    """

    durable = True

    def __init__(
        self,
        url: str | BrokerUrl,
        *,
        retain: float | None = None,
        prefix: str | None = None,
        timeout: float | None = None,
        eviction: Literal["refuse", "ignore"] | None = None,
    ) -> None:
        given = {"retain": retain, "prefix": prefix, "timeout": timeout, "eviction": eviction}
        parsed, settings = read_store_url(url, RedisSettings, given)
        if parsed.scheme not in ("redis", "rediss"):
            raise ConfigError(SETTING, f"{parsed} is not a Redis URL", "Write redis://host:6379/0, or rediss://.")
        self._connector = Connector(parsed, settings)
        self._names = Names(settings.prefix)
        self._prefix = settings.prefix
        self.retain = settings.retain
        self._timeout = settings.timeout
        self._token = secrets.token_hex(6)
        self._claims = 0
        self._opened = 0
        self._opening: asyncio.Lock | None = None
        self._deployment: Deployment | None = None

    def __repr__(self) -> str:
        return f"<RedisStore {self._connector.url}>"

    async def open(self) -> None:
        """Store.open. ``ConfigError`` for what a person must fix: the password, a privilege, TLS, a server that evicts
        keys, an old one. ``StoreUnavailable`` if no server answers, or only replicas do.

        A store that is open belongs to one event loop: ``ConfigError`` in another. Cancelled: it is not open."""
        if self._deployment is not None and self._deployment.loop is not asyncio.get_running_loop():
            if not self._deployment.loop.is_closed():
                raise ConfigError(SETTING, f"{self!r} is open in another event loop", "Make a store for each.")
            self._opened, self._deployment, self._opening = 0, None, None
        if self._opening is None:
            self._opening = asyncio.Lock()
        async with self._opening:
            if self._deployment is None:
                self._deployment = await self._open()
            self._opened += 1

    async def _open(self) -> Deployment:
        deployment = Deployment(self._connector, self._names)
        try:
            await deployment.open()
            await self._prove(deployment)
        except BaseException as exc:
            await deployment.close()
            cause = exc.__cause__ if isinstance(exc, StoreUnavailable) else exc
            if isinstance(cause, RedisError | OSError | Unsuitable):
                raise await self._connector.explained(cause) from exc
            raise
        return deployment

    async def _prove(self, deployment: Deployment) -> None:
        """Make a claim on each server and take it back, so that a missing privilege is known at the start."""
        loop = deployment.loop
        deadline = loop.time() + self._timeout
        for tag in deployment.tags:
            name = self._names.probe(tag)
            claim = RedisClaim(("", "", "", "probe"), tag, name, 1.0, 1.0)
            made: asyncio.Future[Claim | Busy | Done] = loop.create_future()
            operation = ClaimOperation(claim, made, deadline, self._next_token("probe"))
            deployment.put(operation)
            await made
            undone: asyncio.Future[bool] = loop.create_future()
            deployment.put(EndOperation.undo(operation, deadline, undone))
            await undone

    def _next_token(self, owner: str) -> bytes:
        """Unique to one call."""
        self._claims += 1
        return f"{owner}/{self._token}{self._claims:x}".encode("utf-8", "surrogatepass")

    def _here(self) -> Deployment:
        if self._deployment is None:
            raise StoreUnavailable(f"the idempotency store {self._connector.url} is not open")
        return self._deployment

    async def claim(self, key: Key, owner: str, lease: float, retain: float, /) -> Claim | Busy | Done:
        """Store.claim. Cancelled: a claim that was made is released, or ends with its lease."""
        here = self._here()
        loop = here.loop
        tag, name = self._names.of(key)
        claim = RedisClaim(key, tag, name, lease, retain)
        future: asyncio.Future[Claim | Busy | Done] = loop.create_future()
        here.put(ClaimOperation(claim, future, loop.time() + self._timeout, self._next_token(owner)))
        try:
            return await future
        except asyncio.CancelledError:
            if not future.cancelled() and future.exception() is None and future.result() is claim:
                # The answer had come, and this task was cancelled before it could see it.
                here.put(EndOperation.release(claim, None, loop.time() + self._timeout))
            raise

    async def extend(self, claims: Sequence[Claim], /) -> Sequence[bool]:
        """Store.extend. After an exception, some may have been extended."""
        here = self._here()
        loop = here.loop
        deadline = loop.time() + self._timeout
        futures: list[asyncio.Future[bool]] = []
        for claim in claims:
            assert isinstance(claim, RedisClaim)
            futures.append(loop.create_future())
            here.put(EndOperation.extend(claim, futures[-1], deadline))
        return await asyncio.gather(*futures)

    async def done(self, claim: Claim, /) -> bool:
        """Store.done. Cancelled, or failed: it may be marked."""
        assert isinstance(claim, RedisClaim)
        here = self._here()
        loop = here.loop
        future: asyncio.Future[bool] = loop.create_future()
        here.put(EndOperation.done(claim, future, loop.time() + self._timeout))
        return await future

    async def release(self, claim: Claim, /) -> None:
        """Store.release. Cancelled: it is released all the same, if the server can be reached."""
        assert isinstance(claim, RedisClaim)
        here = self._here()
        loop = here.loop
        future: asyncio.Future[bool] = loop.create_future()
        here.put(EndOperation.release(claim, future, loop.time() + self._timeout))
        await future

    async def purge(self) -> int:
        """Store.purge: nothing to do, because Redis forgets marks by itself, so 0. The server is asked whether it may
        evict keys by now: then the store is down until it may not."""
        await self._here().check()
        return 0

    async def parked(self, place: str, /) -> Mapping[str, int]:
        """ParkingStore.parked."""
        return parking.list_keys(await self._ask(place, b"L"))

    async def park(self, place: str, key: str, event: str, behind: bool, /) -> ParkedRow | None:
        """ParkingStore.park."""
        return parking.park(await self._ask(place, b"B" if behind else b"P", key, event))

    async def unpark(self, place: str, key: str, event: str | None, /) -> int:
        """ParkingStore.unpark."""
        return parking.unpark(await self._ask(place, b"A" if event is None else b"U", key, event or ""))

    async def _ask(self, place: str, kind: bytes, key: str = "", event: str = "") -> bytes:
        here = self._here()
        future: asyncio.Future[bytes] = here.loop.create_future()
        deadline = here.loop.time() + self._timeout
        here.put(parking.ParkOperation(self._prefix, place, kind, key, event, future, deadline))
        return await future

    async def close(self) -> None:
        """Store.close. Ends by the time-out, whatever the server does."""
        if self._opened == 0:
            return
        self._opened -= 1
        if self._opened == 0:
            deployment, self._deployment = self._deployment, None
            if deployment is not None:
                await deployment.close()
