"""``anybroker dlq export`` and ``anybroker dlq import``."""

from __future__ import annotations

import argparse
import asyncio
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from ..deadletters.archive import Archived, read_line
from ..errors import ConfigError
from ._connect import outside
from ._dead_letters import FIND, only_of, queue_of
from ._output import say, write, write_json

__all__ = ["export", "import_"]

_MOST = 100_000


def export(options: argparse.Namespace) -> int:
    """Write dead letters to a file, without loss."""
    only = only_of(options)
    limit = options.limit or _MOST

    async def write_all(file: TextIO) -> int:
        async with outside(options, "exported") as (bus, _):
            return await queue_of(bus, options).export(file, limit, only=only)

    with _new_file(options.file) as file:
        count = asyncio.run(write_all(file))
    say(f"exported: {count}")
    if count in (limit, FIND):  # where the broker cannot show them, no more than that are looked at
        say(f"anybroker: there may be more than these {count}: raise --limit, or do it again after some are gone")
    return 0


@contextmanager
def _new_file(name: str) -> Iterator[TextIO]:
    """A file of this user alone, since data may be secret; gone again where the export fails. ``-``: stdout."""
    if name == "-":
        text = io.StringIO()
        yield text
        sys.stdout.write(text.getvalue())
        return
    try:
        number = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as exc:
        raise ConfigError(
            "FILE", f"{name} cannot be made: {exc.strerror}", "Name a file that is not there yet."
        ) from None
    try:
        with open(number, "w", encoding="ascii", newline="\n") as file:
            yield file
    except BaseException:
        os.unlink(name)
        raise


def import_(options: argparse.Namespace) -> int:
    """Put exported dead letters into the dead-letter topic of a group."""
    letters = _letters(options.file)
    if options.dry_run:
        write(f"would be imported: {len(letters)}")
        return 0

    async def put() -> int:
        async with outside(options, "imported") as (bus, progress):
            return await queue_of(bus, options).restore(letters, rate=options.rate, progress=progress)

    count = asyncio.run(put())
    if options.json:
        write_json({"imported": count})
    else:
        write(f"imported: {count}")
    return 0


def _letters(name: str) -> list[Archived]:
    """All of them are read before the first is sent."""
    try:
        lines = sys.stdin if name == "-" else open(name, encoding="ascii", newline="\n")  # noqa: SIM115 - closed below
        with lines:
            return [read_line(line, number) for number, line in enumerate(lines, 1) if line.strip()]
    except OSError as exc:
        raise ConfigError("FILE", f"{name} cannot be read: {exc.strerror}", "Name an exported file.") from None
    except UnicodeDecodeError:
        raise ConfigError("FILE", f"{name} is not ASCII text", "Name an exported file.") from None
