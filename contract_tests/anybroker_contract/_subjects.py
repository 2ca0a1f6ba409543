"""What a suite is run on: finding the harnesses, starting the servers once, ending them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Protocol, TypedDict

import pytest

from ._on_server import TakesServer
from .brokers import start_brokers
from .harness import BrokerUnavailable

__all__ = ["Harness", "Kind", "Subjects", "Told"]


class Told(TypedDict):
    """What a worker is told about a server."""

    started: str
    """What the harness's setup returned."""
    can: list[str]
    """What can be done to it."""


class Harness(Protocol):
    """What the harnesses of all suites have."""

    name: Any
    detail: str
    started: str

    def setup(self) -> str:
        """Start or find the server."""
        ...

    def attach(self, started: str) -> None:
        """Take what ``setup`` returned."""
        ...

    def teardown(self) -> None:
        """End what ``setup`` started."""
        ...

    def can(self) -> frozenset[str]:
        """The names of what can be done."""
        ...


@dataclass(frozen=True)
class Kind:
    """What is tested: adapters, stores, outboxes."""

    what: str
    """As in the suite's option: ``store``."""
    plural: str
    harness: type[Any]
    """The class that all harnesses derive from."""
    built_in: Mapping[str, str]
    """Short name to ``module:Class``: what ``all`` means, as far as the packages are there."""
    packages: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Short name to the packages that must be installed."""
    variants: Mapping[str, str] = field(default_factory=dict)
    """More short names, which ``all`` leaves out."""

    def importable(self, name: str) -> bool:
        """Whether the packages of this one are installed."""
        return all(find_spec(package) is not None for package in self.packages.get(name, ()))

    def find(self, names: Iterable[str]) -> dict[str, type[Any]]:
        """Harness classes by name, for short names, ``all`` and ``module:Class``. UsageError for a wrong one."""
        short = {**self.built_in, **self.variants}
        wanted: list[str] = []
        for name in names:
            if name == "all":
                wanted += [path for each, path in self.built_in.items() if self.importable(each)]
            elif name in short and not self.importable(name):
                raise pytest.UsageError(f"--{self.what} {name}: not installed: pip install 'anybroker[{name}]'")
            else:
                wanted.append(short.get(name, name))
        found: dict[str, type[Any]] = {}
        for path in wanted:
            module, _, attribute = path.partition(":")
            if not attribute:
                raise pytest.UsageError(
                    f"--{self.what} {path}: is neither a short name ({', '.join(short)}, all) nor module:Class"
                )
            try:
                harness = getattr(import_module(module), attribute)
            except (ImportError, AttributeError) as exc:
                raise pytest.UsageError(f"--{self.what} {path}: cannot be imported: {exc}") from exc
            if not (isinstance(harness, type) and issubclass(harness, self.harness)):
                raise pytest.UsageError(
                    f"--{self.what} {path}: is not a subclass of {self.harness.__module__}.{self.harness.__name__}"
                )
            found[harness.name] = harness  # type: ignore[attr-defined] # every harness has one
        return found


class Subjects:
    """The harnesses of one run. The session's process starts the servers; a worker is told about them."""

    def __init__(self, kind: Kind, classes: dict[str, type[Any]]) -> None:
        self.kind = kind
        self.shared: dict[str, Any] = {name: harness() for name, harness in classes.items()}
        self.can: dict[str, frozenset[str]] = {name: harness.can() for name, harness in self.shared.items()}
        """What can be done to each server, as the harness that set it up says: a worker's harness does not know whether
        the server belongs to somebody else."""
        self.unavailable: dict[str, BrokerUnavailable] = {}
        self._own: dict[str, Any] = {}
        self._set_up: list[Any] = []

    def start(self, say: Callable[[str], None]) -> None:
        """Start every server, those of :mod:`anybroker_contract.brokers` side by side."""
        servers = {harness.kind for harness in self.shared.values() if isinstance(harness, TakesServer)}
        found = start_brokers(sorted(servers), say=lambda name, text: say(f"{name}: {text}"))
        for name, harness in self.shared.items():
            try:
                if isinstance(harness, TakesServer):
                    self._set_up.append(harness)
                    started = harness.take(found[harness.kind])
                else:
                    started = harness.setup()
                    self._set_up.append(harness)
            except BrokerUnavailable as exc:
                self.unavailable[name] = exc
                continue
            self.shared[name].attach(started)
            self.can[name] = harness.can()

    def told(self) -> dict[str, Told]:
        """For the workers, by name; those without a server are absent."""
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

    def of_its_own(self, name: str) -> Any:
        """A second server, started when the first test asks for it; for tests that disturb it."""
        if name not in self._own:
            harness = type(self.shared[name])()
            self._set_up.append(harness)
            harness.attach(harness.setup())
            self._own[name] = harness
        return self._own[name]

    def stop(self) -> None:
        """End what this process started."""
        while self._set_up:
            self._set_up.pop().teardown()
