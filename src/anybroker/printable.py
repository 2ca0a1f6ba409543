"""Making text from outside safe for a terminal and a log: it cannot control the terminal or fake a log line.

Other programs write events, headers, names and errors. Everything that the command line prints goes through
:func:`printable`, and so does everything that the library logs, through :func:`logger`.
"""

from __future__ import annotations

import logging
import re
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import Final

from .errors import text_of

__all__ = ["brief", "clip", "in_one_line", "lines_again", "logger", "printable", "printable_lines"]

_LONGEST: Final = 4096
"""Most characters of one argument of a log line: a name of 1 MB must not fill a disk."""
_LONGEST_TRACEBACK: Final = 65_536
"""Most characters of one traceback. What is too many is cut from its middle."""


def printable(text: object) -> str:
    """The text as one line in which every character is visible.

    Any white space becomes a space. Control characters (C0 and C1), bidirectional overrides, lone surrogates and
    everything else that is not printable are escaped, such as ``\\x9b`` and ``\\u202e``.
    """
    string = text if isinstance(text, str) else text_of(text)
    return string if string.isprintable() else "".join(map(_escaped, string))


def brief(text: str, limit: int = 1_000) -> str:
    """Printable text, made of the first so many characters. For what others may have made as long as they like: making
    all of it printable first could take seconds."""
    return printable(text) if len(text) <= limit else f"{printable(text[:limit])}…"


def clip(text: str, limit: int) -> str:
    """Printable text of at most ``limit`` UTF-8 bytes; transport headers carry no line breaks."""
    clean = printable(text[: limit + 1])  # every character takes at least one byte
    data = clean.encode()
    return clean if len(data) <= limit else data[: limit - 3].decode("utf-8", "ignore") + "…"


def printable_lines(text: str) -> str:
    """The same for several lines. All but the first are indented, so that none looks like the start of a log record."""
    return "\n  ".join(map(printable, text.splitlines()))


_ESCAPED: Final = re.compile(r"\\([\\n])")


def in_one_line(text: str) -> str:
    """The text with every line feed as ``\\n`` and every backslash as two, for a header. :func:`lines_again` gives the
    text back."""
    return text.replace("\\", r"\\").replace("\n", r"\n")


def lines_again(text: str) -> str:
    """What :func:`in_one_line` was given. Other escapes, which it never writes, stay as they are."""
    return _ESCAPED.sub(lambda found: "\n" if found[1] == "n" else "\\", text) if "\\" in text else text


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
        if record.exc_info and not record.exc_text:  # formatters use this text if it is set
            text = _formatted(*record.exc_info)
            if len(text) > _LONGEST_TRACEBACK:
                text = f"{text[: _LONGEST_TRACEBACK // 2]}\n…\n{text[-_LONGEST_TRACEBACK // 2 :]}"
            record.exc_text = printable_lines(text)
        return True


def _formatted(kind: type[BaseException] | None, error: BaseException | None, frames: TracebackType | None) -> str:
    try:
        return "".join(traceback.format_exception(kind, error, frames))
    except Exception as exc:  # noqa: BLE001 - it is the user's class
        name = "" if kind is None else kind.__name__
        why = f"(the rest of its traceback cannot be made: {type(exc).__name__})"
        return "".join([*traceback.format_tb(frames), f"{name}: {text_of(error)}\n{why}\n"])


_FILTER: Final = _Printable()
_COMPLAINT: Final = logging.Handler()
"""Shows on stderr, as handlers of ``logging`` do, that a record could not be written."""


def logger(name: str) -> logging.Logger:
    """The logger of that name, for the library and its adapters. Pass text from outside as arguments of the log call:
    they are made printable. Idempotent.

    A log call never fails, or a handler or a filter of the program that raises would end what only wanted to log. What
    it raises is shown on stderr, unless ``logging.raiseExceptions`` is off. ``extra`` may have names that the program's
    record factory also sets: the record has what ``extra`` says then.
    """
    named = logging.getLogger(name)
    if _FILTER not in named.filters:
        named.addFilter(_FILTER)
        setattr(named, "handle", partial(_handle, named.handle))  # noqa: B010 - of this logger only
        setattr(named, "makeRecord", partial(_make_record, named.makeRecord))  # noqa: B010 - as above
    return named


def _handle(handle: Callable[[logging.LogRecord], None], record: logging.LogRecord) -> None:
    try:
        handle(record)
    except Exception:  # noqa: BLE001 - the program's own
        with suppress(Exception):
            _COMPLAINT.handleError(record)


def _make_record(
    make: Callable[..., logging.LogRecord],
    name: str,
    level: int,
    file: str,
    line: int,
    message: object,
    args: object,
    exc_info: object,
    function: str | None = None,
    extra: Mapping[str, object] | None = None,
    stack: str | None = None,
) -> logging.LogRecord:
    """As ``Logger.makeRecord``, which raises where the program's record factory has set what ``extra`` has."""
    record = make(name, level, file, line, message, args, exc_info, function, None, stack)
    if extra is not None:
        vars(record).update(extra)
    return record
