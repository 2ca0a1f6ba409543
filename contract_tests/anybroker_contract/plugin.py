"""The pytest plugin: ``pytest -p anybroker_contract.plugin --pyargs anybroker_contract --adapter memory``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn, cast

import pytest

from ._adapters import ADAPTERS, Adapters
from ._kit import Kit
from ._schedule import SECURED
from ._subject_plugin import SubjectPlugin, Suite
from .harness import DISTURBANCES, BrokerUnavailable, Clustered
from .marks import declares
from .secured import Secured

__all__: list[str] = []

OTHER_SUITES = [Path(__file__).with_name(name) for name in ("stores", "outboxes")]
"""Those of idempotency stores and outboxes, which have plugins of their own."""


def _mutants() -> Any:
    from .mutants import MUTANTS

    return MUTANTS


class AdapterPlugin(SubjectPlugin):
    """Tests are chosen by capabilities, and there are brokers with TLS and clusters."""

    @property
    def adapters(self) -> Adapters:
        """Those of this run."""
        return cast(Adapters, self._subjects)

    def _found(self, classes: dict[str, type[Any]]) -> Adapters:
        return Adapters(classes)

    def _declared(self, name: str) -> Any:
        return self.adapters.capabilities[name]

    def _inapplicable(self, name: str, marks: list[pytest.Mark]) -> str | None:
        capabilities = self.adapters.capabilities[name]
        for wanted, there, reason in (("requires", True, "absent"), ("refuses", False, "declared")):
            for item in self._arguments(marks, wanted):
                if declares(capabilities, item) != there:
                    return f"{reason}: {item}"
        return None

    def _place(self, name: str, marks: list[pytest.Mark]) -> str:
        return f"{name}{SECURED}" if "secured" in self._arguments(marks, "needs_harness") else name

    def _can(self, name: str) -> frozenset[str]:
        return super()._can(name) | {"url"}  # every adapter's broker has one

    def _made(self, name: str, harness: Any, folder: Path, **options: Any) -> Any:
        return Kit(harness, self.adapters.capabilities[name], folder, **options)

    def pytest_configure(self, config: pytest.Config) -> None:
        """Marks, harnesses, the ledger."""
        super().pytest_configure(config)
        config.addinivalue_line("markers", "refuses(*names): capabilities whose absence the test shows to be refused")

    def pytest_ignore_collect(self, collection_path: Path) -> bool | None:
        """Leave the other suites out: other options, other fixtures."""
        return True if collection_path in OTHER_SUITES else None


_plugin = AdapterPlugin(
    Suite(
        ADAPTERS,
        Path(__file__).parent,
        "adapters",
        "memory",
        DISTURBANCES,
        Kit,
        _mutants,
        "anybroker contract suite",
    )
)
globals().update(_plugin.hooks())


@pytest.fixture
def kit(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """What a test works with, on one adapter."""
    return _plugin.kit(request, tmp_path)


@pytest.fixture
def secured(request: pytest.FixtureRequest, kit: Kit, tmp_path_factory: pytest.TempPathFactory) -> Secured:
    """The adapter's broker with TLS and credentials; started when the first test of this process asks for it."""
    name = kit.harness.name
    try:
        return _plugin.adapters.secured_of(name, lambda: tmp_path_factory.mktemp(f"secured-{name}"))
    except BrokerUnavailable as exc:
        _do_without(request.config, name, "broker with TLS and credentials", exc)


@pytest.fixture
def cluster(request: pytest.FixtureRequest, kit: Kit) -> Iterator[Clustered]:
    """Three servers that are one broker, for this test only."""
    try:
        found = kit.harness.cluster()
    except BrokerUnavailable as exc:
        _do_without(request.config, kit.harness.name, "broker of three servers", exc)
    yield found
    found.servers.stop()


def _do_without(config: pytest.Config, name: str, what: str, exc: BrokerUnavailable) -> NoReturn:
    """Fail the test if the adapter's broker is required, else skip it."""
    required = {item.strip() for item in config.option.require_brokers.split(",")}
    if required & {name, "all"}:
        pytest.fail(f"a {what}: {exc.why}", pytrace=False)
    pytest.skip(f"no {what}: {exc.why}")
