"""The broker is killed repeatedly while lanes move between members.

As a program, for the tier of faults that runs by hand (one broker for all runs, another topic in each)::

    python -m anybroker_contract.handover --adapter nats --runs 50
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import random
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from anybroker import Bus, Subscription
from anybroker.errors import BrokerError

from ._adapters import Adapters, find_harnesses
from ._checkers import inversions, lost, unexpected
from ._kit import Kit, counted
from ._log import Log

__all__ = ["KilledInHandOver", "kill_during_hand_over"]

KEYS = 32
LANES = 4
MOVES = 4.0
"""Seconds within which a lane moves after a member has joined; then the broker is killed in any case."""


@dataclass
class KilledInHandOver:
    """The outcome of one run."""

    moved: bool
    """Whether a lane was moving when the broker died."""
    back: float
    """Seconds from the broker's start until all that was confirmed before is handled, and something new of each key."""
    confirmed: int
    lost: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    inversions: list[object] = field(default_factory=list)
    repeated: int = 0

    @property
    def good(self) -> bool:
        """Whether nothing is missing, nothing was invented and no key is out of order."""
        return not (self.lost or self.unexpected or self.inversions)


class _Load:
    """One publisher per key, one event after the other; events with a receipt are ``confirmed``."""

    def __init__(self, bus: Bus, topic: str) -> None:
        self._bus = bus
        self._topic = topic
        self.stopped = False
        self.confirmed: list[tuple[str, str]] = []
        self.published: list[tuple[str, str]] = []

    async def run(self) -> None:
        await asyncio.gather(*(self._publish(f"k{number}", number * 1_000_000) for number in range(KEYS)))

    async def _publish(self, key: str, number: int) -> None:
        while not self.stopped:
            number += 1
            event = counted(number, key=key)
            self.published.append((key, event.id))
            try:
                await self._bus.publish(self._topic, event)
            except BrokerError:
                continue
            self.confirmed.append((key, event.id))
            await asyncio.sleep(0.02)


async def kill_during_hand_over(kit: Kit, *, patience: float, **settings: object) -> KilledInHandOver:
    """Two members share the lanes of a topic under load, a third one joins; when a lane moves the broker is killed, and
    started again. Returns when everything that was confirmed is handled, or raises after ``patience`` seconds."""
    topic = kit.topic("hand-over")
    log = kit.log()
    loop = asyncio.get_running_loop()
    members: list[tuple[Bus, Subscription]] = []

    async def join() -> None:
        bus = kit.bus(**settings)
        subscription = bus.subscription(topic, group="g", lanes=LANES)
        subscription.on(log.handler(f"m{len(members)}", None), name="contract")
        await bus.start()
        members.append((bus, subscription))

    def given_back() -> int:
        return sum(subscription.stats.lanes_given_back for _, subscription in members)

    await kit.declared(topic, "g", lanes=LANES)
    publisher = kit.bus(consume=False, publish_deadline=30.0)
    await publisher.start()
    load = _Load(publisher, topic)
    running = asyncio.create_task(load.run())
    try:
        await join()
        await log.wait_started(KEYS)
        if random.random() < 0.5:
            await join()
            await asyncio.sleep(random.uniform(0.5, 2.5))  # lanes go over, or have just done so
        before = given_back()
        await join()
        end = loop.time() + MOVES
        while given_back() == before and loop.time() < end:  # noqa: ASYNC110 - members count, and tell nobody
            await asyncio.sleep(0.002)
        moved = given_back() > before
        await asyncio.sleep(random.uniform(0, 0.15))
        await kit.disturb("kill")
        await kit.disturb("start")
        up = loop.time()
        earlier = {id_ for _, id_ in load.confirmed}
        await log.until(lambda: earlier <= log.done_ids, "what was confirmed before", patience)
        await log.until(lambda: len(_keys_since(log, up)) == KEYS, "something new of each key", patience)
        back = loop.time() - up
    finally:
        load.stopped = True
        await running
    await log.wait_done((id_ for _, id_ in load.confirmed), patience)
    for bus in (publisher, *(bus for bus, _ in members)):
        await bus.close()
    ids = [id_ for _, id_ in load.confirmed]
    return KilledInHandOver(
        moved,
        back,
        len(ids),
        lost(ids, log.handlings),
        unexpected([id_ for _, id_ in load.published], log.handlings),
        list(inversions([(key, id_) for key, id_ in load.published], log.handlings)),
        len(log.handlings) - len(log.done_ids),
    )


def _keys_since(log: Log, moment: float) -> set[str | None]:
    keys: set[str | None] = set()
    for handling in reversed(log.handlings):
        if handling.started < moment:
            break
        keys.add(handling.key)
    return keys


async def _runs(kit: Kit, runs: int, within: float, say: Callable[[str], None]) -> int:
    bad = 0
    for run in range(runs):
        try:
            found = await kill_during_hand_over(kit, patience=60.0, lease=20.0)
        except TimeoutError as exc:
            bad += 1
            say(f"run {run}: {exc}")
            continue
        good = found.good and found.back <= within
        bad += not good
        say(
            f"run {run}: {'good' if good else 'BAD'}, consuming after {found.back:.1f} s, {found.confirmed} confirmed, "
            f"{found.repeated} repeated, {len(found.lost)} lost, {len(found.inversions)} inversions"
            f"{'' if found.moved else ', no lane moved'}"
        )
    say(f"{runs - bad} of {runs} consuming again within {within:.0f} s, in order, and nothing lost")
    return bad


def main() -> int:
    """The program; its exit code is 1 if a run was bad."""
    parser = argparse.ArgumentParser(prog="python -m anybroker_contract.handover", description=__doc__)
    parser.add_argument("--adapter", default="nats")
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--within", type=float, default=10.0, help="seconds")
    options = parser.parse_args()
    logging.basicConfig(level=logging.ERROR)
    adapters = Adapters(find_harnesses([options.adapter]))
    ((name, harness),) = adapters.shared.items()
    say = Console(highlight=False, soft_wrap=True).print
    harness.attach(harness.setup())
    try:
        with tempfile.TemporaryDirectory() as folder:

            async def run() -> int:
                kit = Kit(harness, adapters.capabilities[name], Path(folder), size="full", patience=60.0, mutant=None)
                try:
                    return await _runs(kit, options.runs, options.within, say)
                finally:
                    await kit.close()

            return 1 if asyncio.run(run()) else 0
    finally:
        harness.teardown()


if __name__ == "__main__":
    sys.exit(main())
