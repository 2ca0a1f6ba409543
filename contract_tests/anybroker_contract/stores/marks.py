"""What a test of a store declares: what it needs of the store, and what it does to the server."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import pytest

from ..marks import tier
from .harness import DECLARED, DISTURBANCES, EXTRAS

__all__ = ["needs_harness", "requires", "tier"]

_F = TypeVar("_F", bound=Callable[..., Any])


def requires(*names: str) -> Callable[[_F], _F]:
    """The test needs stores that declare this: ``durable``, ``parking``, ``processes``, ``server``,
    ``transactional``."""
    for name in names:
        if name not in DECLARED:
            raise ValueError(f"no store declares {name!r}")
    return pytest.mark.requires(*names)


def needs_harness(*names: str) -> Callable[[_F], _F]:
    """The test does this to the store's server or file; it runs where the harness can, apart from other tests."""
    for name in names:
        if name not in DISTURBANCES | EXTRAS:
            raise ValueError(f"no harness has {name!r}")
    return pytest.mark.needs_harness(*names)
