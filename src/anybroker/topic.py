"""A typed view of one topic: ``orders = bus.topic("orders", OrderPlaced | OrderCancelled)``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Generic, TypeVar

from .adapter import Receipt
from .engine.core import Publishes
from .errors import BrokerError

__all__ = ["Topic"]

_T = TypeVar("_T")


class Topic(Generic[_T]):
    """Publishes payloads of the declared types to one topic; a type checker refuses others, and so does this."""

    def __init__(self, bus: Publishes, name: str, types: tuple[type, ...]) -> None:
        self._bus = bus
        self.name = name
        self._types = types

    async def publish(self, data: _T, /, **options: Any) -> Receipt:
        """As :meth:`Bus.publish`. ``TypeError`` for a payload of another type."""
        self._check(data)
        return await self._bus.publish(self.name, data, **options)

    async def publish_many(self, items: Iterable[_T], /, **options: Any) -> list[Receipt | BrokerError]:
        """As :meth:`Bus.publish_many`. ``TypeError`` for a payload of another type; then nothing is sent."""
        listed = list(items)
        for item in listed:
            self._check(item)
        return await self._bus.publish_many(self.name, listed, **options)

    def _check(self, data: Any) -> None:
        if self._types and not isinstance(data, self._types):
            names = " | ".join(kind.__name__ for kind in self._types)
            raise TypeError(f"topic {self.name!r} takes {names}, not {type(data).__name__}")
