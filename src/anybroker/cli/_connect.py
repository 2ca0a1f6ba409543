"""A Bus for a look from outside: it subscribes to nothing and makes nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from ..bus import Bus
from ..config import DEFAULT_URL, load_settings, parse_url
from ..errors import ConfigError
from ._output import Progress

__all__ = ["outside"]


@asynccontextmanager
async def outside(url: str | None, what: str) -> AsyncIterator[tuple[Bus, Progress]]:
    """The Bus, started, and the progress of ``what``. Raises ConfigError where there is nothing to look at."""
    async with Progress(what) as progress, _bus(url) as bus:
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
    return Bus(chosen, source=settings.source or "anybroker", consume=False, provision="off")
