"""``anybroker db``: the statements that make tables, whether those of a database fit, and bringing them up to date."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Awaitable, Callable, Sequence
from importlib.metadata import entry_points
from typing import TypeVar

from ..config.registry import load_entry
from ..config.settings import load_settings, nearest, parse_url
from ..errors import ConfigError
from ..kit.tables import PARTS, Database
from ._output import Progress, write, write_json

__all__ = ["check", "migrate", "sql"]

_T = TypeVar("_T")

_STATEMENTS = "anybroker.ddl"
"""Entry points of the tables of databases: functions of a schema's name, or None, to statements without a semicolon."""
_DATABASES = "anybroker.databases"
"""Entry points by URL scheme: functions of a BrokerUrl to a Database."""


def sql(options: argparse.Namespace) -> int:
    """The statements that make the tables."""
    registered = {entry.name: entry for entry in entry_points(group=_STATEMENTS)}
    if options.database not in registered:
        raise ConfigError("DATABASE", f"{options.database!r} is not known", nearest(options.database, registered))
    statements: Sequence[str] = registered[options.database].load()(options.schema)
    for statement in statements:
        for line in f"{statement};".splitlines():
            write(line)
    return 0


def check(options: argparse.Namespace) -> int:
    """Whether the tables fit: 0 they do, 1 they do not."""
    database = _database(options)
    states = _do("asking", database, lambda: database.check(_parts(options)))
    fits = all(state.fits for state in states)
    if options.json:
        parts = [{**state._asdict(), "missing": list(state.missing), "fits": state.fits} for state in states]
        write_json({"database": database.target, "fits": fits, "parts": parts})
        return 0 if fits else 1
    for state in states:
        write(f"{state.part}: {state.verdict}")
        if state.remedy is not None:
            write(f"{state.part}: to do: {state.remedy}")
    return 0 if fits else 1


def migrate(options: argparse.Namespace) -> int:
    """Make what is missing, and bring older versions to the current one."""
    database = _database(options)
    done = _do("migrating", database, lambda: database.migrate(_parts(options)))
    if options.json:
        write_json(
            {
                "database": database.target,
                "parts": [{**each._asdict(), "made": list(each.made)} for each in done],
            }
        )
        return 0
    for each in done:
        write(f"{each.part}: {each.said}")
    return 0


def _parts(options: argparse.Namespace) -> Sequence[str]:
    return [part for part in PARTS if part in options.part] if options.part else PARTS


def _database(options: argparse.Namespace) -> Database:
    url = options.url or load_settings({}).outbox
    if url is None:
        raise ConfigError("URL", "none is given", "Give one, or ANYBROKER_OUTBOX, or 'outbox' in anybroker.toml.")
    try:
        parsed = parse_url(url)
    except ConfigError as exc:
        raise ConfigError("URL", exc.problem, "Write postgresql://host/database or sqlite:///shop.db.") from None
    registered = {entry.name: entry for entry in entry_points(group=_DATABASES)}
    if parsed.scheme not in registered:
        raise ConfigError(
            "URL", f"no database with tables of ours for {parsed.scheme!r}://", nearest(parsed.scheme, registered)
        )
    made = load_entry(registered[parsed.scheme], "URL", f"a database of {parsed.scheme}://")(parsed)
    if not isinstance(made, Database):
        raise ConfigError("URL", f"the entry point for {parsed.scheme!r}:// made a {type(made).__name__}, no Database")
    return made


def _do(what: str, database: Database, work: Callable[[], Awaitable[_T]]) -> _T:
    async def doing() -> _T:
        async with Progress(f"{what} {database.target}"):
            return await work()

    return asyncio.run(doing())
