"""Flaws of remembering parked keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from anybroker.idempotency import ParkedRow

from .breaking import Flaw


class ParksWhatIsFree(Flaw):
    """An event that is to join parked ones parks its key where there are none."""

    async def park(self, store: Any, place: str, key: str, event: str, behind: bool) -> ParkedRow | None:
        return await super().park(store, place, key, event, False)


class NumbersAgain(Flaw):
    """A row that is written again gets a new number."""

    def __init__(self) -> None:
        super().__init__()
        self._number = 1_000_000

    async def park(self, store: Any, place: str, key: str, event: str, behind: bool) -> ParkedRow | None:
        row = await super().park(store, place, key, event, behind)
        self._number += 1
        return None if row is None else row._replace(number=self._number)


class SaysEachIsFirst(Flaw):
    """Every parked event is told that it is the first of its key."""

    async def park(self, store: Any, place: str, key: str, event: str, behind: bool) -> ParkedRow | None:
        row = await super().park(store, place, key, event, behind)
        return None if row is None or row.finished else row._replace(first=event)


class FreesTheKeyWithItsFirst(Flaw):
    """When one event is finished, all of its key are."""

    async def unpark(self, store: Any, place: str, key: str, event: str | None) -> int:
        return await super().unpark(store, place, key, None)


class ForgetsWhatIsFinished(Flaw):
    """An event that is finished while others wait counts as a new one."""

    async def park(self, store: Any, place: str, key: str, event: str, behind: bool) -> ParkedRow | None:
        row = await super().park(store, place, key, event, behind)
        if row is not None and row.finished:
            return await super().park(store, place, key, f"{event}, again", behind)
        return row


class MixesGroups(Flaw):
    """A key that one group parks is parked in all."""

    async def parked(self, store: Any, place: str) -> Mapping[str, int]:
        return await super().parked(store, "everywhere")

    async def park(self, store: Any, place: str, key: str, event: str, behind: bool) -> ParkedRow | None:
        return await super().park(store, "everywhere", key, event, behind)

    async def unpark(self, store: Any, place: str, key: str, event: str | None) -> int:
        return await super().unpark(store, "everywhere", key, event)


class KeepsParkedKeysToItself(Flaw):
    """Rows are in the memory of one object."""

    def __init__(self) -> None:
        super().__init__()
        self._own: dict[int, Any] = {}

    def _of(self, store: Any) -> Any:
        from anybroker.idempotency import MemoryStore

        return self._own.setdefault(id(store), MemoryStore())

    async def parked(self, store: Any, place: str) -> Mapping[str, int]:
        return await super().parked(self._of(store), place)

    async def park(self, store: Any, place: str, key: str, event: str, behind: bool) -> ParkedRow | None:
        return await super().park(self._of(store), place, key, event, behind)

    async def unpark(self, store: Any, place: str, key: str, event: str | None) -> int:
        return await super().unpark(self._of(store), place, key, event)
