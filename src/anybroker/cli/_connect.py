"""A Bus for looking from outside: it subscribes to nothing and creates nothing."""

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

__all__ = ["looking_bus", "outside", "url_of"]

_LONGEST = 65_536
"""Most bytes of a file with a URL."""


def url_of(options: argparse.Namespace) -> str | None:
    """The URL from ``--url`` or ``--url-file``. Raises ConfigError; warns if others can read the file."""
    url: str | None = options.url
    if options.url_file is None:
        return url
    path: str = options.url_file
    try:
        with open(path, "rb") as file:
            status = os.fstat(file.fileno())
            words = file.read(_LONGEST).decode().split()
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError("--url-file", f"{path} cannot be read: {exc}", "Name a file with the URL in it.") from None
    if stat.S_ISREG(status.st_mode):  # not a pipe, such as a shell's <(…)
        if (problem := other_writers(status)) is not None:
            raise ConfigError(
                "--url-file", f"{path} {problem}", "Make it yours, and writable by you alone (chown, chmod go-w)."
            )
        warn_of_readers([path])
    if len(words) != 1:
        raise ConfigError("--url-file", f"{path} holds {len(words)} words", "Write the URL into it, and nothing else.")
    return words[0]


@asynccontextmanager
async def outside(options: argparse.Namespace, what: str) -> AsyncIterator[tuple[Bus, Progress]]:
    """The started Bus, and the progress of ``what``. Raises ConfigError if there is nothing to look at."""
    async with Progress(what) as progress, looking_bus(options) as bus:
        bus.adapter.capabilities.require(
            "processes", setting="--url", remedy="Ask inside the program: bus.dead_letters(…), bus.backlog(…)."
        )
        yield bus, progress


def looking_bus(options: argparse.Namespace) -> Bus:
    """The Bus, not started. Raises ConfigError."""
    url = url_of(options)
    settings = load_settings({"url": url})
    chosen = settings.url or DEFAULT_URL
    parsed = parse_url(chosen)
    if not parsed.hosts and len(parsed.path) > 1 and not Path(parsed.path[1:]).exists():  # looking creates no file
        raise ConfigError(
            "url", f"there is no file {parsed.path[1:]}", "Give --url, ANYBROKER_URL, or 'url' in anybroker.toml."
        )
    # A URL from the configuration file is left there, so that the settings in the same file still apply to it.
    return Bus(
        url if settings.url else DEFAULT_URL, source=settings.source or "anybroker", consume=False, provision="off"
    )
