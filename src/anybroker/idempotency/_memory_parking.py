"""Parked keys in memory."""

from __future__ import annotations

from ._parking import ParkedRow

__all__ = ["MemoryParking"]


class MemoryParking:
    """The rows of :class:`~anybroker.idempotency.ParkingStore`, of this object alone."""

    def __init__(self) -> None:
        self._rows: dict[str, dict[str, dict[str, int]]] = {}
        """By place, key and event: the number of the row; negative once it is finished."""
        self._number = 0

    def parked(self, place: str) -> dict[str, int]:
        """ParkingStore.parked."""
        return {key: sum(number > 0 for number in rows.values()) for key, rows in self._rows.get(place, {}).items()}

    def park(self, place: str, key: str, event: str, behind: bool) -> ParkedRow | None:
        """ParkingStore.park."""
        rows = self._rows.get(place, {}).get(key)
        if rows is None:
            if behind:
                return None
            rows = self._rows.setdefault(place, {}).setdefault(key, {})
        number = rows.get(event)
        if number is None:
            self._number = number = self._number + 1
            rows[event] = number
        if number < 0:
            return ParkedRow(-number, "", True)
        return ParkedRow(number, next(each for each, place_ in rows.items() if place_ > 0), False)

    def unpark(self, place: str, key: str, event: str | None) -> int:
        """ParkingStore.unpark."""
        keys = self._rows.get(place, {})
        rows = keys.get(key)
        if rows is None:
            return 0
        if event is not None and event in rows:
            rows[event] = -abs(rows[event])
        left = 0 if event is None else sum(number > 0 for number in rows.values())
        if not left:
            del keys[key]
            if not keys:
                del self._rows[place]
        return left
