"""Which exceptions a setting means: classes, and functions that look at one."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from inspect import iscoroutinefunction
from typing import TypeAlias

from ..errors import ConfigError, exc_info_of
from ..printable import logger

__all__ = ["Exceptions", "Matching", "listed"]

_log = logger("anybroker.handler")

Which: TypeAlias = type[Exception] | Callable[[Exception], object]
Exceptions: TypeAlias = Which | Iterable[Which]
"""A class, a function of an exception whose result is true for those that are meant, or several of both."""


class Matching:
    """Says of an exception whether it is meant. A function that raises does not match, which is logged once."""

    __slots__ = ("_classes", "_functions", "_name", "_said")

    def __init__(self, name: str, items: tuple[Which, ...]) -> None:
        """``name``: the setting. Raises ConfigError for what is neither a class of exceptions nor a function."""
        self._name = name
        self._classes: tuple[type, ...] = tuple(item for item in items if isinstance(item, type))
        self._functions = tuple(item for item in items if not isinstance(item, type))
        self._said: set[int] = set()
        for item in items:
            if isinstance(item, type):
                right = issubclass(item, Exception)
            else:
                right = callable(item) and not iscoroutinefunction(item)
            if not right:
                raise ConfigError(
                    name,
                    f"{item!r} is neither an exception class nor a function",
                    "Give classes, such as ValueError, or plain functions of an exception.",
                )

    def __call__(self, error: Exception) -> bool:
        """Whether it is meant."""
        kinds = type(error).__mro__  # as ``except`` decides, whatever the class says of its instances
        return any(kind in kinds for kind in self._classes) or any(
            self._says(at, function, error) for at, function in enumerate(self._functions)
        )

    def _says(self, at: int, function: Callable[[Exception], object], error: Exception) -> bool:
        try:
            return bool(function(error))
        except Exception as exc:  # noqa: BLE001 - it is the user's, and what failed is the event
            if at not in self._said:
                self._said.add(at)
                _log.error(
                    "%s: the function %s failed with %s, which counts as false. This is said once",
                    self._name,
                    getattr(function, "__qualname__", type(function).__name__),
                    type(exc).__name__,
                    exc_info=exc_info_of(exc),
                )
            return False


def listed(given: Exceptions) -> tuple[Which, ...]:
    """One or several, as a tuple."""
    return tuple(given) if isinstance(given, Iterable) and not isinstance(given, type) else (given,)
