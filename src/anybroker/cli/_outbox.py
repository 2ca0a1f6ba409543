"""``anybroker outbox``: what waits there, what was set aside, and relaying."""

from __future__ import annotations

import argparse
import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar

from ..bus import Bus
from ..config.settings import load_settings
from ..errors import ConfigError
from ..outbox import Outbox, Parked
from ..outbox.choosing import make_outbox
from ._connect import url_of
from ._health import serve_health
from ._output import CONSOLE, Progress, log_to_stderr, table, write, write_json

__all__ = ["discard", "list_", "relay", "retry"]

_T = TypeVar("_T")


def list_(options: argparse.Namespace) -> int:
    """What waits, and what was set aside and why."""

    async def ask(outbox: Outbox) -> tuple[Any, Sequence[Parked]]:
        return await outbox.waiting(), await outbox.parked(options.limit)

    waiting, parked = _do(options, "asking", ask)
    if options.json:
        write_json(
            {
                "waiting": waiting.rows,
                "age": waiting.age,
                "parked": [{**each._asdict(), "since": _time(each.since)} for each in parked],
            }
        )
        return 0
    oldest = "" if waiting.age is None else f", the oldest for {waiting.age:.0f} s"
    write(f"{waiting.rows} waiting{oldest}; {waiting.parked} set aside")
    if parked:
        rows = [
            (str(each.position), each.topic, each.key or "", each.id, each.type, _time(each.since), each.reason)
            for each in parked
        ]
        table(("position", "topic", "key", "id", "type", "since", "reason"), rows)
    return 0


def retry(options: argparse.Namespace) -> int:
    """Let what was set aside be relayed again."""
    positions = _positions(options)
    count = _do(options, "putting back", lambda outbox: outbox.retry(positions))
    write(f"{count} put back; a relay finds them within half a minute")
    return 0 if count or positions is None else 1


def discard(options: argparse.Namespace) -> int:
    """Drop what was set aside."""
    positions = _positions(options)

    count = _do(options, "discarding", lambda outbox: outbox.discard(positions))
    write(f"{count} discarded")
    return 0 if count or positions is None else 1


def relay(options: argparse.Namespace) -> int:
    """Relay until SIGTERM or Ctrl-C."""
    log_to_stderr(logging.INFO, CONSOLE, force=True)
    bus = Bus(url_of(options), source=load_settings({}).source or "relay", outbox=options.outbox, consume=False)
    if bus.settings.outbox is None:
        raise _none()
    serve_health(bus, options.health)
    bus.run()
    return 0


def _do(options: argparse.Namespace, what: str, work: Callable[[Outbox], Awaitable[_T]]) -> _T:
    url = options.outbox or load_settings({}).outbox
    if url is None:
        raise _none()
    outbox = make_outbox(url, create=False)

    async def doing() -> _T:
        async with Progress(what):
            await outbox.open()
            try:
                return await work(outbox)
            finally:
                await outbox.close()

    return asyncio.run(doing())


def _none() -> ConfigError:
    return ConfigError("outbox", "none is set", "Give --outbox, ANYBROKER_OUTBOX, or 'outbox' in anybroker.toml.")


def _positions(options: argparse.Namespace) -> list[int] | None:
    if bool(options.positions) == options.all:
        raise ConfigError("POSITION", "name positions, or --all", "'anybroker outbox list' shows them.")
    return None if options.all else options.positions


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
