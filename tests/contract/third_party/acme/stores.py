"""A store of a third party, and what the suite of stores is given: ``--store acme.stores:AcmeStores``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from time import monotonic
from typing import ClassVar

from anybroker.errors import ConfigError
from anybroker.idempotency import DONE, Busy, Claim, Done, Key, MemoryStore, Store
from anybroker_contract.stores import BrokerUnavailable, StoreHarness
from anybroker_contract.stores.clock import shifted
from anybroker_contract.stores.mutants import Flaw, broken

__all__ = ["AcmeStore", "AcmeStores", "ForgetfulStores", "SleepingStores", "WrappedStores"]

Table = dict[Key, Claim | float]
"""Claims that are held; for what is done, the moment until which that is remembered."""


class AcmeStore:
    """Keeps everything in one table, which several objects may share."""

    durable = False

    def __init__(self, table: Table, retain: float = 3_600.0) -> None:
        if not 0 < retain < float("inf"):
            raise ConfigError("AcmeStore(retain=)", f"{retain!r} is not a number of seconds over 0")
        self.retain = retain
        self._table = table
        self._fence = 0
        self._marked: set[Claim] = set()

    async def open(self) -> None:
        """Nothing to do."""

    async def claim(self, key: Key, owner: str, lease: float, retain: float, /) -> Claim | Busy | Done:
        """Store.claim."""
        now, there = monotonic(), self._table.get(key)
        if isinstance(there, float):
            return DONE
        if there is not None and there.until > now:
            return Busy(now - there.since, there.until - now)
        self._fence += 1
        claim = self._table[key] = Claim(key, self._fence, lease, retain, now)
        return claim

    async def extend(self, claims: Sequence[Claim], /) -> Sequence[bool]:
        """Store.extend."""
        ours = [self._table.get(claim.key) is claim for claim in claims]
        for claim, mine in zip(claims, ours, strict=True):
            claim.until = monotonic() + claim.lease if mine else claim.until
        return ours

    async def done(self, claim: Claim, /) -> bool:
        """Store.done."""
        if self._table.get(claim.key) is claim:
            self._table[claim.key] = monotonic() + claim.retain
            self._marked.add(claim)
        return claim in self._marked

    async def release(self, claim: Claim, /) -> None:
        """Store.release."""
        if self._table.get(claim.key) is claim:
            del self._table[claim.key]

    async def purge(self) -> int:
        """Store.purge: a hundred at most."""
        now = monotonic()
        old = [key for key, there in self._table.items() if isinstance(there, float) and there < now][:100]
        for key in old:
            del self._table[key]
        return len(old)

    async def close(self) -> None:
        """Nothing to do."""


class AcmeStores(StoreHarness):
    """In this process, on a clock that can be moved."""

    name: ClassVar[str] = "acme"
    durable: ClassVar[bool] = False
    processes: ClassVar[bool] = False
    portion: ClassVar[int | None] = 100
    detail = "a table in this process"

    def place(self, folder: Path) -> str:
        """The table of this test."""
        self._table: Table = {}
        return "the table"

    def store(self, place: str, *, retain: float | None = None) -> Store:
        """A new object on it."""
        return AcmeStore(self._table) if retain is None else AcmeStore(self._table, retain)

    def clock(self) -> AbstractContextManager[Callable[[float], None]]:
        """That of this module."""
        return shifted("acme.stores")


class SleepingStores(AcmeStores):
    """A store whose server is unavailable today."""

    name = "sleeping"

    def setup(self) -> str:
        """Never."""
        raise BrokerUnavailable("it sleeps until noon", "acme wake")


class ForgetfulStores(AcmeStores):
    """Declares that it shares its transaction, and does not."""

    name = "forgetful"
    transactional: ClassVar[bool] = True


class WrappedStores(StoreHarness):
    """What every broken store is made with, and nothing wrong in it."""

    name: ClassVar[str] = "wrapped"
    durable: ClassVar[bool] = False
    processes: ClassVar[bool] = False

    def store(self, place: str, *, retain: float | None = None) -> Store:
        """A new one."""
        return broken(lambda: MemoryStore() if retain is None else MemoryStore(retain=retain), Flaw())

    def clock(self) -> AbstractContextManager[Callable[[float], None]]:
        """That of the store inside."""
        return shifted("anybroker.idempotency")
