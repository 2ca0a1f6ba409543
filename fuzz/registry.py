"""What is fuzzed: each target is a function of bytes, with seeds to start from."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import import_module
from pkgutil import iter_modules

__all__ = ["Target", "all_targets", "target"]

_targets: dict[str, Target] = {}


@dataclass(frozen=True)
class Target:
    """Something that reads outside bytes."""

    name: str
    run: Callable[[bytes], object]
    """Raises only for a fault: it catches documented errors. It returns what a program would keep."""
    seeds: Callable[[], Iterable[bytes]]
    text: str
    module: str
    measured: bool = True
    """Whether its memory is the library's, and not that of the code that makes the messages."""


def target(
    name: str, seeds: Callable[[], Iterable[bytes]], measured: bool = True
) -> Callable[[Callable[[bytes], object]], Target]:
    """Registers a function as a target; its docstring says what it reads."""

    def register(run: Callable[[bytes], object]) -> Target:
        module = run.__module__.rpartition(".")[2]
        made = _targets[name] = Target(name, run, seeds, (run.__doc__ or "").partition("\n")[0], module, measured)
        return made

    return register


def all_targets(only: str | None = None) -> dict[str, Target]:
    """All targets by name, sorted. Imports all of their modules, or only this one."""
    package = import_module(".targets", __package__)
    for module in [only] if only else [module.name for module in iter_modules(package.__path__)]:
        import_module(f"{package.__name__}.{module}")
    return dict(sorted(_targets.items()))
