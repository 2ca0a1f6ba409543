"""Reading the parameters of a function without evaluating its annotations."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from typing import Any

__all__ = ["signature"]


def signature(function: Callable[..., Any]) -> inspect.Signature:
    """Like ``inspect.signature``, but without evaluating annotations. Since Python 3.14 (PEP 649) it does so, and
    raises NameError for a type that is imported for type checkers only."""
    if sys.version_info >= (3, 14):
        from annotationlib import Format

        return inspect.signature(function, annotation_format=Format.FORWARDREF)
    return inspect.signature(function)
