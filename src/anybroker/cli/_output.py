"""Output to the terminal: tables, JSON and progress, without anything that would control the terminal."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from collections.abc import Sequence
from types import TracebackType
from typing import Any

from ..printable import printable, printable_lines

__all__ = ["CONSOLE", "Progress", "log_to_stderr", "say", "say_lines", "table", "write", "write_json"]

CONSOLE = "%(asctime)s %(levelname)s %(name)s: %(message)s"
"""What a line of a command that runs for long looks like."""
_QUIET = 2.0
"""Seconds before the first line about progress."""
_EVERY = 0.5
_EVERY_LINE = 5.0
"""Seconds between two lines where stderr is not a terminal."""


def say(line: str) -> None:
    """One line on stderr."""
    print(printable(line), file=sys.stderr, flush=True)  # noqa: T201 - the command line's own output


def say_lines(text: str) -> None:
    """Several lines on stderr, all but the first indented."""
    print(printable_lines(text), file=sys.stderr, flush=True)  # noqa: T201 - the command line's own output


def write(line: str = "") -> None:
    """One line on stdout."""
    print(printable(line))  # noqa: T201 - the command line's own output


def write_json(value: Any) -> None:
    """A JSON document on stdout, in ASCII: characters that would control a terminal are JSON escapes."""
    print(json.dumps(value, indent=2))  # noqa: T201 - the command line's own output


class _Handler(logging.Handler):
    """Prints records, those of other libraries too, with printable text."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            say_lines(self.format(record))
        except Exception:  # noqa: BLE001 - as all handlers do
            self.handleError(record)


def log_to_stderr(
    level: int | str, form: str | logging.Formatter, *, force: bool = False, filters: Sequence[logging.Filter] = ()
) -> None:
    """``logging.basicConfig`` for a terminal, with these filters of the handler."""
    handler = _Handler()
    handler.setFormatter(logging.Formatter(form) if isinstance(form, str) else form)
    for each in filters:
        handler.addFilter(each)
    logging.basicConfig(level=level, handlers=[handler], force=force)


def table(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A table: with rich on a terminal if it is installed, else in plain columns."""
    lines = [[printable(cell) for cell in row] for row in rows]
    if sys.stdout.isatty():
        try:
            from rich.console import Console
            from rich.table import Table
            from rich.text import Text
        except ModuleNotFoundError:
            pass  # plain columns will do
        else:
            pretty = Table(box=None, header_style="bold")
            for head in heads:
                pretty.add_column(Text(head))  # rich would read a string as markup
            for line in lines:
                pretty.add_row(*map(Text, line))
            Console().print(pretty)
            return
    widths = [max(map(len, column)) for column in zip(heads, *lines, strict=True)]
    for cells in (heads, *lines):
        write("  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip())


class Progress:
    """Prints progress and rate to stderr if the work takes more than two seconds."""

    def __init__(self, what: str) -> None:
        self._what = what
        self.count = 0
        self._part = (0, 0)
        self._first: int | None = None
        self._task: asyncio.Task[None] | None = None
        self._shown = False

    def __call__(self, more: int) -> None:
        """This many more are done."""
        self.count += more

    def reach(self, part: int, whole: int) -> None:
        """So much of the whole is done, where that is known: in any unit. The first call says what was done before."""
        self._part = part, whole
        if self._first is None:
            self._first = part

    async def __aenter__(self) -> Progress:
        self._task = asyncio.create_task(self._tick())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        if self._shown and sys.stderr.isatty():
            sys.stderr.write("\r\033[K")
            sys.stderr.flush()

    async def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        begin = loop.time()
        await asyncio.sleep(_QUIET)
        while True:
            seconds = loop.time() - begin
            line = f"{self._what}, {seconds:.0f} s"
            if self._first is not None and self._part[1]:
                part, whole = self._part
                line = f"{self._what}: {self.count:,} ({part / whole:.0%}) in {seconds:.0f} s"
                if (new := part - self._first) and part < whole:
                    line += f", {seconds * (whole - part) / new:.0f} s left"
            elif self.count:
                line = f"{self._what}: {self.count:,} in {seconds:.0f} s ({self.count / seconds:,.0f}/s)"
            self._shown = True
            if sys.stderr.isatty():
                sys.stderr.write(f"\r\033[K{line}")
                sys.stderr.flush()
                await asyncio.sleep(_EVERY)
            else:
                say(line)
                await asyncio.sleep(_EVERY_LINE)
