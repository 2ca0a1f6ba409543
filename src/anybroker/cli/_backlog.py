"""``anybroker backlog``."""

from __future__ import annotations

import argparse
import asyncio

from ..adapter import Backlog
from ._connect import outside
from ._output import write, write_json

__all__ = ["backlog"]


def backlog(options: argparse.Namespace) -> int:
    """Say how many events wait for a group, and for how long the oldest of them."""
    counted = asyncio.run(_ask(options))
    if options.json:
        numbers = {"waiting": counted.waiting, "in_flight": counted.in_flight, "lag": counted.lag, "age": counted.age}
        write_json({"topic": options.topic, "group": options.group, **numbers})
    else:
        oldest = f", the oldest for {counted.age:.0f} s" if counted.lag and counted.age is not None else ""
        write(f"{options.topic}/{options.group}: {counted.waiting} waiting, {counted.in_flight} in flight{oldest}")
    return 0


async def _ask(options: argparse.Namespace) -> Backlog:
    async with outside(options, "asking") as (bus, _):
        return await bus.backlog(options.topic, options.group)
