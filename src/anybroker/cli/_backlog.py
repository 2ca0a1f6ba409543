"""``anybroker backlog``."""

from __future__ import annotations

import argparse
import asyncio

from ..adapter import Backlog
from ._connect import outside
from ._output import write, write_json

__all__ = ["backlog"]


def backlog(options: argparse.Namespace) -> int:
    """Say how many events wait for a group."""
    found = asyncio.run(_ask(options))
    if options.json:
        numbers = {"waiting": found.waiting, "in_flight": found.in_flight, "lag": found.lag}
        write_json({"topic": options.topic, "group": options.group, **numbers})
    else:
        write(f"{options.topic}/{options.group}: {found.waiting} waiting, {found.in_flight} in flight")
    return 0


async def _ask(options: argparse.Namespace) -> Backlog:
    async with outside(options, "asking") as (bus, _):
        return await bus.backlog(options.topic, options.group)
