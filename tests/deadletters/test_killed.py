"""A replay that is killed, and done again."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections import Counter
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

from anybroker import Bus, Reject
from anybroker.middleware import retry
from anybroker.testing import settled

SECRET = "a secret of the deployment"
COUNT, KEYS = 200, 5
REPLAY = """
import asyncio, sys
from anybroker import Bus
from anybroker.engine.copies import Copies

sent = 0
send = Copies.send

async def count(self, *arguments):
    global sent
    await send(self, *arguments)
    sent += 1
    if sent == int(sys.argv[2]):
        print("sent", flush=True)
        await asyncio.Event().wait()  # confirmed, and never settled
    if sent > int(sys.argv[2]):
        await asyncio.Event().wait()

Copies.send = count

async def main():
    async with Bus(sys.argv[1], source="cli", consume=False, provision="off") as bus:
        queue = bus.dead_letters("orders", "billing")
        queue.patience = 0.3
        print(len(await queue.replay(limit=10_000)), flush=True)

asyncio.run(main())
"""


def service(url: str, seen: list[tuple[str, int]] | None) -> Bus:
    bus = Bus(url, source="shop")

    @bus.subscribe("orders", group="billing")
    @retry(attempts=1)
    async def charge(order: dict[str, Any]) -> None:
        if seen is None:
            raise Reject("no")
        seen.append((order["key"], order["n"]))

    return bus


async def fill(url: str) -> None:
    async with service(url, None) as bus:
        for number in range(COUNT):
            key = f"k{number % KEYS}"
            await bus.publish("orders", {"n": number, "key": key}, type="order.v1", key=key)
        await settled(bus)


async def handle(url: str) -> list[tuple[str, int]]:
    seen: list[tuple[str, int]] = []
    async with service(url, seen) as bus:
        await settled(bus)
        queue = bus.dead_letters("orders", "billing")
        queue.patience = 0.3
        assert await queue.list() == []
    return seen


@pytest.mark.timeout(240)  # three processes, on a machine that may be busy
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL")
@pytest.mark.parametrize("key", [None, SECRET], ids=["no key", "a key"])
def test_it_loses_nothing_and_keeps_the_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str | None) -> None:
    """Killed twice while replays are confirmed and not settled. With a key nothing is sent twice, because the embedded
    broker drops copies; without one, at most what was in flight is."""
    url = f"sqlite:///{tmp_path}/shop.db"
    if key is not None:
        monkeypatch.setenv("ANYBROKER_DEDUPLICATION_KEY", key)
    monkeypatch.setenv("ANYBROKER_LEASE", "2")
    asyncio.run(fill(url))
    for stop in (80, 30, 0):
        arguments = [sys.executable, "-c", REPLAY, url, str(stop or 1_000_000)]
        replaying = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, env=dict(os.environ))
        assert replaying.stdout is not None
        said = replaying.stdout.readline()
        if stop:
            assert said == "sent\n"
            replaying.send_signal(signal.SIGKILL)
        replaying.wait(120)
        replaying.stdout.close()
        assert replaying.returncode == (-signal.SIGKILL if stop else 0)
    seen = asyncio.run(handle(url))
    counts = Counter(seen)
    assert len(counts) == COUNT, "lost"
    assert max(counts.values()) == 1 if key else len(seen) <= COUNT + 2 * 100
    for each, of_key in groupby(sorted(counts, key=lambda pair: pair[0]), key=lambda pair: pair[0]):
        first = [number for name, number in dict.fromkeys(seen) if name == each]
        assert first == sorted(first) == sorted(number for _, number in of_key), f"{each} out of order"
