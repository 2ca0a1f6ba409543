"""A store around a real one that a :class:`Flaw` breaks. All broken stores go through it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from anybroker.idempotency import Busy, Claim, Done, Key, ParkedRow, Store, Transaction

__all__ = ["BrokenStore", "Flaw", "Result", "Twin", "broken"]

Result = Claim | Busy | Done
"""What a claim answers."""


class Flaw:
    """What is wrong with a broken store. Every method is correct here; a subclass breaks one or two.

    There is one object for each test (and one in each process that a test starts), for all stores of the test."""

    def __init__(self) -> None:
        self.newest: dict[Key, Claim] = {}
        """The claim that was given last, by key."""

    def made(self, make: Callable[[], Store]) -> Store:
        """Making the store, before everything else is broken."""
        return make()

    def says(self, store: BrokenStore) -> None:
        """What the store says of itself may be changed here."""

    async def open(self, store: Store) -> None:
        """Store.open."""
        await store.open()

    async def claim(self, store: Store, key: Key, owner: str, lease: float, retain: float) -> Result:
        """Store.claim."""
        got = await store.claim(key, owner, lease, retain)
        if isinstance(got, Claim):
            self.newest[key] = got
        return got

    async def claim_as(self, store: Store, known_by: Key, key: Key, owner: str, lease: float, retain: float) -> Result:
        """Claim the key under another one."""
        got = await Flaw.claim(self, store, known_by, owner, lease, retain)
        return Twin(got, key=key) if isinstance(got, Claim) else got

    async def extend(self, store: Store, claims: Sequence[Claim]) -> Sequence[bool]:
        """Store.extend."""
        return await store.extend(claims)

    async def done(self, store: Store, claim: Claim) -> bool:
        """Store.done."""
        return await store.done(claim)

    async def release(self, store: Store, claim: Claim) -> None:
        """Store.release."""
        await store.release(claim)

    async def purge(self, store: Store) -> int:
        """Store.purge."""
        return await store.purge()

    async def parked(self, store: Any, place: str) -> Mapping[str, int]:
        """ParkingStore.parked."""
        found: Mapping[str, int] = await store.parked(place)
        return found

    async def park(self, store: Any, place: str, key: str, event: str, behind: bool) -> ParkedRow | None:
        """ParkingStore.park."""
        row: ParkedRow | None = await store.park(place, key, event, behind)
        return row

    async def unpark(self, store: Any, place: str, key: str, event: str | None) -> int:
        """ParkingStore.unpark."""
        left: int = await store.unpark(place, key, event)
        return left

    async def close(self, store: Store) -> None:
        """Store.close."""
        await store.close()

    def transaction(self, store: Any, claim: Claim) -> Transaction:
        """TransactionalStore.transaction."""
        given: Transaction = store.transaction(claim)
        return given


class Twin(Claim):
    """A claim that a flaw gives out in place of the store's own, to say something else in it."""

    __slots__ = ("inner",)

    def __init__(
        self,
        inner: Claim,
        *,
        key: Key | None = None,
        fence: int | None = None,
        lease: float | None = None,
        retain: float | None = None,
    ) -> None:
        super().__init__(
            inner.key if key is None else key,
            inner.fence if fence is None else fence,
            inner.lease if lease is None else lease,
            inner.retain if retain is None else retain,
            inner.since,
        )
        self.inner = inner


def _own(claim: Claim) -> Claim:
    return claim.inner if isinstance(claim, Twin) else claim


class BrokenStore:
    """Asks the flaw about everything."""

    def __init__(self, inner: Store, flaw: Flaw) -> None:
        self.inner = inner
        self.flaw = flaw
        self.durable = inner.durable
        self.retain = inner.retain
        flaw.says(self)

    async def open(self) -> None:
        """Store.open."""
        await self.flaw.open(self.inner)

    async def claim(self, key: Key, owner: str, lease: float, retain: float, /) -> Result:
        """Store.claim."""
        return await self.flaw.claim(self.inner, key, owner, lease, retain)

    async def extend(self, claims: Sequence[Claim], /) -> Sequence[bool]:
        """Store.extend."""
        return await self.flaw.extend(self.inner, [_own(claim) for claim in claims])

    async def done(self, claim: Claim, /) -> bool:
        """Store.done."""
        return await self.flaw.done(self.inner, _own(claim))

    async def release(self, claim: Claim, /) -> None:
        """Store.release."""
        await self.flaw.release(self.inner, _own(claim))

    async def purge(self) -> int:
        """Store.purge."""
        return await self.flaw.purge(self.inner)

    async def close(self) -> None:
        """Store.close."""
        await self.flaw.close(self.inner)


class _Transactional(BrokenStore):
    """The same for a store that shares its transaction."""

    def __init__(self, inner: Any, flaw: Flaw) -> None:
        super().__init__(inner, flaw)
        self.transaction_type: type[Transaction] = inner.transaction_type

    def transaction(self, claim: Claim, /) -> Transaction:
        """TransactionalStore.transaction."""
        return self.flaw.transaction(self.inner, _own(claim))


class _Parking(BrokenStore):
    """The same for a store that remembers parked keys."""

    async def parked(self, place: str, /) -> Mapping[str, int]:
        """ParkingStore.parked."""
        return await self.flaw.parked(self.inner, place)

    async def park(self, place: str, key: str, event: str, behind: bool, /) -> ParkedRow | None:
        """ParkingStore.park."""
        return await self.flaw.park(self.inner, place, key, event, behind)

    async def unpark(self, place: str, key: str, event: str | None, /) -> int:
        """ParkingStore.unpark."""
        return await self.flaw.unpark(self.inner, place, key, event)


class _ParkingTransactional(_Parking, _Transactional):
    """Both."""


_KINDS = {
    (False, False): BrokenStore,
    (False, True): _Transactional,
    (True, False): _Parking,
    (True, True): _ParkingTransactional,
}
"""By whether the store remembers parked keys, and whether it shares its transaction."""


def broken(make: Callable[[], Store], flaw: Flaw) -> Store:
    """The store that ``make`` makes, with this flaw."""
    store = flaw.made(make)
    return _KINDS[hasattr(store, "park"), hasattr(store, "transaction_type")](store, flaw)
