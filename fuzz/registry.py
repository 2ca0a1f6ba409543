"""What is fuzzed: each target is a function of bytes, with seeds to begin from."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import import_module
from pkgutil import iter_modules

__all__ = ["Target", "all_targets", "target"]

_targets: dict[str, Target] = {}


@dataclass(frozen=True)
class Target:
    """Something that reads bytes of others."""

    name: str
    run: Callable[[bytes], object]
    """Raises nothing but a fault: outcomes of ours are caught in it. What it returns is what a program would keep."""
    seeds: Callable[[], Iterable[bytes]]
    text: str


def target(name: str, seeds: Callable[[], Iterable[bytes]]) -> Callable[[Callable[[bytes], object]], Target]:
    """Registers a function as a target; its docstring says what it reads."""

    def register(run: Callable[[bytes], object]) -> Target:
        made = _targets[name] = Target(name, run, seeds, (run.__doc__ or "").partition("\n")[0].rstrip("."))
        return made

    return register


def all_targets() -> dict[str, Target]:
    """All of them by name, sorted. Imports what they are about."""
    package = import_module(".targets", __package__)
    for module in iter_modules(package.__path__):
        import_module(f"{package.__name__}.{module.name}")
    return dict(sorted(_targets.items()))
