"""What is done, by name: the load, the faults, and how much of both in each tier."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from .deletion import DELETIONS
from .processes import Process
from .run import Run, Size

__all__ = ["SCENARIOS", "Scenario", "Tier"]

Tier = Literal["short", "long"]


@dataclass(frozen=True)
class Scenario:
    """One of them."""

    name: str
    text: str
    """What it does, in one line."""
    act: Callable[[Run], Awaitable[None]]
    short: Size
    long: Size
    needs: frozenset[str] = frozenset()
    """What must be possible to do to the broker."""
    deletes: bool = False
    """Whether it needs the broker's own client."""
    only_long: bool = False
    """Whether the short tier leaves it out, unless it is named."""

    @property
    def through_proxy(self) -> bool:
        """Whether its processes reach the broker through a proxy."""
        return "route" in self.needs

    @property
    def clustered(self) -> bool:
        """Whether it is run on several servers instead of one broker."""
        return "cluster" in self.needs

    def size(self, tier: Tier) -> Size:
        """How much of it."""
        return self.short if tier == "short" else self.long


# -------------------------------------------------------------------------------------------------------- the broker


async def broker_kill(run: Run) -> None:
    """SIGKILL and a start, after equal parts of the events."""
    for number in range(run.size.times):
        await run.accepted((number + 1) / (run.size.times + 1))
        await run.nemesis.kill_broker(0.5)


async def broker_freeze(run: Run) -> None:
    """SIGSTOP and SIGCONT, for longer each time."""
    await run.flowing()
    for seconds in run.size.lengths:
        await run.nemesis.freeze_broker(seconds)
        await asyncio.sleep(run.size.every)


async def hand_over_kill(run: Run) -> None:
    """The broker is killed while a member that leaves and joins hands its lanes over."""
    await run.flowing()
    for _ in range(run.size.times):
        await asyncio.sleep(run.size.every)
        await run.nemesis.turn_member(run.nemesis.random.choice(run.members))
        await asyncio.sleep(run.nemesis.random.uniform(0.0, 1.5))  # it leaves, joins, and the others share again
        await run.nemesis.kill_broker(0.5)
    await asyncio.sleep(run.size.every)


async def cut(run: Run) -> None:
    """Every connection is reset, again and again."""
    await run.flowing()
    for _ in range(run.size.times):
        await run.nemesis.cut()
        await asyncio.sleep(run.size.every)


# ------------------------------------------------------------------------------------------------------- the members


async def _one_after_the_other(run: Run, end: Callable[[Process], Awaitable[None]]) -> None:
    await run.flowing()
    for _ in range(run.size.times):
        await asyncio.sleep(run.size.every)
        leaving = run.take_member()
        await asyncio.gather(end(leaving), run.begin_member())
    for member in run.members:
        await member.ready(run.tracker)


async def member_kill(run: Run) -> None:
    """SIGKILL of a member every few seconds, with a new one started."""
    await _one_after_the_other(run, run.nemesis.kill_member)


async def member_kill_joining(run: Run) -> None:
    """SIGKILL of a member, and of another while the others share its lanes; then enough time to recover."""
    await run.flowing()
    for _ in range(run.size.times):
        for _ in range(2):
            leaving = run.take_member()
            _, new = await asyncio.gather(run.nemesis.kill_member(leaving), run.begin_member())
            await new.ready(run.tracker)
            await asyncio.sleep(run.nemesis.random.uniform(1.1, 1.5))  # by then the others have heard of it
        await asyncio.sleep(run.size.every)
    for member in run.members:
        await member.ready(run.tracker)


async def member_term(run: Run) -> None:
    """SIGTERM of a member every few seconds, with a new one started."""
    limit = run.size.drain + 1.0 + run.capabilities.poll

    async def end(member: Process) -> None:
        await run.nemesis.end_member(member, limit)

    await _one_after_the_other(run, end)
    run.notes += run.nemesis.slow_ends


async def member_freeze(run: Run) -> None:
    """SIGSTOP of a member for longer than its lease, and SIGCONT."""
    await run.flowing()
    for _ in range(run.size.times):
        await asyncio.sleep(run.size.every)
        member = run.nemesis.random.choice(run.members)
        await run.nemesis.stop_member(member, run.size.lease + 2.0)
    await asyncio.sleep(run.size.every)


async def dead_letter_topic_deleted(run: Run) -> None:
    """The dead-letter topic is deleted under load, and some events fail."""
    await run.flowing()
    for _ in range(run.size.times):
        await asyncio.sleep(run.size.every)
        await run.nemesis.delete_topic(DELETIONS[run.harness.name], run.dead_letters)
    await asyncio.sleep(2 * run.size.every)


# --------------------------------------------------------------------------------------------- a cluster's servers


async def cluster_others_return(run: Run) -> None:
    """Servers 1 and 2 die and come back, and then 3 dies: the only one that clients have seen alive all the time."""
    await run.flowing()
    for _ in range(run.size.times):
        async with run.nemesis.fault("servers 1 and 2 killed") as majority:
            await run.nemesis.kill_servers(1, 2)
            await asyncio.sleep(run.size.every)
            await run.nemesis.start_servers(1, 2)
            majority()
        await run.in_sync()
        async with run.nemesis.fault("server 3 killed") as majority:
            await run.nemesis.kill_servers(3)
            majority()
            await asyncio.sleep(run.away)
            await run.nemesis.start_servers(3)
        await run.in_sync()


async def cluster_others_only(run: Run) -> None:
    """Servers 1 and 2 are ended, and clients learn that only 3 is there; 3 dies, and then 1 and 2 come back."""
    await run.flowing()
    for _ in range(run.size.times):
        async with run.nemesis.fault("servers 1 and 2 back, and 3 gone") as majority:
            await run.nemesis.end_server(1)
            await run.nemesis.end_server(2)
            await asyncio.sleep(run.size.every)
            await run.nemesis.kill_servers(3)
            await run.nemesis.start_servers(1, 2)
            majority()
            await asyncio.sleep(run.away)
            await run.nemesis.start_servers(3)
        await run.in_sync()


async def cluster_down(run: Run) -> None:
    """One server after another dies, until none is left; then all come back."""
    await run.flowing()
    for _ in range(run.size.times):
        async with run.nemesis.fault("server 1 killed") as majority:
            await run.nemesis.kill_servers(1)
            majority()
            await asyncio.sleep(run.away)
        async with run.nemesis.fault("servers 2 and 3 killed too") as majority:
            for number in (2, 3):
                await run.nemesis.kill_servers(number)
                await asyncio.sleep(run.size.every)
            await run.nemesis.start_servers(1, 2, 3)
            majority()
        await run.in_sync()


async def cluster_rolling(run: Run) -> None:
    """Each server is restarted gracefully, one after another."""
    await run.flowing()
    for _ in range(run.size.times):
        for number in (1, 2, 3):
            async with run.nemesis.fault(f"server {number} restarted") as majority:
                await run.nemesis.end_server(number)
                majority()
                await asyncio.sleep(run.size.every)
                await run.nemesis.start_servers(number)
            await run.in_sync()


_ALL = (
    Scenario(
        "broker-kill",
        "SIGKILL of the broker and a start, three times under the events",
        broker_kill,
        Size(events=6_000, times=3),
        Size(events=100_000, times=3),
        frozenset({"kill", "start"}),
    ),
    Scenario(
        "broker-freeze",
        "SIGSTOP of the broker, for longer each time",
        broker_freeze,
        Size(rate=200, lengths=(1.0, 6.0), every=3.0),
        Size(rate=500, lengths=(1.0, 10.0, 40.0), every=12.0),
        frozenset({"freeze", "thaw"}),
    ),
    Scenario(
        "hand-over-kill",
        "SIGKILL of the broker while a member that leaves and joins hands its lanes over",
        hand_over_kill,
        Size(rate=200, times=2, every=6.0, keys=64),
        Size(rate=1_000, times=50, every=12.0, keys=64),
        frozenset({"kill", "start"}),
    ),
    Scenario(
        "member-kill",
        "SIGKILL of a member every 2 s, with a new one started",
        member_kill,
        Size(rate=200, burst=16, keys=8, members=3, times=6, seconds=0.01),
        Size(rate=500, burst=64, members=3, times=30, seconds=0.01),
    ),
    Scenario(
        "member-kill-joining",
        "SIGKILL of a member, and of another one while the members share its lanes",
        member_kill_joining,
        Size(rate=200, members=3, times=1, every=10.0, seconds=0.01),
        Size(rate=500, members=3, times=10, every=16.0, seconds=0.01),
    ),
    Scenario(
        "member-term",
        "SIGTERM of a member every 2 s, with a new one started",
        member_term,
        Size(rate=200, members=3, times=4, seconds=0.01),
        Size(rate=500, members=3, times=30, seconds=0.01),
    ),
    Scenario(
        "member-freeze",
        "SIGSTOP of a member for longer than its lease",
        member_freeze,
        Size(rate=200, members=2, times=1, every=1.0, seconds=0.01),
        Size(rate=500, members=2, times=5, every=12.0, seconds=0.01),
    ),
    Scenario(
        "dead-letter-topic-deleted",
        "the dead-letter topic is deleted under load, and some events fail",
        dead_letter_topic_deleted,
        Size(rate=100, times=1, every=3.0, fail_every=25, keys=200),
        Size(rate=500, times=3, every=10.0, fail_every=25, keys=2_000),
        deletes=True,
    ),
    Scenario(
        "cut",
        "every connection is reset, five times a second",
        cut,
        Size(rate=200, times=30, every=0.2),
        Size(rate=500, times=150, every=0.2),
        frozenset({"route"}),
    ),
    Scenario(
        "cluster-others-return",
        "two of three servers die and come back, and then the third one dies",
        cluster_others_return,
        Size(rate=200, every=4.0),
        Size(rate=500, times=3, every=10.0),
        frozenset({"cluster"}),
    ),
    Scenario(
        "cluster-others-only",
        "the one server that clients know dies, and the two others come back",
        cluster_others_only,
        Size(rate=200, every=7.0),
        Size(rate=500, times=3, every=10.0),
        frozenset({"cluster"}),
        only_long=True,
    ),
    Scenario(
        "cluster-down",
        "three servers die one after another, and come back",
        cluster_down,
        Size(rate=200, every=6.0),
        Size(rate=500, times=3, every=10.0),
        frozenset({"cluster"}),
        only_long=True,
    ),
    Scenario(
        "cluster-rolling",
        "graceful restart of three servers, one after another",
        cluster_rolling,
        Size(rate=200, every=2.0),
        Size(rate=500, times=3, every=5.0),
        frozenset({"cluster"}),
        only_long=True,
    ),
)

SCENARIOS: Mapping[str, Scenario] = {scenario.name: scenario for scenario in _ALL}
"""By name, in the order in which they are run."""
