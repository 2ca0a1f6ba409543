"""How the throughput of an ordered group grows with its members: ``python -m benchmarks.members [kafka rabbitmq …]``.

Each handler waits 5 ms; there are eight lanes, 64 keys, and four concurrent handlers in each member, which is a
process. Members join, events are published until every member has handled some, then 4,000 events are timed, from the
first start to the last end.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections import Counter
from uuid import uuid4

from rich.console import Console
from rich.table import Table

from anybroker import Bus, Event
from anybroker_contract.brokers import Broker, start_brokers

EVENTS, KEYS, LANES, HANDLERS, WORK = 4_000, 64, 8, 4, 0.005
TYPE = "com.example.work.asked.v1"


def _bus(url: str, topic: str) -> Bus:
    return Bus(url, source="bench", topics={topic: {"groups": ["workers"], "lanes": LANES}})


async def work(url: str, topic: str, member: str) -> None:
    """One member: a line for each event, with its start, its end and its key, until standard input ends."""
    loop = asyncio.get_running_loop()
    bus = _bus(url, topic)

    @bus.subscribe(topic, group="workers", max_in_flight=HANDLERS)
    async def handle(event: Event) -> None:
        begun = time.monotonic()
        await asyncio.sleep(WORK)
        line = [member, event.data["wave"], event.data["n"], event.key, begun, time.monotonic()]
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()

    async with bus:
        print(json.dumps([member, "ready"]), flush=True)
        await loop.run_in_executor(None, sys.stdin.read)


class Member:
    """A process, and the lines that it wrote."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.ready = asyncio.Event()

    async def read(self, seen: list[list[object]], changed: asyncio.Event) -> None:
        """Collect what it handled."""
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            said = json.loads(line)
            if said[1] == "ready":
                self.ready.set()
            else:
                seen.append(said)
                changed.set()


async def measure(url: str, members: int) -> dict[str, object]:
    """Events per second with this many members, the time until they shared the lanes, and inversions (must be none)."""
    topic = f"bench-{uuid4().hex[:12]}"
    seen: list[list[object]] = []
    changed = asyncio.Event()
    async with _bus(url, topic) as bus:
        started: list[Member] = []
        readers = []
        try:
            for number in range(members):
                process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-m", "benchmarks.members", "--work", url, topic, f"m{number}"),
                    stdin=asyncio.subprocess.PIPE,
                    stdout=asyncio.subprocess.PIPE,
                )
                started.append(Member(process))
                readers.append(asyncio.create_task(started[-1].read(seen, changed)))
            for member in started:
                await member.ready.wait()
            joined = time.monotonic()
            wave = 0
            while len({line[0] for line in seen if line[1] == wave}) < members:
                wave += 1
                await _publish(bus, topic, wave, 256)
                await _handled(seen, changed, wave, 256)
            shared = time.monotonic() - joined
            await _publish(bus, topic, 0, EVENTS)
            await _handled(seen, changed, 0, EVENTS)
        finally:
            for member in started:
                assert member.process.stdin is not None
                member.process.stdin.close()
                await member.process.wait()
            for reader in readers:
                await reader
    timed = [line for line in seen if line[1] == 0]
    begun = min(float(str(line[4])) for line in timed)
    ended = max(float(str(line[5])) for line in timed)
    last: dict[object, int] = {}
    inversions = 0
    for line in sorted(timed, key=lambda each: float(str(each[4]))):
        number = int(str(line[2]))
        inversions += number < last.get(line[3], -1)
        last[line[3]] = number
    return {
        "members": members,
        "events_per_second": round(len(timed) / (ended - begun)),
        "seconds_to_share": round(shared, 1),
        "share_of_members": sorted(Counter(str(line[0]) for line in timed).values()),
        "inversions": inversions,
        "duplicates": len(timed) - EVENTS,
    }


async def _publish(bus: Bus, topic: str, wave: int, count: int) -> None:
    await bus.publish_many(
        topic,
        [Event.create({"wave": wave, "n": n}, type=TYPE, source="bench", key=f"k{n % KEYS}") for n in range(count)],
    )


async def _handled(seen: list[list[object]], changed: asyncio.Event, wave: int, count: int) -> None:
    while len({line[2] for line in seen if line[1] == wave}) < count:
        changed.clear()
        await changed.wait()
        await asyncio.sleep(0.05)  # it looks at all lines, so not after each one


def main() -> int:
    """The command."""
    if sys.argv[1:2] == ["--work"]:
        asyncio.run(work(*sys.argv[2:5]))
        return 0
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.members", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("which", nargs="*", default=["kafka", "rabbitmq", "nats"], help="default: kafka rabbitmq nats")
    parser.add_argument("--members", type=int, nargs="+", default=[1, 2, 4], help="how many (default: 1 2 4)")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    arguments = parser.parse_args()
    console = Console(stderr=True)
    results: dict[str, object] = {}
    table = Table("broker", "members", "events/s", "s until shared", "events by member", "inversions", "duplicates")
    brokers = start_brokers(arguments.which, say=lambda name, text: console.print(f"{name}: {text}"))
    try:
        for name, broker in brokers.items():
            if not isinstance(broker, Broker):
                results[name] = f"not run: {broker.reason}; {broker.remedy}"
                continue
            rows = []
            for members in arguments.members:
                with console.status(f"{name}: {members} members"):
                    row = asyncio.run(measure(broker.url, members))
                rows.append(row)
                table.add_row(name, *(str(value) for value in row.values()))
            results[name] = rows
    finally:
        for broker in brokers.values():
            if isinstance(broker, Broker):
                broker.stop()
    if arguments.json:
        print(json.dumps(results, indent=2))
    else:
        Console().print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
