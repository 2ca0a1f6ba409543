"""A Bus for a look from outside: it subscribes to nothing and makes nothing."""

from __future__ import annotations

import argparse
import os
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from ..bus import Bus
from ..config.settings import DEFAULT_URL, load_settings, parse_url
from ..errors import ConfigError
from ..kit.file_access import other_writers, warn_of_readers
from ._output import Progress

__all__ = ["outside"]

_LONGEST = 65_536
"""Bytes of a file with a URL."""


def _url_of(options: argparse.Namespace) -> str | None:
    """The URL of ``--url``, or in the file of ``--url-file``. Raises ConfigError; warns where others can read it."""
    url: str | None = options.url
    if options.url_file is None:
        return url
    path: str = options.url_file
    try:
        with open(path, "rb") as file:
            found = os.fstat(file.fileno())
            words = file.read(_LONGEST).decode().split()
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError("--url-file", f"{path} cannot be read: {exc}", "Name a file with the URL in it.") from None
    if stat.S_ISREG(found.st_mode):  # not a pipe, such as a shell's <(…)
        if (problem := other_writers(found)) is not None:
            raise ConfigError(
                "--url-file", f"{path} {problem}", "Make it yours, and writable by you alone (chown, chmod go-w)."
            )
        warn_of_readers([path])
    if len(words) != 1:
        raise ConfigError("--url-file", f"{path} holds {len(words)} words", "Write the URL into it, and nothing else.")
    return words[0]


@asynccontextmanager
async def outside(options: argparse.Namespace, what: str) -> AsyncIterator[tuple[Bus, Progress]]:
    """The Bus, started, and the progress of ``what``. Raises ConfigError where there is nothing to look at."""
    async with Progress(what) as progress, _bus(_url_of(options)) as bus:
        bus.adapter.capabilities.require(
            "processes", setting="--url", remedy="Ask inside the program: bus.dead_letters(…), bus.backlog(…)."
        )
        yield bus, progress


def _bus(url: str | None) -> Bus:
    settings = load_settings({"url": url})
    chosen = settings.url or DEFAULT_URL
    parsed = parse_url(chosen)
    if not parsed.hosts and len(parsed.path) > 1 and not Path(parsed.path[1:]).exists():  # a look makes no file
        raise ConfigError(
            "url", f"there is no file {parsed.path[1:]}", "Give --url, ANYBROKER_URL, or 'url' in anybroker.toml."
        )
    # Where the URL is the configuration's, it stays so: what the same file says belongs to it.
    return Bus(
        url if settings.url else DEFAULT_URL, source=settings.source or "anybroker", consume=False, provision="off"
    )
