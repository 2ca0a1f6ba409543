"""The adapters under test: what they declare, and their brokers with TLS and credentials."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from anybroker.capabilities import Capabilities

from ._subjects import Kind, Subjects
from .harness import BrokerHarness
from .harnesses import BUILT_IN, VARIANTS
from .secured import Secured

__all__ = ["ADAPTERS", "Adapters", "find_harnesses"]

ADAPTERS = Kind("adapter", "brokers", BrokerHarness, BUILT_IN, variants=VARIANTS)


def find_harnesses(names: Iterable[str]) -> dict[str, type[BrokerHarness]]:
    """Harness classes by adapter name, for short names, ``all`` and ``module:Class``. UsageError for a wrong one."""
    return ADAPTERS.find(names)


class Adapters(Subjects):
    """The harnesses of one run, with what their adapters declare."""

    def __init__(self, classes: dict[str, type[BrokerHarness]]) -> None:
        super().__init__(ADAPTERS, classes)
        self.capabilities: dict[str, Capabilities] = {
            name: harness.capabilities() for name, harness in self.shared.items()
        }
        """Asked once: for an installed adapter it means a search of all packages."""
        self._secured: dict[str, Secured] = {}

    def secured_of(self, name: str, folder: Callable[[], Path]) -> Secured:
        """The broker with TLS and credentials, started when the first test asks for it."""
        if name not in self._secured:
            self._secured[name] = self.shared[name].secured(folder())
        return self._secured[name]

    def stop(self) -> None:
        """End what this process started."""
        while self._secured:
            self._secured.popitem()[1].stop()
        super().stop()
