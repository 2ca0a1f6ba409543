"""Moving the clock that modules go by, in this process."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["set_ahead", "shifted"]

_MONOTONIC, _TIME = time.monotonic, time.time


@contextmanager
def shifted(package: str) -> Iterator[Callable[[float], None]]:
    """A function that moves the clocks of this package forward: of the modules that are imported now and have written
    ``from time import monotonic`` or ``time``. Other modules keep the machine's clock."""
    ahead = 0.0

    def monotonic() -> float:
        return _MONOTONIC() + ahead

    def wall() -> float:
        return _TIME() + ahead

    def forward(seconds: float) -> None:
        nonlocal ahead
        ahead += seconds

    replaced = []
    for module_name, module in list(sys.modules.items()):
        if module_name == package or module_name.startswith(f"{package}."):
            for name, value in list(vars(module).items()):
                if value is _MONOTONIC or value is _TIME:
                    replaced.append((module, name, value))
                    setattr(module, name, monotonic if value is _MONOTONIC else wall)
    if not replaced:
        raise ValueError(f"no module of {package} goes by time.monotonic or time.time")
    try:
        yield forward
    finally:
        for module, name, value in replaced:
            setattr(module, name, value)


def set_ahead(seconds: float) -> None:
    """Let the clocks of this whole process be ahead of the machine's by so many seconds. For a process that was just
    started: what has imported the functions by name keeps the right ones."""
    time.monotonic = lambda: _MONOTONIC() + seconds
    time.time = lambda: _TIME() + seconds
