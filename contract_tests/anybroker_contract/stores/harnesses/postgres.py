"""The store in PostgreSQL: every test has its own database."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

from anybroker.idempotency import Store

from .server import StoreServer

__all__ = ["PostgresStores"]


class PostgresStores(StoreServer):
    """The package and its client are imported when they are needed."""

    name: ClassVar[str] = "postgres"
    kind: ClassVar[str] = "postgres"
    parking: ClassVar[bool] = True
    transactional: ClassVar[bool] = True
    portion: ClassVar[int | None] = 1_000

    def place(self, folder: Path) -> str:
        """A new database on the server."""
        database = f"contract_{secrets.token_hex(6)}"
        self._run(self.started, f'CREATE DATABASE "{database}"')
        return f"{self.started.rpartition('/')[0]}/{database}"

    def store(self, place: str, *, retain: float | None = None) -> Store:
        """A new object."""
        options: dict[str, Any] = {} if retain is None else {"retain": retain}
        store: Store = import_module("anybroker_postgres").PostgresStore(place, timeout=self.timeout, **options)
        return store

    def clean(self, place: str) -> None:
        """The database goes."""
        self._run(self.started, f'DROP DATABASE IF EXISTS "{place.rpartition("/")[2]}" WITH (FORCE)')

    def by_url(self, place: str) -> str:
        """The place."""
        return place

    async def effect(self, transaction: Any, text: str) -> None:
        """One row."""
        await transaction.execute("INSERT INTO effect(text) VALUES (%s)", (text,))

    def effects(self, place: str) -> Sequence[str]:
        """All rows."""
        return [str(row[0]) for row in self._run(place, "SELECT text FROM effect ORDER BY number")]

    def prepare_effects(self, place: str) -> None:
        """The table."""
        self._run(place, "CREATE TABLE effect(number bigserial PRIMARY KEY, text text NOT NULL)")

    def make_read_only(self, place: str) -> None:
        """New transactions, also of the sessions that are open, may only read: what a standby says (25006)."""
        self._set_read_only(place, "on")

    def make_writable(self, place: str) -> None:
        """Again."""
        self._set_read_only(place, "off")

    def _set_read_only(self, place: str, value: str) -> None:
        self._run(self.started, f"ALTER SYSTEM SET default_transaction_read_only = {value}")
        self._run(self.started, "SELECT pg_reload_conf()")
        end = time.monotonic() + 10.0
        while self._run(self.started, "SHOW default_transaction_read_only") != [(value,)]:
            if time.monotonic() > end:
                raise TimeoutError(f"the server does not set default_transaction_read_only to {value}")
            time.sleep(0.01)

    @staticmethod
    def _run(url: str, statement: str) -> list[tuple[Any, ...]]:
        with import_module("psycopg").connect(url, autocommit=True, connect_timeout=10) as connection:
            cursor = connection.execute(statement)
            return [] if cursor.description is None else cursor.fetchall()
