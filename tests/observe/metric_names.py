"""Which metrics an expression of PromQL uses."""

from __future__ import annotations

import re

__all__ = ["base_name", "names_in"]

_TEXTS = re.compile(r'"[^"]*"')
_LABELS = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)|\{[^}]*\}")
_NAME = re.compile(r"\b(?:anybroker|messaging)_\w+")
_LABEL_VALUES = re.compile(r"^label_values\((.*), \w+\)$")
_OF_A_HISTOGRAM = re.compile(r"_(bucket|count|sum)$")


def names_in(expression: str) -> set[str]:
    """The names of series; those in the value of ``__name__`` too."""
    named = {name for value in re.findall(r'__name__=~?"([^"]*)"', expression) for name in value.split("|")}
    expression = _LABEL_VALUES.sub(r"\1", expression)
    return named | set(_NAME.findall(_LABELS.sub(" ", _TEXTS.sub('""', expression))))


def base_name(series: str) -> str:
    """The metric that a series is of: a histogram has three kinds of series."""
    return _OF_A_HISTOGRAM.sub("", series)
