"""A process of the tests: publishes or consumes, and writes what it does to a file, one JSON line a step."""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from anybroker.adapter import (
    Ack,
    AdapterContext,
    BrokerUrl,
    GroupSpec,
    Inbound,
    Lane,
    Outbound,
    Receipt,
    SubscriptionSpec,
    TopicSpec,
    Topology,
)
from anybroker.event import Event
from anybroker_sqlite import SqliteAdapter, SqliteSettings

TOPOLOGY = Topology((TopicSpec("orders", (GroupSpec("billing"),)),))
SPEC = SubscriptionSpec("orders", "billing", True, 4, "new", 100)


class Listener:
    """Hears of lanes and does nothing."""

    def __init__(self) -> None:
        self.lanes: list[Lane] = []

    def assigned(self, lane: Lane, note: str = "") -> None:
        self.lanes.append(lane)

    async def revoked(self, lanes: Any, /) -> None:
        raise AssertionError("this adapter takes no lane away")

    def lost(self, lanes: Any, /) -> None:
        raise AssertionError("this adapter takes no lane away")


def make_adapter(path: str | Path, lease: float = 20.0, **settings: Any) -> SqliteAdapter:
    """An adapter for the file."""
    return SqliteAdapter(
        BrokerUrl("sqlite", (), path=f"/{path}"),
        SqliteSettings(**settings),
        AdapterContext("tests", os.urandom(4).hex(), lease=lease),
    )


def make_event(value: Any, key: str | None = None, **attributes: Any) -> Event[Any]:
    """An event with that value as its data."""
    return Event.create(value, source="/tests", type="com.example.test.v1", key=key, **attributes)


async def submit(sender: Any, batch: list[Outbound]) -> list[Any]:
    """Submit, and wait for the result of each, in the order of the batch."""
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    results: dict[int, Any] = {}

    def report(outbound: Outbound, result: Any) -> None:
        assert id(outbound) not in results, "reported twice"
        results[id(outbound)] = result
        if len(results) == len({id(item) for item in batch}):
            done.set_result(None)

    await sender.submit(batch, report)
    async with asyncio.timeout(30):
        await done
    return [results[id(item)] for item in batch]


async def _publish(adapter: SqliteAdapter, say: Any, writer: str, count: int) -> None:
    sender = await adapter.open_sender()
    for first in range(0, count, 20):
        batch = [
            Outbound(make_event({"writer": writer, "n": n}, f"k{n % 16}"), "orders")
            for n in range(first, min(first + 20, count))
        ]
        for result in await submit(sender, batch):
            assert isinstance(result, Receipt), result
        say("published", n=first + 20, writer=writer)
    await sender.close()


async def _trickle(adapter: SqliteAdapter, say: Any, writer: str, count: int) -> None:
    sender = await adapter.open_sender()
    for n in range(count):
        await asyncio.sleep(random.uniform(0, 0.01))
        say("sending", n=n, writer=writer)
        await submit(sender, [Outbound(make_event({"writer": writer, "n": n}), "orders")])
    await sender.close()


async def _consume(adapter: SqliteAdapter, say: Any, limit: int, slow: float) -> None:
    receiver = await adapter.open_receiver(SPEC, Listener())
    say("joined")

    async def handle(items: list[Inbound]) -> None:
        for inbound in items:
            assert isinstance(inbound.event, Event)
            data = inbound.event.data
            say("start", key=inbound.key, **data)
            await asyncio.sleep(random.uniform(0, slow))
            say("end", key=inbound.key, **data)
            assert await receiver.settle([Ack(inbound)]) == [None]

    while True:
        strands: dict[str | None, list[Inbound]] = defaultdict(list)
        for inbound in await receiver.receive(limit, lanes=None, timeout=5.0):
            strands[inbound.key].append(inbound)
        await asyncio.gather(*map(handle, strands.values()))


async def _main(role: str, path: str, history: str, *arguments: str) -> None:
    with open(history, "a", buffering=1) as lines:  # noqa: ASYNC230 - a line at a time, to a local file

        def say(what: str, **fields: Any) -> None:
            lines.write(json.dumps({"what": what, "at": time.monotonic(), "pid": os.getpid(), **fields}) + "\n")

        adapter = make_adapter(path, lease=float(os.environ.get("LEASE", "20")))
        await adapter.connect()
        await adapter.declare(TOPOLOGY, "create")
        if role == "publish":
            await _publish(adapter, say, arguments[0], int(arguments[1]))
            await adapter.close()
        elif role == "trickle":
            await _trickle(adapter, say, arguments[0], int(arguments[1]))
            await adapter.close()
        else:
            await _consume(adapter, say, int(arguments[0]), float(arguments[1]))


if __name__ == "__main__":
    asyncio.run(_main(*sys.argv[1:]))
