"""The pytest plugin:
``pytest -p anybroker_contract.stores.plugin --pyargs anybroker_contract.stores --store memory``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from .._subject_plugin import SubjectPlugin, Suite
from ._kit import StoreKit
from ._stores import STORES
from .harness import DISTURBANCES

__all__: list[str] = []


def _mutants() -> Any:
    from .mutants import MUTANTS

    return MUTANTS


_plugin = SubjectPlugin(
    Suite(
        STORES,
        Path(__file__).parent,
        "idempotency stores",
        "memory",
        DISTURBANCES,
        StoreKit,
        _mutants,
        "anybroker contract suite of stores",
    )
)
globals().update(_plugin.hooks())


@pytest.fixture
def kit(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """What a test works with, on one store."""
    return _plugin.kit(request, tmp_path)
