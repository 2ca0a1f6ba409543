"""The memory adapter: every test has its own broker, shared by its Buses."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from anybroker import MemoryBroker
from anybroker.bus import AdapterFactory

from ..harness import BrokerHarness

__all__ = ["MemoryHarness"]


class MemoryHarness(BrokerHarness):
    """In this process."""

    name: ClassVar[str] = "memory"
    detail = "in this process"

    def broker(self, folder: Path) -> AdapterFactory:
        """A new one."""
        return MemoryBroker()
