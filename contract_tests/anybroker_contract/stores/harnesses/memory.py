"""The store in memory: one object, one process."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import ClassVar

from anybroker.idempotency import MemoryStore, Store

from ..clock import shifted
from ..harness import StoreHarness

__all__ = ["MemoryStores"]


class MemoryStores(StoreHarness):
    """In this process."""

    name: ClassVar[str] = "memory"
    durable: ClassVar[bool] = False
    processes: ClassVar[bool] = False
    parking: ClassVar[bool] = True
    timeout: ClassVar[float] = 1.0
    detail = "in this process"

    def store(self, place: str, *, retain: float | None = None) -> Store:
        """A new one."""
        return MemoryStore() if retain is None else MemoryStore(retain=retain)

    def by_url(self, place: str) -> str:
        """Of another one."""
        return "memory://"

    def clock(self) -> AbstractContextManager[Callable[[float], None]]:
        """This process's."""
        return shifted("anybroker.idempotency")
