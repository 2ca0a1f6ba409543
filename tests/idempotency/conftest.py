"""Stores with their own clock, and a store that fails on demand."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

import pytest

from anybroker.idempotency import Busy, Claim, Done, Key, MemoryStore, SqliteStore, Store


class Clock:
    """The monotonic clock and the wall clock of the stores; both stand still until a test moves them."""

    def __init__(self) -> None:
        self.now = 1_000.0
        self.wall = 1_700_000_000.0

    def pass_(self, seconds: float) -> None:
        self.now += seconds
        self.wall += seconds


class Breakable:
    """A store around another, that can be down, and can fail a call before or after it was made."""

    def __init__(self, inner: Store) -> None:
        self.inner = inner
        self.durable = inner.durable
        self.retain = inner.retain
        self.down = False
        self.fail_before: list[str] = []
        """Calls that fail once each, and do not reach the store."""
        self.fail_after: list[str] = []
        """Calls that fail once each although the store did them."""
        self.calls: list[str] = []
        self.before: dict[str, Callable[[Any], Coroutine[Any, Any, None]]] = {}
        """What is awaited before a call, with its first argument."""
        self.opened = 0

    async def _do(self, name: str, call: Callable[..., Coroutine[Any, Any, Any]], *args: Any) -> Any:
        self.calls.append(name)
        if name in self.before:
            await self.before[name](args[0])
        if self.down:
            raise OSError("the store is away")
        if name in self.fail_before:
            self.fail_before.remove(name)
            raise OSError(f"{name} did not get there")
        result = await call(*args)
        if name in self.fail_after:
            self.fail_after.remove(name)
            raise OSError(f"the answer to {name} was lost")
        return result

    async def open(self) -> None:
        self.opened += 1
        await self.inner.open()

    async def claim(self, key: Key, owner: str, lease: float, retain: float, /) -> Claim | Busy | Done:
        result: Claim | Busy | Done = await self._do("claim", self.inner.claim, key, owner, lease, retain)
        return result

    async def extend(self, claims: Sequence[Claim], /) -> Sequence[bool]:
        result: Sequence[bool] = await self._do("extend", self.inner.extend, claims)
        return result

    async def done(self, claim: Claim, /) -> bool:
        result: bool = await self._do("done", self.inner.done, claim)
        return result

    async def release(self, claim: Claim, /) -> None:
        await self._do("release", self.inner.release, claim)

    async def purge(self) -> int:
        result: int = await self._do("purge", self.inner.purge)
        return result

    async def close(self) -> None:
        self.opened -= 1
        await self.inner.close()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Stores see this clock instead of the machine's."""
    clock = Clock()
    monkeypatch.setattr("anybroker.idempotency.memory.monotonic", lambda: clock.now)
    monkeypatch.setattr("anybroker.idempotency._sqlite_tables.monotonic", lambda: clock.now)
    monkeypatch.setattr("anybroker.idempotency._sqlite_tables.time", lambda: clock.wall)
    return clock


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """Each kind of store in turn."""
    return MemoryStore() if request.param == "memory" else SqliteStore(tmp_path / "store.db")


@pytest.fixture
def breakable() -> type[Breakable]:
    """The class, since a test cannot import it from here."""
    return Breakable
