"""Flaws of claiming: who gets a key, under which number, and what the others are told."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from anybroker.idempotency import Busy, Claim, Done, Key, Store

from .breaking import Flaw, Result, Twin


class ClaimsInTwoSteps(Flaw):
    """Looks whether a key is free, and takes it later: two that look at the same moment both take it."""

    def __init__(self) -> None:
        super().__init__()
        self._looking: dict[Key, int] = {}

    async def claim(self, store: Store, key: Key, owner: str, lease: float, retain: float) -> Result:
        self._looking[key] = self._looking.get(key, 0) + 1
        await asyncio.sleep(0)
        try:
            got = await super().claim(store, key, owner, lease, retain)
            if isinstance(got, Busy) and got.age < 0.2 and key in self.newest and self._looking[key] > 1:
                return Twin(self.newest[key])
            return got
        finally:
            await asyncio.sleep(0)
            self._looking[key] -= 1


class GivesAnOwnerItsOwnAgain(Flaw):
    """An owner that has claimed a key gets it again."""

    def __init__(self) -> None:
        super().__init__()
        self._owners: dict[Key, str] = {}

    async def claim(self, store: Store, key: Key, owner: str, lease: float, retain: float) -> Result:
        got = await super().claim(store, key, owner, lease, retain)
        if isinstance(got, Claim):
            self._owners[key] = owner
        elif isinstance(got, Busy) and self._owners.get(key) == owner:
            return Twin(self.newest[key])
        return got


class SaysNothingAboutTheOther(Flaw):
    """A claim that is refused is told neither the age of the other one nor what is left of its lease."""

    async def claim(self, store: Store, key: Key, owner: str, lease: float, retain: float) -> Result:
        got = await super().claim(store, key, owner, lease, retain)
        return Busy(0.0, lease) if isinstance(got, Busy) else got


class ForgetsWhatWasAsked(Flaw):
    """A claim has the store's own lease and retention, not those that it was made with."""

    async def claim(self, store: Store, key: Key, owner: str, lease: float, retain: float) -> Result:
        got = await super().claim(store, key, owner, lease, retain)
        return Twin(got, lease=20.0, retain=store.retain) if isinstance(got, Claim) else got


class ShiftsAnswers(Flaw):
    """The answers of calls that are made together are given to the wrong callers."""

    def __init__(self) -> None:
        super().__init__()
        self._together: list[asyncio.Future[Result]] = []

    async def claim(self, store: Store, key: Key, owner: str, lease: float, retain: float) -> Result:
        mine = asyncio.ensure_future(super().claim(store, key, owner, lease, retain))
        together = self._together
        together.append(mine)
        place = len(together) - 1
        await asyncio.sleep(0)
        if self._together is together:
            self._together = []
        await asyncio.wait(together)
        return await together[(place + 1) % len(together)]


class TakesOverEarly(Flaw):
    """Leases end at half their time."""

    async def claim(self, store: Store, key: Key, owner: str, lease: float, retain: float) -> Result:
        got = await super().claim(store, key, owner, lease / 2, retain)
        return Twin(got, lease=lease) if isinstance(got, Claim) else got


class NeverTakesOver(Flaw):
    """A claim stays after its lease: a crashed owner keeps its event for ever."""

    async def claim(self, store: Store, key: Key, owner: str, lease: float, retain: float) -> Result:
        got = await super().claim(store, key, owner, 1e7, retain)
        return Twin(got, lease=lease) if isinstance(got, Claim) else got


class FencesFromOneAgain(Flaw):
    """A claim that is released takes its fencing number with it: the next one begins at 1."""

    def __init__(self) -> None:
        super().__init__()
        self._fences: dict[Key, int] = {}

    async def claim(self, store: Store, key: Key, owner: str, lease: float, retain: float) -> Result:
        got = await super().claim(store, key, owner, lease, retain)
        if not isinstance(got, Claim):
            return got
        self._fences[key] = self._fences.get(key, 0) + 1
        return Twin(got, fence=self._fences[key])

    async def release(self, store: Store, claim: Claim) -> None:
        self._fences.pop(claim.key, None)
        await super().release(store, claim)


class FencesOfAProcess(Flaw):
    """Each process counts its fencing numbers for itself."""

    def __init__(self) -> None:
        super().__init__()
        self._count = 0

    async def claim(self, store: Store, key: Key, owner: str, lease: float, retain: float) -> Result:
        got = await super().claim(store, key, owner, lease, retain)
        if not isinstance(got, Claim):
            return got
        self._count += 1
        return Twin(got, fence=self._count)


class JoinsKeys(Flaw):
    """The parts of a key are joined with a character that they may contain."""

    joint = "\0"

    async def claim(self, store: Store, key: Key, owner: str, lease: float, retain: float) -> Result:
        return await self.claim_as(store, (key[0][:6], "", "", self.joint.join(key)), key, owner, lease, retain)


class CutsKeys(Flaw):
    """Ids are cut after 64 characters."""

    async def claim(self, store: Store, key: Key, owner: str, lease: float, retain: float) -> Result:
        return await self.claim_as(store, (key[0], key[1], key[2], key[3][:64]), key, owner, lease, retain)


class IgnoresCase(Flaw):
    """Ids that differ in upper and lower case, or in spaces at the end, are the same."""

    async def claim(self, store: Store, key: Key, owner: str, lease: float, retain: float) -> Result:
        return await self.claim_as(
            store, (key[0], key[1], key[2], key[3].lower().rstrip(" ")), key, owner, lease, retain
        )


class FailsTheWholeBatch(Flaw):
    """Text that cannot be encoded fails all claims of its batch."""

    def __init__(self) -> None:
        super().__init__()
        self._bad = False

    async def claim(self, store: Store, key: Key, owner: str, lease: float, retain: float) -> Result:
        self._bad = self._bad or any("\ud800" in part for part in key)
        await asyncio.sleep(0)
        if self._bad:
            raise ValueError("surrogates not allowed")
        return await super().claim(store, key, owner, lease, retain)


class KeepsACancelledClaim(Flaw):
    """A claim whose caller was cancelled is kept, and nobody ends it."""

    async def claim(self, store: Store, key: Key, owner: str, lease: float, retain: float) -> Result:
        try:
            for _ in range(3):
                await asyncio.sleep(0)
        except asyncio.CancelledError:
            self._kept = asyncio.ensure_future(store.claim(key, owner, 1e7, retain))
            raise
        return await super().claim(store, key, owner, lease, retain)


class TrustsTheClientsClock(Flaw):
    """Leases are compared with the clock of the process that asks."""

    async def claim(self, store: Store, key: Key, owner: str, lease: float, retain: float) -> Result:
        got = await super().claim(store, key, owner, lease, retain)
        if isinstance(got, Busy):
            ahead = time.time() - time.clock_gettime(time.CLOCK_REALTIME)
            return Busy(got.age + ahead, got.left - ahead)
        return got


class ForgetsClaimsOfOthers(Flaw):
    """Each store object has its own keys: two processes do not see each other's."""

    def __init__(self) -> None:
        super().__init__()
        self._objects: dict[int, int] = {}

    async def claim(self, store: Store, key: Key, owner: str, lease: float, retain: float) -> Result:
        own = self._objects.setdefault(id(store), len(self._objects))
        return await self.claim_as(store, (f"{own}{key[0]}", key[1], key[2], key[3]), key, owner, lease, retain)


class CallsItDone(Flaw):
    """A key that another owner has claimed counts as done."""

    async def claim(self, store: Store, key: Key, owner: str, lease: float, retain: float) -> Result:
        got = await super().claim(store, key, owner, lease, retain)
        return Done() if isinstance(got, Busy) else got


class ExtendsWhatIsLost(Flaw):
    """Extending says True for claims that were taken over."""

    async def extend(self, store: Store, claims: Sequence[Claim]) -> Sequence[bool]:
        await super().extend(store, claims)
        return [True] * len(claims)


class ExtendsInAnotherOrder(Flaw):
    """The answers of extending come in another order."""

    async def extend(self, store: Store, claims: Sequence[Claim]) -> Sequence[bool]:
        return list(await super().extend(store, claims))[::-1]


class ExtendsNothing(Flaw):
    """Extending is answered with True, and not done."""

    async def extend(self, store: Store, claims: Sequence[Claim]) -> Sequence[bool]:
        return [True] * len(claims)


class ExtendsTheFirst(Flaw):
    """Of the claims of one call only the first is extended."""

    async def extend(self, store: Store, claims: Sequence[Claim]) -> Sequence[bool]:
        return [*await super().extend(store, claims[:1]), *(True for _ in claims[1:])]
