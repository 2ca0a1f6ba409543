"""One scenario on one broker: processes, faults, and what the checkers say afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from anybroker import Bus
from anybroker.capabilities import Capabilities
from anybroker.deadletters import dead_letter_topic
from anybroker.errors import AnybrokerError

from ..harness import BrokerHarness, Clustered
from ..proxy import Proxy
from .history import Writer
from .nemesis import Nemesis
from .processes import Process
from .tracker import LOOK, Stalled, Tracker
from .verdict import MAJORITY
from .workload import GROUP

__all__ = ["Run", "Size"]

ATTEMPTS = 2
"""Starts after which a failing event is dead-lettered."""
SETTLED = 0.1
"""Seconds that a settlement may take, besides two of the receiver's intervals."""


@dataclass(frozen=True)
class Size:
    """The size of a run."""

    events: int | None = None
    """How many are published; None: for as long as the faults last."""
    rate: float = 0.0
    """Events per second; 0: as fast as the broker accepts them."""
    burst: int = 1
    """How many are published at once, if there is a rate."""
    members: int = 2
    times: int = 1
    """How often the fault comes."""
    every: float = 2.0
    """Seconds between two of them."""
    seconds: float = 0.0
    """How long the handler takes."""
    fail_every: int = 0
    """Every n-th event always fails; 0: none."""
    lengths: tuple[float, ...] = ()
    """How long each fault lasts, if it has a duration."""
    in_flight: int = 32
    """Handlers of a member at once."""
    keys: int = 32
    window: int = 200
    """Publishes without an outcome at once."""
    lease: float = 5.0
    drain: float = 5.0
    deadline: float = 30.0


@dataclass
class Run:
    """What a scenario works with. :meth:`finish` ends the load and waits until everything has been handled."""

    harness: BrokerHarness
    capabilities: Capabilities
    folder: Path
    size: Size
    seed: int
    say: Callable[[str], None]
    through_proxy: bool = False
    clustered: bool = False
    mutant: str | None = None
    """A deliberately broken adapter, to show that the run finds it."""
    topic: str = field(default_factory=lambda: f"f-{secrets.token_hex(4)}")
    members: list[Process] = field(default_factory=list)
    """Those that run."""
    notes: list[str] = field(default_factory=list)
    """What did not hold, as seen by the run itself."""

    async def __aenter__(self) -> Run:
        self.cluster: Clustered | None = None
        if self.clustered:
            self.say("starting the cluster")
            self.cluster = await asyncio.to_thread(self.harness.cluster)
        self.history_file = self.folder / "history.jsonl"
        self.history = Writer(self.history_file)
        self.tracker = Tracker(self.history_file)
        self._all: list[Process] = []
        self._started = 0
        self._proxy: Proxy | None = None
        self._saying = asyncio.create_task(self._report(), name="faults: progress")
        self.url = self._target()
        if self.through_proxy:
            self._proxy = Proxy(self.harness.route(), seed=self.seed)
            await self._proxy.start()
            self.url = self._proxy.url
        self.nemesis = Nemesis(self.harness, self.history, self._proxy, self.seed, self.cluster)
        size = self.size
        self.history.write(
            "run",
            broker=self.harness.name,
            topic=self.topic,
            seed=self.seed,
            members=size.members,
            in_flight=size.in_flight,
            lease=size.lease,
            deadline=size.deadline,
            settle=self.settle,
            election=0.0 if self.cluster is None else self.cluster.election,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        self._saying.cancel()
        for process in self._all:
            await process.kill()
        if self._proxy is not None:
            await self._proxy.close()
        if self.cluster is not None:
            await asyncio.to_thread(self.cluster.servers.stop)
        self.history.close()
        await asyncio.wait({self._saying})

    def _target(self) -> str:
        if self.cluster is not None:
            return self.cluster.url
        target = self.harness.broker(self.folder)
        if not isinstance(target, str):
            raise TypeError(f"the harness of {self.harness.name} has no URL, but declares 'processes'")
        return target

    @property
    def settle(self) -> float:
        """Seconds after its end within which a handling may be unsettled."""
        return 2 * self.capabilities.settle_interval + SETTLED

    async def _report(self) -> None:
        while True:
            await asyncio.sleep(1.0)
            self.tracker.look()
            self.say(self.tracker.summary())

    # ------------------------------------------------------------------------------------------------ processes

    async def start(self) -> None:
        """The members, and then the publisher."""
        self.say("starting")
        first = [await self.begin_member() for _ in range(self.size.members)]
        for member in first:
            await member.ready(self.tracker)
        size = self.size
        self.publisher = Process(
            "publisher",
            self.folder,
            {
                "role": "publisher",
                "url": self.url,
                "mutant": self.mutant,
                "topic": self.topic,
                "writer": "w",
                "events": size.events,
                "rate": size.rate,
                "burst": size.burst,
                "keys": size.keys,
                "window": size.window,
                "deadline": size.deadline,
            },
        )
        self._all.append(self.publisher)
        await self.publisher.begin()
        await self.publisher.ready(self.tracker)

    async def begin_member(self) -> Process:
        """Start one more, without waiting for it."""
        size = self.size
        self._started += 1
        member = Process(
            f"member-{self._started}",
            self.folder,
            {
                "role": "member",
                "url": self.url,
                "mutant": self.mutant,
                "topic": self.topic,
                "lease": size.lease,
                "drain": size.drain,
                "connect": 60.0,
                "in_flight": size.in_flight,
                "attempts": ATTEMPTS,
                "seconds": size.seconds,
                "fail_every": size.fail_every,
            },
        )
        self._all.append(member)
        self.members.append(member)
        await member.begin()
        return member

    def take_member(self) -> Process:
        """One of those that have started, chosen by the seed; it no longer counts as a member."""
        self.tracker.look()
        ready = [member for member in self.members if member.running and member.pid in self.tracker.ready]
        chosen = self.nemesis.random.choice(ready or self.members)
        self.members.remove(chosen)
        return chosen

    async def flowing(self, count: int = 100) -> None:
        """Return when events have been handled: earlier faults prove nothing."""
        await self.tracker.until(lambda: len(self.tracker.ended) >= count, 60.0, f"{count} events are handled")

    async def accepted(self, share: float) -> None:
        """Return when this share of the events has been published."""
        assert self.size.events is not None
        wanted = int(self.size.events * share)
        await self.tracker.until(lambda: self.tracker.invoked >= wanted, 600.0, f"{wanted} publishes")

    @property
    def away(self) -> float:
        """Seconds after which the other servers must work without one that is away."""
        assert self.cluster is not None
        return self.cluster.election + MAJORITY + 1.0

    async def in_sync(self) -> None:
        """Return when every server of the cluster has all events: a fault before that may take the last copy away."""
        assert self.cluster is not None
        # By the clock: a client that swallows the cancellation of ``asyncio.timeout`` would make this wait forever.
        end = time.monotonic() + self.cluster.catch_up
        while not await self.cluster.in_sync(self.topic):
            if time.monotonic() > end:
                raise Stalled(f"not within {self.cluster.catch_up:g} s: every server has all events")
            await asyncio.sleep(LOOK)

    # ------------------------------------------------------------------------------------------------ the end

    async def finish(self) -> None:
        """Let the publisher finish, wait until everything is handled or nothing moves, and end the members."""
        size = self.size
        if size.events is None:
            self.publisher.signal(signal.SIGTERM)
        try:
            status = await self.publisher.gone(600.0 if size.events else size.deadline + 30.0)
            if status != 0:
                self.notes.append(f"the publisher ended with status {status}: {self.publisher.last_words()}")
        except TimeoutError:
            self.notes.append("the publisher did not end")
        self.tracker.look()
        # A member whose lease ran out twice, and a broker that starts, are slower than any single event.
        await self.tracker.settle(size.lease + 20.0, lambda: len(self.tracker.failing) if size.fail_every else 0)
        if size.fail_every:
            await self._bury()
        for member in self.members:
            if member.running:
                member.signal(signal.SIGTERM)
        for member in self.members:
            with contextlib.suppress(TimeoutError):
                await member.gone(size.drain + 10.0)
        self.tracker.look()

    async def _bury(self) -> None:
        """Record the dead letters, until all failing events are there or no more arrive."""
        async with Bus(self._target(), source="faults", consume=False, connect_timeout=30.0) as bus:
            letters = bus.dead_letters(self.topic, GROUP)
            before = -1
            while True:
                try:
                    found = {letter.id for letter in await letters.list(limit=100_000)}
                except AnybrokerError as exc:
                    self.notes.append(f"the dead letters cannot be read: {type(exc).__name__}: {exc}"[:200])
                    found = set()
                for id_ in sorted(found - self.tracker.ended):
                    self.history.write("dead", id=id_)
                self.tracker.look()
                if not self.tracker.failing or len(found) <= before:
                    return
                before = len(found)

    @property
    def dead_letters(self) -> str:
        """The dead-letter topic."""
        return dead_letter_topic(self.topic, GROUP)
