"""The idempotency store in memory: fast, of bounded size, and gone with the process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from time import monotonic

from ..errors import ConfigError
from ._memory_parking import MemoryParking
from ._parking import ParkedRow
from ._store import DONE, Busy, Claim, Done, Key

__all__ = ["MemoryStore"]

_FOR_EVER = float("inf")
"""When a claim ends that its owner has marked done."""


class MemoryStore:
    """Remembers in this process which events are done.

    For a broker that does not outlive the process either, for tests, and against copies that arrive close together. It
    does not survive a restart, and other processes do not see it; the Bus warns about that if its broker is durable. To
    share it, give several Buses of one process the same object.

    :param size: between ``size`` and twice as many done events are remembered, the most recent ones (about 300 bytes
        each, 1.5 kB at most, because long keys are hashed). A copy that arrives later is handled again.
    :param retain: they are remembered for between ``retain`` and twice as many seconds, ``size`` permitting.
    """

    durable = False

    def __init__(self, size: int = 50_000, retain: float = 86_400.0) -> None:
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise ConfigError("MemoryStore(size=)", f"{size!r} is not a number of events", "Use 1 or more.")
        if not 0 < retain < float("inf"):
            raise ConfigError("MemoryStore(retain=)", f"{retain!r} is not a number of seconds over 0")
        self.size = size
        self.retain = retain
        # Claims that are held, and None for what is done, in two generations: dropping the older one costs nothing,
        # while an ordered dict would cost something for every event.
        self._young: dict[Key, Claim | None] = {}
        self._old: dict[Key, Claim | None] = {}
        self._marked = 0
        """How many entries of the young generation are done."""
        self._fence = 0
        self._longest = retain
        self._turn_at = monotonic() + retain
        self._parking = MemoryParking()

    def __len__(self) -> int:
        """How many events are remembered."""
        return len(self._young) + len(self._old)

    async def open(self) -> None:
        """Store.open: nothing to do; what is remembered stays as long as the object."""

    async def claim(self, key: Key, owner: str, lease: float, retain: float, /) -> Claim | Busy | Done:
        """Store.claim."""
        young, old = self._young, self._old
        now = monotonic()
        if key in young:
            held = young[key]
            if held is None:
                return DONE
            if held.until > now:
                return Busy(now - held.since, held.until - now)
        elif old and key in old:
            young[key] = old.pop(key)  # just seen: it stays for another generation
            self._marked += 1
            return DONE
        if retain > self._longest:
            self._longest = retain
            self._turn_at = now + retain
        self._fence = fence = self._fence + 1
        young[key] = claim = Claim(key, fence, lease, retain, now)
        return claim

    async def extend(self, claims: Sequence[Claim], /) -> Sequence[bool]:
        """Store.extend."""
        now, young = monotonic(), self._young
        ours = [young.get(claim.key) is claim for claim in claims]
        for claim, is_ours in zip(claims, ours, strict=True):
            if is_ours:
                claim.until = now + claim.lease
        return ours

    async def done(self, claim: Claim, /) -> bool:
        """Store.done."""
        young = self._young
        if young.get(claim.key) is not claim:
            return claim.until == _FOR_EVER  # said again
        young[claim.key] = None
        claim.until = _FOR_EVER
        self._marked += 1
        if self._marked >= self.size:
            self._turn(monotonic())
        return True

    async def release(self, claim: Claim, /) -> None:
        """Store.release."""
        if self._young.get(claim.key) is claim:
            del self._young[claim.key]

    def _turn(self, now: float) -> int:
        """The young become the old generation, except those that are held; the old are forgotten."""
        forgotten = len(self._old)
        # A claim stays after its lease has ended: a late owner may still mark it done if nobody has taken it over.
        held = {
            key: claim for key, claim in self._young.items() if claim is not None and claim.until + claim.retain > now
        }
        self._old = {key: None for key in self._young.keys() - held.keys()}
        self._young = dict(held)
        self._marked = 0
        self._turn_at = now + self._longest
        return forgotten

    async def purge(self) -> int:
        """Store.purge."""
        now = monotonic()
        return self._turn(now) if now >= self._turn_at else 0

    async def parked(self, place: str, /) -> Mapping[str, int]:
        """ParkingStore.parked."""
        return self._parking.parked(place)

    async def park(self, place: str, key: str, event: str, behind: bool, /) -> ParkedRow | None:
        """ParkingStore.park."""
        return self._parking.park(place, key, event, behind)

    async def unpark(self, place: str, key: str, event: str | None, /) -> int:
        """ParkingStore.unpark."""
        return self._parking.unpark(place, key, event)

    async def close(self) -> None:
        """Store.close: nothing to do."""
