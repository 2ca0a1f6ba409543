"""Matching one field of a dead letter: ``data.cents>100``, ``type=order.v1``, ``.data.items[0].sku``."""

from __future__ import annotations

import json
import operator
import re
from collections.abc import Callable
from typing import Any, Final

from ..adapter import Foreign
from ..errors import ConfigError, EventError
from .letter import DeadLetter

__all__ = ["Where"]

_PATH: Final = r"\.?[A-Za-z_][\w-]*(?:\.[\w-]+|\[[0-9]{1,6}\])*"
_EXPRESSION: Final = re.compile(rf"\s*({_PATH})\s*(?:(==|!=|>=|<=|=|>|<|~)\s*(.*?)\s*)?", re.DOTALL)
_STEP: Final = re.compile(r"[\w-]+")
_LONGEST: Final = 1_000
_ORDERS: Final[dict[str, Callable[[Any, Any], bool]]] = {
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
}
_REMEDY: Final = (
    "Write a path, and what it is compared with: data.cents>100, data.customer.id=c-7, type!=order.v1, "
    "headers.x-tenant~north, or data.voucher alone for what has it. Operators: = != > >= < <= and ~ for 'contains'."
)
_ABSENT: Final = object()


class Where:
    """One comparison. ``text``: as it was written."""

    def __init__(self, text: str) -> None:
        """Raises ConfigError for what is not one."""
        found = _EXPRESSION.fullmatch(text) if isinstance(text, str) and len(text) <= _LONGEST else None
        if found is None:
            shown = repr(text)
            raise ConfigError("where", f"{shown[:100]} is not a comparison of a field", _REMEDY)
        path, self._operator, value = found.groups()
        self.text = text
        self._steps = _STEP.findall(path)
        if self._operator is None:
            return
        self._text: str = value
        try:
            self._value: Any = json.loads(value)
        except (ValueError, RecursionError):
            self._value = value  # a text without quotes
        if self._operator in _ORDERS and not _has_order(self._value):
            raise ConfigError(
                "where", f"{text!r}: {value[:60]!r} is neither a number nor a text, and has no order", _REMEDY
            )

    def __repr__(self) -> str:
        return f"Where({self.text!r})"

    def matches(self, letter: DeadLetter) -> bool:
        """Whether the letter has the field, and it compares like this. A field that is absent, or that cannot be read,
        matches nothing but ``!=``; numbers and texts are never compared with each other."""
        there = self._field(letter)
        if self._operator is None:
            return there is not _ABSENT
        if self._operator == "!=":
            return not self._equal(there)
        if there is _ABSENT:
            return False
        if self._operator in ("=", "=="):
            return self._equal(there)
        if self._operator == "~":
            return isinstance(there, str) and self._said() in there
        if _is_number(there) != _is_number(self._value):
            return isinstance(there, str) and _ORDERS[self._operator](there, self._text)
        return _has_order(there) and _ORDERS[self._operator](there, self._value)

    def _said(self) -> str:
        return self._value if isinstance(self._value, str) else self._text

    def _equal(self, there: object) -> bool:
        if isinstance(there, str):
            return there == self._said()
        alike = type(there) is type(self._value) or (_is_number(there) and _is_number(self._value))
        return alike and bool(there == self._value)

    def _field(self, letter: DeadLetter) -> Any:
        first, *rest = self._steps
        event = letter.event
        there: Any
        if first == "headers":
            return letter.headers.get(".".join(rest).lower(), _ABSENT)
        if isinstance(event, Foreign):
            return _ABSENT
        if first != "data":
            return _ABSENT if rest else event.attributes.get(first, _ABSENT)
        try:
            there = event.data if event.has_data else _ABSENT
        except EventError:
            return _ABSENT
        for step in rest:
            if isinstance(there, dict):
                there = there.get(step, _ABSENT)
            elif isinstance(there, list) and step.isdecimal() and int(step) < len(there):
                there = there[int(step)]
            else:
                return _ABSENT
        return there


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _has_order(value: object) -> bool:
    return isinstance(value, str) or _is_number(value)
