"""The store in PostgreSQL: every test has its own database."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

from anybroker.idempotency import Store

from ..._postgres import run, set_read_only
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
        run(self.started, f'CREATE DATABASE "{database}"')
        return f"{self.started.rpartition('/')[0]}/{database}"

    def store(self, place: str, *, retain: float | None = None) -> Store:
        """A new object."""
        options: dict[str, Any] = {} if retain is None else {"retain": retain}
        store: Store = import_module("anybroker_postgres").PostgresStore(place, timeout=self.timeout, **options)
        return store

    def clean(self, place: str) -> None:
        """The database goes."""
        run(self.started, f'DROP DATABASE IF EXISTS "{place.rpartition("/")[2]}" WITH (FORCE)')

    def by_url(self, place: str) -> str:
        """The place."""
        return place

    async def effect(self, transaction: Any, text: str) -> None:
        """One row."""
        await transaction.execute("INSERT INTO effect(text) VALUES (%s)", (text,))

    def effects(self, place: str) -> Sequence[str]:
        """All rows."""
        return [str(row[0]) for row in run(place, "SELECT text FROM effect ORDER BY number")]

    def prepare_effects(self, place: str) -> None:
        """The table."""
        run(place, "CREATE TABLE effect(number bigserial PRIMARY KEY, text text NOT NULL)")

    def make_read_only(self, place: str) -> None:
        """As a standby."""
        set_read_only(self.started, "on")

    def make_writable(self, place: str) -> None:
        """Again."""
        set_read_only(self.started, "off")
