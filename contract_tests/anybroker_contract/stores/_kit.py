"""What one test of a store works with: store objects on one place, other processes, keys, and time."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

from anybroker import Bus, MemoryBroker
from anybroker.idempotency import DONE, Busy, Claim, Done, Key, Store, make_store

from .._disturbances import Disturbed
from .._waiting import eventually
from ._elsewhere import Elsewhere
from .harness import StoreHarness

__all__ = ["LONG", "RETAIN", "SLACK", "StoreKit"]

_T = TypeVar("_T")

LONG = 60.0
"""Seconds, a lease that does not end during a test unless the test lets that much time pass."""
RETAIN = 3_600.0
"""Seconds, where it does not matter."""
SLACK = 0.05
"""Seconds by which two clocks that show the same length of time may differ."""


class StoreKit:
    """Given to every test as the fixture ``kit``. What it opened is closed after the test, what it disturbed is put
    right."""

    def __init__(self, harness: StoreHarness, folder: Path, *, size: str, patience: float, mutant: str | None) -> None:
        self.harness = harness
        self.folder = folder
        self.size = size
        """``short``, ``full`` or ``stress``."""
        self.patience = patience
        """Seconds within which what must happen has to happen."""
        self.mutant = mutant
        self._made: Callable[[Callable[[], Store]], Store] = lambda make: make()
        if mutant is not None:
            from .mutants import break_store

            self._made = break_store(mutant)
        self._mark = secrets.token_hex(3)
        self._shift = 0.0
        self._stack = AsyncExitStack()
        self._forward: Callable[[float], None] | None = None
        if "clock" in harness.can():
            self._forward = self._stack.enter_context(harness.clock())
        self.place = harness.place(folder)
        self._stack.push_async_callback(self._clean)
        self._disturbed = Disturbed(harness, self.place)

    async def _clean(self) -> None:
        await asyncio.to_thread(self.harness.clean, self.place)

    def pick(self, short: _T, full: _T) -> _T:
        """A number for the tier: the first in ``short``, else the second."""
        return short if self.size == "short" else full

    # ---------------------------------------------------------------------------------------------------- stores

    def store(self, *, retain: float | None = None) -> Store:
        """A new store object on this test's place, not opened; the test closes what it opens."""
        return self._made(lambda: self.harness.store(self.place, retain=retain))

    def store_by_url(self, url: str) -> Store:
        """The store of a URL, as a Bus makes it; not opened."""
        return self._made(lambda: make_store(url))

    def with_option(self, option: str) -> str:
        """The URL of this test's place with this option."""
        url = self.harness.by_url(self.place)
        return f"{url}{'&' if '?' in url else '?'}{option}"

    async def open(self, *, retain: float | None = None) -> Store:
        """A new store object, opened; closed after the test."""
        return await self._stack.enter_async_context(opened(self.store(retain=retain)))

    async def elsewhere(self, *, ahead: float = 0.0, retain: float | None = None) -> Elsewhere:
        """A store in another process, whose clock may be ahead of this machine's; ended after the test."""
        cls = type(self.harness)
        options = {
            "harness": f"{cls.__module__}:{cls.__qualname__}",
            "started": self.harness.started,
            "place": self.place,
            "retain": retain,
            "ahead": ahead,
            "mutant": self.mutant,
        }
        other = Elsewhere(options)
        self._stack.push_async_callback(other.kill)
        await other.start()
        return other

    def bus(self, store: Store, **settings: Any) -> Bus:
        """A Bus on its own broker in memory, not started, whose handlers use this store; closed after the test."""
        waits = {"drain": min(10.0, 2 * self.patience), "lease": 6.0}
        bus = Bus(MemoryBroker(), source="contract", idempotency=store, **{**waits, **settings})
        self._stack.push_async_callback(bus.close, drain=0)
        return bus

    # ------------------------------------------------------------------------------------------------ keys, claims

    def key(self, id_: str = "1") -> Key:
        """A key that no other test uses."""
        return (f"billing-{self._mark}", "charge", "shop", id_)

    def keys(self, count: int) -> list[Key]:
        """That many."""
        return [self.key(str(number)) for number in range(count)]

    async def claimed(
        self,
        store: Store | Elsewhere,
        key: Key | None = None,
        owner: str = "a",
        lease: float = LONG,
        *,
        retain: float = RETAIN,
    ) -> Claim:
        """Claim the key, which must be free."""
        got = await store.claim(self.key() if key is None else key, owner, lease, retain)
        assert isinstance(got, Claim), f"the claim was refused: {got!r}"
        return got

    async def busy(self, store: Store | Elsewhere, key: Key | None = None, owner: str = "b") -> Busy:
        """Claim the key, which must be claimed."""
        got = await store.claim(self.key() if key is None else key, owner, LONG, RETAIN)
        assert isinstance(got, Busy), f"not kept out: {got!r}"
        return got

    async def is_done(self, store: Store | Elsewhere, key: Key | None = None, owner: str = "b") -> None:
        """Claim the key, which must be done."""
        got = await store.claim(self.key() if key is None else key, owner, LONG, RETAIN)
        assert isinstance(got, Done), f"not done: {got!r}"
        assert got is DONE or not isinstance(store, Elsewhere)

    # ------------------------------------------------------------------------------------------------------ time

    def now(self) -> float:
        """Seconds on a clock that runs as the store's does."""
        return time.monotonic() + self._shift

    @property
    def moves_time(self) -> bool:
        """Whether letting time pass costs none."""
        return self._forward is not None

    @property
    def brief(self) -> float:
        """Seconds, a lease that a test lets run out."""
        return 20.0 if self.moves_time else 0.4

    async def pass_time(self, seconds: float) -> None:
        """Let so many seconds pass on the store's clock: the clock is moved where it can be."""
        if self._forward is None:
            await asyncio.sleep(seconds + SLACK)
        else:
            self._forward(seconds + SLACK)
            self._shift += seconds + SLACK

    async def ran_out(self, store: Store | Elsewhere, key: Key, owner: str = "b", *, wait: float = 0.0) -> Claim:
        """The claim by which ``owner`` takes the key over as soon as it can."""
        await self.pass_time(wait)
        got: Claim | Busy | Done | None = None

        async def taken() -> bool:
            nonlocal got
            got = await store.claim(key, owner, LONG, RETAIN)
            return not isinstance(got, Busy)

        await eventually(taken, self.patience, f"{key} is still claimed")
        assert isinstance(got, Claim)
        return got

    # ----------------------------------------------------------------------------------------------- disturbances

    async def disturb(self, what: str) -> None:
        """Disturb the store's server or file. What was not put right is put right after the test."""
        await self._disturbed.do(what)

    async def close(self) -> None:
        """Put right what was disturbed, and end what the test left open."""
        await self._disturbed.undo()
        await self._stack.aclose()


@asynccontextmanager
async def opened(store: Store) -> AsyncIterator[Store]:
    """The store, opened; closed at the end."""
    await store.open()
    try:
        yield store
    finally:
        await store.close()
