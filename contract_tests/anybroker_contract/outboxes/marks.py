"""What a test of an outbox declares: what it needs of the outbox, and what it does to the server."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import pytest

from ..marks import tier
from .harness import DECLARED, DISTURBANCES, EXTRAS

__all__ = ["needs_harness", "requires", "tier"]

_F = TypeVar("_F", bound=Callable[..., Any])


def requires(*names: str) -> Callable[[_F], _F]:
    """The test needs outboxes that declare this: ``aborts``, ``concurrent``, ``server``, ``whole``."""
    for name in names:
        if name not in DECLARED:
            raise ValueError(f"no outbox declares {name!r}")
    return pytest.mark.requires(*names)


def needs_harness(*names: str) -> Callable[[_F], _F]:
    """The test does this to the outbox's server or file, or needs it of the harness."""
    for name in names:
        if name not in DISTURBANCES | EXTRAS:
            raise ValueError(f"no harness has {name!r}")
    return pytest.mark.needs_harness(*names)
