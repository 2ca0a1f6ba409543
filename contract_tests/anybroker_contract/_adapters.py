"""The adapters under test: finding their harnesses, starting the brokers once, ending them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from importlib import import_module
from pathlib import Path
from typing import TypedDict

import pytest

from anybroker.capabilities import Capabilities

from .harness import BrokerHarness, BrokerUnavailable
from .harnesses import BUILT_IN, VARIANTS
from .secured import Secured

__all__ = ["Adapters", "find_harnesses"]

Say = Callable[[str], None]


class Told(TypedDict):
    """What a worker is told about a broker."""

    started: str
    """What the harness's setup returned."""
    can: list[str]
    """What can be done to it."""


def find_harnesses(names: Iterable[str]) -> dict[str, type[BrokerHarness]]:
    """Harness classes by adapter name, for short names, ``all`` and ``module:Class``. UsageError for a wrong one."""
    short = BUILT_IN | VARIANTS
    wanted: list[str] = []
    for name in names:
        wanted += BUILT_IN.values() if name == "all" else [short.get(name, name)]
    found: dict[str, type[BrokerHarness]] = {}
    for path in wanted:
        module, _, attribute = path.partition(":")
        if not attribute:
            raise pytest.UsageError(
                f"--adapter {path}: is neither a short name ({', '.join(short)}, all) nor module:Class"
            )
        try:
            harness = getattr(import_module(module), attribute)
        except (ImportError, AttributeError) as exc:
            raise pytest.UsageError(f"--adapter {path}: cannot be imported: {exc}") from exc
        if not (isinstance(harness, type) and issubclass(harness, BrokerHarness)):
            raise pytest.UsageError(f"--adapter {path}: is not a subclass of anybroker_contract.BrokerHarness")
        found[harness.name] = harness
    return found


class Adapters:
    """The harnesses of one run. The session's process starts the brokers; a worker is told about them."""

    def __init__(self, classes: dict[str, type[BrokerHarness]]) -> None:
        self.shared: dict[str, BrokerHarness] = {name: harness() for name, harness in classes.items()}
        self.own: dict[str, BrokerHarness] = {}
        """Brokers that only this process uses, for tests that disturb them."""
        self.capabilities: dict[str, Capabilities] = {
            name: harness.capabilities() for name, harness in self.shared.items()
        }
        """Asked once: for an installed adapter it means a search of all packages."""
        self.can: dict[str, frozenset[str]] = {name: harness.can() for name, harness in self.shared.items()}
        """What can be done to each broker, as the harness that set it up says: a worker's harness does not know whether
        the server belongs to somebody else."""
        self.unavailable: dict[str, BrokerUnavailable] = {}
        self._set_up: list[BrokerHarness] = []
        self._secured: dict[str, Secured] = {}

    def start(self, say: Say) -> None:
        """Start every broker, those of :mod:`anybroker_contract.brokers` side by side."""
        from .brokers import start_brokers
        from .harnesses.server import ServerHarness

        servers = {harness for harness in self.shared.values() if isinstance(harness, ServerHarness)}
        found = start_brokers([harness.kind for harness in servers], say=lambda name, text: say(f"{name}: {text}"))
        for name, harness in self.shared.items():
            try:
                if isinstance(harness, ServerHarness):
                    self._set_up.append(harness)
                    started = harness.take(found[harness.kind])
                else:
                    started = harness.setup()
                    self._set_up.append(harness)
            except BrokerUnavailable as exc:
                self.unavailable[name] = exc
                continue
            harness.attach(started)
            self.can[name] = harness.can()

    def told(self) -> dict[str, Told]:
        """For the workers, by adapter; those without a broker are absent."""
        return {
            name: Told(started=harness.started, can=sorted(self.can[name]))
            for name, harness in self.shared.items()
            if name not in self.unavailable
        }

    def attach(self, told: dict[str, Told]) -> None:
        """In a worker."""
        for name, harness in self.shared.items():
            if name in told:
                harness.attach(told[name]["started"])
                self.can[name] = frozenset(told[name]["can"])
            else:
                self.unavailable[name] = BrokerUnavailable("not started")

    def of_its_own(self, name: str) -> BrokerHarness:
        """A second broker, started when the first test asks for it; for tests that disturb it."""
        if name not in self.own:
            harness = type(self.shared[name])()
            self._set_up.append(harness)
            harness.attach(harness.setup())
            self.own[name] = harness
        return self.own[name]

    def secured_of(self, name: str, folder: Callable[[], Path]) -> Secured:
        """The broker with TLS and credentials, started when the first test asks for it."""
        if name not in self._secured:
            self._secured[name] = self.shared[name].secured(folder())
        return self._secured[name]

    def stop(self) -> None:
        """End what this process started."""
        while self._secured:
            self._secured.popitem()[1].stop()
        while self._set_up:
            self._set_up.pop().teardown()
