"""``anybroker dlq parked`` and ``anybroker dlq unpark``."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Mapping

from ._connect import outside
from ._dead_letters import queue_of
from ._output import say, table, write, write_json

__all__ = ["parked", "unpark"]


def parked(options: argparse.Namespace) -> int:
    """Which keys are parked, and how many events of each are set aside."""

    async def ask() -> Mapping[str, int]:
        async with outside(options, "reading") as (bus, _):
            return await queue_of(bus, options).parked()

    keys = asyncio.run(ask())
    if options.json:
        write_json(dict(keys))
    elif not keys:
        say(f"{options.topic}/{options.group}: no key is parked")
    else:
        table(("key", "events"), sorted(keys.items()))
    return 0


def unpark(options: argparse.Namespace) -> int:
    """Forget that a key is parked: 0 it was, 1 it was not."""

    async def forget() -> bool:
        async with outside(options, "unparking") as (bus, _):
            queue = queue_of(bus, options)
            before = await queue.parked()
            await queue.unpark(options.key)
            return len(await queue.parked()) < len(before)

    freed = asyncio.run(forget())
    if options.json:
        write_json({"unparked": freed})
    elif freed:
        write(f"unparked: {options.key}")
    else:
        say(f"anybroker: the key {options.key} is not parked in {options.topic}/{options.group}")
    return 0 if freed else 1
