"""A service whose handlers write to the database of their store."""

from __future__ import annotations

from typing import Any

from anybroker import Bus, MemoryBroker
from anybroker.idempotency import Claim
from anybroker.middleware import idempotent, retry
from anybroker_postgres import PostgresOutbox, PostgresStore, outbox_ddl

__all__ = ["INSERT", "LEASE", "RETAIN", "Shop"]

LEASE, RETAIN = 20.0, 3_600.0
quick = retry(attempts=4, first=0.001, cap=0.005)
INSERT = "INSERT INTO charge (number) VALUES (%s)"


class Shop:
    """A service with one handler, and what it has charged."""

    def __init__(self, server: Any, *, outbox: bool = False, **options: Any) -> None:
        self.server = server
        server.sql(f"CREATE SCHEMA {server.schema}")
        server.sql("CREATE TABLE charge (number integer, UNIQUE (number) DEFERRABLE INITIALLY DEFERRED)")
        server.sql("CREATE TABLE account (id integer PRIMARY KEY, cents integer NOT NULL)")
        server.sql("INSERT INTO account VALUES (1, 0), (2, 0)")
        self.store: PostgresStore = server.store(**options)
        # So that handlers find the tables.
        self.store._target.parameters["options"] = f"-c search_path={server.schema}"
        more: dict[str, Any] = {}
        if outbox:  # its rows stay where they are
            more = {"outbox": PostgresOutbox(server.url), "relay": False}
            for statement in outbox_ddl.statements():
                server.sql(statement)
        self.bus = Bus(MemoryBroker(), source="shop", **more)
        self.starts: list[int] = []

    def charges(self) -> list[int]:
        return [number for (number,) in self.server.sql("SELECT number FROM charge ORDER BY number")]

    def outgoing(self) -> list[str]:
        """The ids of the events in the outbox."""
        return [id_ for (id_,) in self.server.sql("SELECT id FROM anybroker_outbox ORDER BY position")]

    def handle(self, function: Any, *more: Any, lease: float | None = None) -> None:
        for layer in (idempotent(self.store, lease=lease), *(more or (quick,))):
            function = layer(function)
        self.bus.subscribe("orders", group="billing", name="charge", ordered=False)(function)

    async def publish(self, *numbers: int) -> None:
        for number in numbers:
            await self.bus.publish("orders", number, type="order.v1", id=f"o-{number}")

    @property
    def stats(self) -> Any:
        return self.bus.subscriptions[0].stats

    async def claim(self, key: str = "1", lease: float = LEASE, owner: str = "a") -> Claim:
        claim = await self.store.claim(("g", "h", "s", key), owner, lease, RETAIN)
        assert isinstance(claim, Claim)
        return claim
