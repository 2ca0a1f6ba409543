"""The tree of errors that the module draws is the tree that there is, and every error of the library is in it."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re

import anybroker
from anybroker import errors
from anybroker.errors import BatchFailed, Reject, Retry

INSIDE = {"RolledBack", "FileGone", "NotExact"}
"""Caught inside, or met by users as the class that they derive from."""


def drawn() -> dict[str, str]:
    """Each class of the tree in the docstring, and its parent."""
    assert errors.__doc__ is not None
    parents: dict[str, str] = {}
    path: list[tuple[int, str]] = []
    for line in errors.__doc__.split("::\n", 1)[1].split("Three more", 1)[0].splitlines():
        found = re.search(r"[A-Z]\w+", line)
        if found is None:
            continue
        depth, name = found.start(), found.group()
        while path and path[-1][0] >= depth:
            path.pop()
        parents[name] = path[-1][1] if path else "Exception"
        path.append((depth, name))
    return parents


def defined() -> dict[str, type[BaseException]]:
    """Every exception class that a module of the library defines."""
    found: dict[str, type[BaseException]] = {}
    for module_info in pkgutil.walk_packages(anybroker.__path__, "anybroker."):
        if module_info.name.endswith("__main__"):
            continue
        module = importlib.import_module(module_info.name)
        classes = {name: value for name, value in vars(module).items() if inspect.isclass(value)}
        found |= {
            name: value
            for name, value in classes.items()
            if issubclass(value, BaseException) and value.__module__ == module.__name__
        }
    return found


def test_the_tree_is_as_it_is_drawn() -> None:
    parents, classes = drawn(), defined()
    assert len(parents) > 20
    for name, parent in parents.items():
        assert name in classes, f"{name} is drawn, and not there"
        bases = [base.__name__ for base in classes[name].__bases__]
        assert parent in bases, f"{name} is drawn under {parent}, and its bases are {bases}"


def test_every_error_is_in_the_tree() -> None:
    parents = drawn()
    for name, value in defined().items():
        if name.startswith("_") or name in INSIDE or issubclass(value, Reject | Retry | BatchFailed):
            continue
        assert name in parents, f"{value.__module__}.{name} is not in the tree"


def test_all_lists_every_class_of_the_module() -> None:
    here = {name for name, value in defined().items() if value.__module__ == errors.__name__}
    assert here == set(errors.__all__)


def test_the_old_places_still_have_them() -> None:
    from anybroker import subscription
    from anybroker.middleware import retry as _retry  # noqa: F401 - the module's own name is the class

    retry_module = importlib.import_module("anybroker.middleware.retry")
    assert subscription.UnhandledError is errors.UnhandledError  # type: ignore[attr-defined] # imported there
    assert subscription.ExpiredError is errors.ExpiredError  # type: ignore[attr-defined] # imported there
    assert retry_module.AttemptsExhausted is errors.AttemptsExhausted
