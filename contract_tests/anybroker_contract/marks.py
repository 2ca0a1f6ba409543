"""What a test declares: the capability, or the absence, that it needs, and what it does to the broker."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any, Literal, TypeVar

import pytest

from anybroker.capabilities import Capabilities, Support

from .harness import DISTURBANCES

__all__ = ["declares", "is_capability", "needs_harness", "refuses", "requires", "tier"]

_F = TypeVar("_F", bound=Callable[..., Any])
Tier = Literal["short", "full", "stress"]

_NAMES = {field.name for field in fields(Capabilities)}
_OTHERS = {
    "absent_url",
    "cluster",
    "delete",
    "delete_lane",
    "distrust",
    "grow",
    "hurried",
    "in_mode",
    "raw",
    "route",
    "secured",
    "url",
}
"""What a harness may have besides disturbances."""


def is_capability(name: str) -> bool:
    """Whether there is a capability, or a limit, of that name."""
    return name in _NAMES


def declares(capabilities: Capabilities, name: str) -> bool:
    """Whether the adapter declares it: a capability that is not absent, a limit that is set, or
    ``acknowledgement=cumulative``."""
    name, _, wanted = name.partition("=")
    value = getattr(capabilities, name)
    if wanted:
        return bool(value.value == wanted)
    return bool(value) if isinstance(value, Support) else value is not None


def _checked(names: tuple[str, ...]) -> tuple[str, ...]:
    for name in names:
        if not is_capability(name.partition("=")[0]):
            raise ValueError(f"there is no capability {name!r}")
    return names


def requires(*names: str) -> Callable[[_F], _F]:
    """The test needs these capabilities (or limits, or ``acknowledgement=cumulative``)."""
    return pytest.mark.requires(*_checked(names))


def refuses(*names: str) -> Callable[[_F], _F]:
    """The test shows that asking for what is absent fails at the start; it runs where all of these are absent."""
    return pytest.mark.refuses(*_checked(names))


def needs_harness(*names: str) -> Callable[[_F], _F]:
    """The test does this to the broker; it runs where the harness can, on a separate broker where it disturbs.

    ``delete``, ``delete_lane``, ``grow``: the test does this to its own topic, as an operator does. ``distrust``:
    the broker considers its clock wrong in its own topic. ``hurried``: each request of its Buses has a second.
    ``secured``, ``cluster``: the test takes the fixture of that name. ``route``: it goes through its own proxy.
    ``in_mode``: it publishes in one content mode. ``raw``: it speaks to the broker without anybroker."""
    for name in names:
        if name not in DISTURBANCES | _OTHERS:
            raise ValueError(f"no harness has {name!r}")
    return pytest.mark.needs_harness(*names)


def tier(name: Tier) -> Callable[[_F], _F]:
    """The test runs only in this tier and in larger ones."""
    return pytest.mark.tier(name)
