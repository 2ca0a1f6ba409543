"""Text from outside, fit for a terminal and a log: it steers neither, and does not pass for a line of its own.

Events, headers, names and errors are written by others. Everything that the command line prints goes through
:func:`printable`; so does what the library logs, by :func:`logger`.
"""

from __future__ import annotations

import logging
import traceback
from typing import Final

from .errors import text_of

__all__ = ["logger", "printable", "printable_lines"]

_LONGEST: Final = 4096
"""Characters of one argument of a log line: a name of 1 MB does not fill a disk."""


def printable(text: object) -> str:
    """One line in which every character shows.

    White space of every kind is a space. Control characters (C0 and C1), bidirectional overrides, lone surrogates and
    whatever else is not printable are escaped, such as ``\\x9b`` and ``\\u202e``.
    """
    string = text if isinstance(text, str) else text_of(text)
    return string if string.isprintable() else "".join(map(_escaped, string))


def printable_lines(text: str) -> str:
    """The same for several lines. All but the first are indented: none passes for the beginning of another record."""
    return "\n  ".join(map(printable, text.splitlines()))


def _escaped(character: str) -> str:
    if character.isprintable():
        return character
    return " " if character.isspace() else character.encode("unicode_escape").decode()


class _Shown:
    """An argument of a log line, made printable when the line is written."""

    __slots__ = ("_value",)

    def __init__(self, value: object) -> None:
        self._value = value

    def __str__(self) -> str:
        return _clipped(text_of(self._value))

    def __repr__(self) -> str:
        return _clipped(repr(self._value))


def _clipped(text: str) -> str:
    return printable(text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…")


def _shown(value: object) -> object:
    if value is None or isinstance(value, int | float):
        return value
    if isinstance(value, str) and len(value) <= _LONGEST and value.isprintable():
        return value
    return _Shown(value)


class _Printable(logging.Filter):
    """Lets every record pass, with printable arguments and a printable traceback."""

    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.args, tuple):
            record.args = tuple(map(_shown, record.args))
        elif record.args:
            record.args = {name: _shown(value) for name, value in record.args.items()}
        if record.exc_info and not record.exc_text:  # formatters take this text where there is one
            record.exc_text = printable_lines("".join(traceback.format_exception(*record.exc_info)))
        return True


_FILTER: Final = _Printable()


def logger(name: str) -> logging.Logger:
    """The logger of that name, for the library and its adapters: what comes from outside goes into the arguments of its
    lines, and is printable there. Doing it again is nothing."""
    found = logging.getLogger(name)
    found.addFilter(_FILTER)
    return found
