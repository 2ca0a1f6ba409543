"""The store in Redis: every test has its own prefix."""

from __future__ import annotations

import secrets
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

from anybroker.idempotency import Store

from ...brokers.ports import free_port
from .server import StoreServer

__all__ = ["RedisStores"]


class RedisStores(StoreServer):
    """The package and its client are imported when they are needed. Entries that are too old expire by themselves."""

    name: ClassVar[str] = "redis"
    kind: ClassVar[str] = "redis"
    parking: ClassVar[bool] = True
    portion: ClassVar[int | None] = 0

    def place(self, folder: Path) -> str:
        """A new prefix on the server."""
        return f"{self.started}?prefix=contract-{secrets.token_hex(6)}"

    def store(self, place: str, *, retain: float | None = None) -> Store:
        """A new object."""
        url, _, prefix = place.partition("?prefix=")
        options: dict[str, Any] = {} if retain is None else {"retain": retain}
        store: Store = import_module("anybroker_redis").RedisStore(url, prefix=prefix, timeout=self.timeout, **options)
        return store

    def clean(self, place: str) -> None:
        """Keys with the prefix go."""
        client = self._client()
        for key in client.scan_iter(match=f"{place.partition('?prefix=')[2]}*", count=1_000):
            client.delete(key)
        client.close()

    def by_url(self, place: str) -> str:
        """The place."""
        return place

    def make_read_only(self, place: str) -> None:
        """A replica of a server that is not there: what a failover leaves behind (READONLY)."""
        self._ask("REPLICAOF", "127.0.0.1", str(free_port()))

    def make_writable(self, place: str) -> None:
        """Again."""
        self._ask("REPLICAOF", "NO", "ONE")

    def _ask(self, *command: str) -> None:
        client = self._client()
        client.execute_command(*command)
        client.close()

    def _client(self) -> Any:
        return import_module("redis").Redis.from_url(self.started, socket_timeout=10, socket_connect_timeout=10)
