"""The stores of one Bus: choosing the default store, opening and closing stores, and extending claims."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path

from ..adapter import BrokerUrl
from ..config.registry import load_entry
from ..config.settings import nearest, parse_url
from ..errors import BrokerError, ConfigError
from ..printable import logger
from ._parking import ParkingStore
from ._store import Claim, Store
from .memory import MemoryStore
from .sqlite import SqliteStore

__all__ = ["Keeper", "Stores", "make_store"]

_log = logger("anybroker.store")

GROUP = "anybroker.stores"
"""Entry points of other stores, by URL scheme: functions of a BrokerUrl."""
DEFAULT_FILE = "anybroker-idempotency.db"
_OUTAGES = (BrokerError, OSError)  # as in the middleware: anything else is not an outage, but a bug in the store
_PURGE_EVERY = 60.0
"""Seconds."""


class Keeper:
    """One store in one Bus. Extends the held claims in one call every third of the shortest lease, and purges."""

    def __init__(self, store: Store, owner: str) -> None:
        self.store = store
        self.owner = owner
        self.held: dict[Claim, None] = {}
        """The claims whose handlers run."""
        self.lost = 0
        """Claims that another owner took over while their handler ran."""
        self._shortest = 20.0
        self._tasks: list[asyncio.Task[None]] = []

    def lease(self, seconds: float) -> None:
        """A handler needs leases of this many seconds."""
        self._shortest = min(self._shortest, seconds)

    async def open(self) -> None:
        """Open the store, and start extending and purging. Does nothing the second time."""
        if self._tasks:
            return
        await self.store.open()
        self._tasks = [
            asyncio.create_task(self._extend(), name="anybroker claims"),
            asyncio.create_task(self._purge(), name="anybroker purge"),
        ]

    async def close(self) -> None:
        """Stop, and close the store if it was opened."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
            await self.store.close()

    async def _extend(self) -> None:
        while True:
            await asyncio.sleep(self._shortest / 3)
            claims = list(self.held)
            if not claims:
                continue
            try:
                kept = list(zip(claims, await self.store.extend(claims), strict=True))
            except _OUTAGES as exc:  # the claims last until their lease ends
                _log.warning("%d claims could not be extended: %s", len(claims), exc)
                continue
            except Exception:  # noqa: BLE001 - a bug in the store must not end this task
                _log.exception("%d claims could not be extended: the store %r failed", len(claims), self.store)
                continue
            for claim, ours in kept:
                if not ours and claim in self.held:
                    del self.held[claim]
                    self.lost += 1
                    _log.warning("%r was taken over while its handler ran: its result will not count", claim)

    async def _purge(self) -> None:
        pause = _PURGE_EVERY
        while True:
            await asyncio.sleep(pause)
            try:
                more = await self.store.purge()
            except _OUTAGES as exc:  # the next round tries again
                _log.warning("old entries could not be purged: %s", exc)
                more = 0
            except Exception:  # noqa: BLE001 - a bug in the store must not end this task
                _log.exception("old entries could not be purged: the store %r failed", self.store)
                more = 0
            pause = 0.05 if more else _PURGE_EVERY


class Stores:
    """The idempotency stores that the handlers of one Bus use.

    :param configured: ``Bus(idempotency=)`` or the configured value: a store, its URL, or None.
    :param broker: the broker's URL, if any.
    :param durable: whether the broker keeps events when its process ends.
    :param service: the service's name, for the owner of claims.
    """

    def __init__(self, configured: Store | str | None, broker: BrokerUrl | None, durable: bool, service: str) -> None:
        self._configured = configured
        self._broker = broker
        self._durable = durable
        self._owner = f"{service}-{os.getpid()}-{secrets.token_hex(4)}"
        self._default: Store | None = None
        self._keepers: dict[int, Keeper] = {}

    def use(self, store: Store | None) -> Keeper:
        """The keeper of this store, or of the Bus's default store. Raises ConfigError."""
        if store is None:
            if self._default is None:
                self._default = self._choose()
            store = self._default
        keeper = self._keepers.get(id(store))
        if keeper is None:
            keeper = self._keepers[id(store)] = Keeper(store, self._owner)
            if self._durable and not store.durable:
                _log.warning(
                    "the idempotency store is in memory while the broker is durable: after a restart, and in other "
                    "processes, copies of what was handled are handled again. Name one that lasts: "
                    "ANYBROKER_IDEMPOTENCY=sqlite:///shop-idempotency.db"
                )
        return keeper

    def parking(self, setting: str) -> ParkingStore:
        """The Bus's default store, for parked keys. Raises ConfigError where it cannot remember them, or would forget
        them before the broker forgets their events."""
        store = self.use(None).store
        remedy = "Set ANYBROKER_IDEMPOTENCY, or 'idempotency' in anybroker.toml, to one, such as sqlite:///shop.db."
        if not isinstance(store, ParkingStore):
            raise ConfigError(setting, f"the idempotency store, a {type(store).__name__}, has no parked keys", remedy)
        if self._durable and not store.durable:
            raise ConfigError(
                setting, "the idempotency store is in memory, and would forget which keys are parked", remedy
            )
        return store

    def _choose(self) -> Store:
        if isinstance(self._configured, str):
            return make_store(self._configured)
        if self._configured is not None:
            return self._configured
        if not self._durable:
            return MemoryStore()
        broker = self._broker
        if broker is not None and not broker.hosts and len(broker.path) > 1:  # the broker is a file on this machine
            file = Path(broker.path[1:])
            return SqliteStore(file.with_name(f"{file.stem}-idempotency.db"))
        store = SqliteStore(DEFAULT_FILE)
        _log.warning(
            "no idempotency store is set: using the file %s, which only processes of this machine share. Set "
            "ANYBROKER_IDEMPOTENCY, or 'idempotency' in anybroker.toml",
            store.path,
        )
        return store

    async def open(self) -> None:
        """Open the stores in use that are not open yet. Raises what they raise."""
        for keeper in self._keepers.values():
            await keeper.open()

    async def close(self) -> None:
        """Close all stores; raises the last error."""
        failure: Exception | None = None
        for keeper in self._keepers.values():
            try:
                await keeper.close()
            except Exception as exc:  # noqa: BLE001 - the others must be closed first
                if failure is not None:
                    _log.error("an idempotency store could not be closed", exc_info=failure)
                failure = exc
        if failure is not None:
            raise failure


def make_store(url: str) -> Store:
    """The store of a URL: ``memory://``, ``sqlite:///file.db``, or one from the entry-point group
    ``anybroker.stores``. Raises ConfigError, also for a client library that is not installed."""
    try:
        parsed = parse_url(url)
    except ConfigError as exc:
        raise ConfigError("idempotency", exc.problem, "Write sqlite:///shop-idempotency.db or memory://.") from None
    registered = {entry.name: entry for entry in entry_points(group=GROUP)}
    factory = _BUILT_IN.get(parsed.scheme)
    if factory is None:
        if parsed.scheme not in registered:
            raise ConfigError(
                "idempotency", f"no store for {parsed.scheme!r}://", nearest(parsed.scheme, {*_BUILT_IN, *registered})
            )
        factory = load_entry(registered[parsed.scheme], "idempotency", f"{parsed.scheme}://")
    return factory(parsed)


def _memory(url: BrokerUrl) -> Store:
    if url.hosts or url.path:
        raise ConfigError("idempotency", f"{url} names a server or a path", "Write memory:// and nothing after it.")
    options = _numbers(url, "size", "retain")
    store = MemoryStore()
    return MemoryStore(int(options.get("size", store.size)), options.get("retain", store.retain))


def _sqlite(url: BrokerUrl) -> Store:
    if url.hosts or len(url.path) < 2:
        raise ConfigError(
            "idempotency",
            f"{url} names no file",
            "Write sqlite:///shop.db for a file in the working folder, sqlite:////var/lib/shop.db for another.",
        )
    options = _numbers(url, "retain", "busy_timeout")
    return SqliteStore(url.path[1:], prepare=None, **options)


def _numbers(url: BrokerUrl, *known: str) -> dict[str, float]:
    """The URL's options as numbers."""
    numbers: dict[str, float] = {}
    for name, text in url.options.items():
        if name not in known:
            raise ConfigError(f"idempotency option {name!r}", "there is no such option", nearest(name, known))
        try:
            numbers[name] = float(text)
        except ValueError:
            raise ConfigError(f"idempotency option {name!r}", f"{text!r} is not a number") from None
    return numbers


_BUILT_IN: dict[str, Callable[[BrokerUrl], Store]] = {"memory": _memory, "sqlite": _sqlite}
