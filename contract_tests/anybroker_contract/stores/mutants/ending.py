"""Flaws of what ends a claim: marks, releases, purges; and of opening, closing and failing."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable
from typing import Any

from anybroker.errors import ConfigError
from anybroker.idempotency import Claim, Key, MemoryStore, Store, StoreUnavailable, Transaction

from .breaking import BrokenStore, Flaw, Result, Twin


class MarksUnfenced(Flaw):
    """A late owner's mark is made, although another owner has the key by now."""

    async def done(self, store: Store, claim: Claim) -> bool:
        return await super().done(store, claim) or await super().done(store, self.newest[claim.key])


class SaysItMarked(Flaw):
    """The mark of a late owner is refused, and answered with True."""

    async def done(self, store: Store, claim: Claim) -> bool:
        await super().done(store, claim)
        return True


class MarksOnlyOnce(Flaw):
    """A mark that is made again is taken for one of a late owner."""

    def __init__(self) -> None:
        super().__init__()
        self._marked: set[int] = set()

    async def done(self, store: Store, claim: Claim) -> bool:
        if claim.fence in self._marked:
            return False
        self._marked.add(claim.fence)
        return await super().done(store, claim)


class MarksOnlyInTime(Flaw):
    """An owner whose lease has ended cannot mark, although nobody has taken the key over."""

    async def done(self, store: Store, claim: Claim) -> bool:
        return claim.key in self.newest and await self._lives(store, claim) and await super().done(store, claim)

    async def _lives(self, store: Store, claim: Claim) -> bool:
        got = await store.claim(claim.key, "looks", 1.0, claim.retain)
        if isinstance(got, Claim):
            await store.release(got)
        return not isinstance(got, Claim)


class ReleasesWhatIsDone(Flaw):
    """A release after the mark takes the mark away."""

    def __init__(self) -> None:
        super().__init__()
        self._marked: set[Key] = set()
        self._gone: dict[Key, int] = {}

    async def claim(self, store: Store, key: Key, owner: str, lease: float, retain: float) -> Result:
        known_by = key[0], key[1], key[2], f"{key[3]}#{self._gone.get(key, 0)}"
        return await self.claim_as(store, known_by, key, owner, lease, retain)

    async def done(self, store: Store, claim: Claim) -> bool:
        self._marked.add(claim.key)
        return await super().done(store, claim)

    async def release(self, store: Store, claim: Claim) -> None:
        if claim.key in self._marked:
            key = claim.key[0], claim.key[1], claim.key[2], claim.key[3].rpartition("#")[0]
            self._gone[key] = self._gone.get(key, 0) + 1
        await super().release(store, claim)


class MarksInTheBackground(Flaw):
    """A mark is answered at once, and made a little later."""

    async def done(self, store: Store, claim: Claim) -> bool:
        self._later = asyncio.ensure_future(self._mark(store, claim))
        return True

    async def _mark(self, store: Store, claim: Claim) -> None:
        await asyncio.sleep(0.1)
        await super().done(store, claim)


class LosesMarks(Flaw):
    """Of marks that are made together one is answered, and not made."""

    def __init__(self) -> None:
        super().__init__()
        self._count = 0

    async def done(self, store: Store, claim: Claim) -> bool:
        self._count += 1
        return True if self._count % 20 == 0 else await super().done(store, claim)


class ReleasesUnfenced(Flaw):
    """A late owner's release takes the key from the one that has it."""

    async def release(self, store: Store, claim: Claim) -> None:
        await super().release(store, claim)
        await super().release(store, self.newest[claim.key])


class ReleasesAtTheEndOfTheLease(Flaw):
    """A release is forgotten: the key is free when the lease has ended."""

    async def release(self, store: Store, claim: Claim) -> None:
        """Nothing."""


class PurgesWhatIsHeld(Flaw):
    """A purge forgets claims whose handlers still run."""

    async def purge(self, store: Store) -> int:
        for claim in list(self.newest.values()):
            await store.release(claim)
        return await super().purge(store)


class PurgesEverythingAtOnce(Flaw):
    """One purge forgets all that is too old, however long that takes."""

    async def purge(self, store: Store) -> int:
        total = 0
        while count := await super().purge(store):
            total += count
        return total


class ForgetsTheRetention(Flaw):
    """What is done is remembered for as long as the store says, not the claim."""

    async def claim(self, store: Store, key: Key, owner: str, lease: float, retain: float) -> Result:
        got = await super().claim(store, key, owner, lease, store.retain)
        return Twin(got, retain=retain) if isinstance(got, Claim) else got


class ForgetsTooEarly(Flaw):
    """What is done is remembered for half as long as was asked."""

    async def claim(self, store: Store, key: Key, owner: str, lease: float, retain: float) -> Result:
        got = await super().claim(store, key, owner, lease, retain / 2)
        return Twin(got, retain=retain) if isinstance(got, Claim) else got


class SaysItLasts(Flaw):
    """A store in memory says that it is durable, and one that lasts that it is not."""

    def says(self, store: BrokenStore) -> None:
        store.durable = not store.durable


class IgnoresItsSettings(Flaw):
    """The retention is a fixed one, not that of the setting or the URL."""

    def says(self, store: BrokenStore) -> None:
        store.retain = 86_400.0


class TakesAnySetting(Flaw):
    """Settings that are wrong are ignored, and those that do not exist."""

    def made(self, make: Callable[[], Store]) -> Store:
        try:
            return make()
        except ConfigError:
            return MemoryStore()


class ClosesForAll(Flaw):
    """The first Bus that closes the store closes it for the others too."""

    def __init__(self) -> None:
        super().__init__()
        self._opened: dict[int, int] = {}

    async def open(self, store: Store) -> None:
        self._opened[id(store)] = self._opened.get(id(store), 0) + 1
        await super().open(store)

    async def close(self, store: Store) -> None:
        for _ in range(self._opened.pop(id(store), 0)):
            await super().close(store)

    async def claim(self, store: Store, key: Key, owner: str, lease: float, retain: float) -> Result:
        self._check(store)
        return await super().claim(store, key, owner, lease, retain)

    async def done(self, store: Store, claim: Claim) -> bool:
        self._check(store)
        return await super().done(store, claim)

    def _check(self, store: Store) -> None:
        if id(store) not in self._opened:
            raise StoreUnavailable("it is not open")


class OpensOnce(ClosesForAll):
    """A store that was closed cannot be opened again."""

    def __init__(self) -> None:
        super().__init__()
        self._closed: set[int] = set()

    async def open(self, store: Store) -> None:
        if id(store) in self._closed:
            raise StoreUnavailable("it is closed")
        await super().open(store)

    async def close(self, store: Store) -> None:
        self._opened[id(store)] -= 1
        if self._opened[id(store)] == 0:
            self._closed.add(id(store))
        await store.close()


class DropsWhatIsQueued(Flaw):
    """Closing drops the calls that were not sent yet."""

    def __init__(self) -> None:
        super().__init__()
        self._queued: set[asyncio.Task[None]] = set()

    async def done(self, store: Store, claim: Claim) -> bool:
        wait = asyncio.ensure_future(asyncio.sleep(0.005))
        self._queued.add(wait)
        try:
            await wait
        except asyncio.CancelledError:
            raise StoreUnavailable("closed") from None
        finally:
            self._queued.discard(wait)
        return await super().done(store, claim)

    async def close(self, store: Store) -> None:
        for wait in self._queued:
            wait.cancel()
        await super().close(store)


class RaisesTheClientsErrors(Flaw):
    """A store that is down raises an error of its client library."""

    async def claim(self, store: Store, key: Key, owner: str, lease: float, retain: float) -> Result:
        try:
            return await super().claim(store, key, owner, lease, retain)
        except StoreUnavailable as exc:
            raise RuntimeError("OperationalError") from exc


class WaitsUntilItIsBack(Flaw):
    """While the store is down its calls do not end."""

    async def claim(self, store: Store, key: Key, owner: str, lease: float, retain: float) -> Result:
        while True:
            try:
                return await super().claim(store, key, owner, lease, retain)
            except StoreUnavailable:
                await asyncio.sleep(0.05)


class OpensWhenItIsBack(Flaw):
    """Opening a store that is down waits until it is back."""

    async def open(self, store: Store) -> None:
        while True:
            try:
                return await super().open(store)
            except StoreUnavailable:
                await asyncio.sleep(0.05)


class ClosesWhenItIsBack(Flaw):
    """Closing a store that is down waits until it is back."""

    async def close(self, store: Store) -> None:
        while True:
            try:
                await store.claim(("closing", "", "", ""), "closing", 0.001, 1.0)
                break
            except StoreUnavailable:
                await asyncio.sleep(0.05)
        await super().close(store)


class IgnoresCancellation(Flaw):
    """A claim that is cancelled ends when the store has answered."""

    async def claim(self, store: Store, key: Key, owner: str, lease: float, retain: float) -> Result:
        asking = asyncio.ensure_future(super().claim(store, key, owner, lease, retain))
        try:
            return await asyncio.shield(asking)
        except asyncio.CancelledError:
            await asyncio.wait([asking])
            if not asking.exception():
                got = asking.result()
                if isinstance(got, Claim):
                    await store.release(got)
            raise


class SaysNotWhichOne(Flaw):
    """The errors of a store that is down do not say which store it is."""

    async def claim(self, store: Store, key: Key, owner: str, lease: float, retain: float) -> Result:
        try:
            return await super().claim(store, key, owner, lease, retain)
        except StoreUnavailable as exc:
            raise StoreUnavailable("the store is down") from exc


class ForgetsAtAnOutage(Flaw):
    """What was done and claimed before an outage is forgotten after it."""

    def __init__(self) -> None:
        super().__init__()
        self._outages = 0

    async def claim(self, store: Store, key: Key, owner: str, lease: float, retain: float) -> Result:
        known_by = key[0], key[1], key[2], f"{key[3]}#{self._outages}"
        try:
            return await self.claim_as(store, known_by, key, owner, lease, retain)
        except StoreUnavailable:
            self._outages += 1
            raise


class GivesUpTheMark(Flaw):
    """A mark that failed is not made any more."""

    def __init__(self) -> None:
        super().__init__()
        self._failed: set[int] = set()

    async def done(self, store: Store, claim: Claim) -> bool:
        if id(claim) in self._failed:
            return False
        try:
            return await super().done(store, claim)
        except StoreUnavailable:
            self._failed.add(id(claim))
            raise


class StaysDown(Flaw):
    """A store that was down once needs somebody to open it again."""

    down = False

    async def claim(self, store: Store, key: Key, owner: str, lease: float, retain: float) -> Result:
        if self.down:
            raise StoreUnavailable(f"the connection of {getattr(store, 'path', store)!r} is closed")
        try:
            return await super().claim(store, key, owner, lease, retain)
        except StoreUnavailable:
            self.down = True
            raise


class GoesOnWithoutTheStore(Flaw):
    """While the store is down every claim is given."""

    async def claim(self, store: Store, key: Key, owner: str, lease: float, retain: float) -> Result:
        try:
            return await super().claim(store, key, owner, lease, retain)
        except StoreUnavailable:
            return Claim(key, 1, lease, retain, time.monotonic())


class Apart(Transaction):
    """A transaction of its own for each call."""

    def __init__(self, store: Any, claim: Claim) -> None:
        self._store = store
        self._claim = claim

    def __getattr__(self, name: str) -> Any:
        async def call(*arguments: Any) -> Any:
            key = *self._claim.key[:3], secrets.token_hex(8)
            claim = await self._store.claim(key, "apart", 60.0, 60.0)
            result = await getattr(self._store.transaction(claim), name)(*arguments)
            await self._store.done(claim)
            return result

        return call


class CommitsAtOnce(Flaw):
    """What a handler writes is committed at once, apart from the mark."""

    def transaction(self, store: Any, claim: Claim) -> Transaction:
        return Apart(store, claim)


class MarksWithoutTheEffect(Flaw):
    """A mark is made although what the handler wrote was lost with the connection."""

    async def done(self, store: Store, claim: Claim) -> bool:
        if await super().done(store, claim):
            return True
        got = await store.claim(claim.key, "without", claim.lease, claim.retain)
        return isinstance(got, Claim) and await super().done(store, got)


class CommitsWhatFailed(Flaw):
    """What a handler wrote before it failed is committed, and written again by its next run."""

    def __init__(self) -> None:
        super().__init__()
        self._runs: dict[Key, int] = {}

    async def claim(self, store: Store, key: Key, owner: str, lease: float, retain: float) -> Result:
        known_by = key[0], key[1], key[2], f"{key[3]}#{self._runs.get(key, 0)}"
        return await self.claim_as(store, known_by, key, owner, lease, retain)

    async def release(self, store: Store, claim: Claim) -> None:
        await store.done(claim)
        key = claim.key[0], claim.key[1], claim.key[2], claim.key[3].rpartition("#")[0]
        self._runs[key] = self._runs.get(key, 0) + 1


class Newest(Transaction):
    """The transaction of the claim that a key has now, whose ever it is."""

    def __init__(self, flaw: Flaw, store: Any, key: Key) -> None:
        self._flaw = flaw
        self._store = store
        self._key = key

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store.transaction(self._flaw.newest[self._key]), name)


class WritesForALateOwner(Flaw):
    """A late owner writes as if the key were still its own."""

    def transaction(self, store: Any, claim: Claim) -> Transaction:
        return Newest(self, store, claim.key)
