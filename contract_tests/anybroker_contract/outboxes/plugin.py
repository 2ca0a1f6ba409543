"""The pytest plugin:
``pytest -p anybroker_contract.outboxes.plugin --pyargs anybroker_contract.outboxes --outbox sqlite``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from .._subject_plugin import SubjectPlugin, Suite
from ._kit import OutboxKit
from ._outboxes import OUTBOXES
from .harness import DISTURBANCES

__all__: list[str] = []


def _mutants() -> Any:
    from .mutants import MUTANTS

    return MUTANTS


_plugin = SubjectPlugin(
    Suite(
        OUTBOXES,
        Path(__file__).parent,
        "outboxes",
        "sqlite",
        DISTURBANCES,
        OutboxKit,
        _mutants,
        "anybroker contract suite of outboxes",
    )
)
globals().update(_plugin.hooks())


@pytest.fixture
def kit(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """What a test works with, on one outbox."""
    return _plugin.kit(request, tmp_path)
