"""Faults from outside: in the broker, in the connection to it, and in the members. Each goes into the history."""

from __future__ import annotations

import asyncio
import inspect
import random
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import count
from typing import Any

from ..harness import BrokerHarness, Clustered
from ..proxy import Proxy
from .history import Writer
from .processes import Process

__all__ = ["Nemesis"]


class Nemesis:
    """Causes faults, and records them."""

    def __init__(
        self, harness: BrokerHarness, history: Writer, proxy: Proxy | None, seed: int, cluster: Clustered | None = None
    ) -> None:
        self.random = random.Random(seed)
        """Decides what it hits, and when; the same for the same seed."""
        self._harness = harness
        self._history = history
        self._proxy = proxy
        self._cluster = cluster
        self._numbers = count(1)
        self.slow_ends: list[str] = []
        """Members that were asked to end and did not end in time."""

    @asynccontextmanager
    async def fault(self, name: str, **facts: Any) -> AsyncIterator[Callable[[], None]]:
        """A fault as long as the block, whatever becomes of it. Call what it gives when a majority of a cluster's
        servers is there: they have to serve from then on, though others are away."""
        number = next(self._numbers)
        self._history.write("fault", name=name, number=number, **facts)

        def majority() -> None:
            self._history.write("majority", number=number)

        try:
            yield majority
        finally:
            self._history.write("over", name=name, number=number)

    async def _do(self, what: str) -> None:
        action: Callable[[], Any] = getattr(self._harness, what)
        if inspect.iscoroutinefunction(action):
            await action()
        else:
            await asyncio.to_thread(action)

    # ------------------------------------------------------------------------------------------------- the broker

    async def kill_broker(self, down: float) -> None:
        """SIGKILL, and a start after this many seconds; the fault ends when it answers again."""
        async with self.fault("broker killed"):
            await self._do("kill")
            await asyncio.sleep(down)
            await self._do("start")

    async def freeze_broker(self, seconds: float) -> None:
        """SIGSTOP, and SIGCONT after this many seconds."""
        async with self.fault(f"broker stopped for {seconds:g} s"):
            await self._do("freeze")
            try:
                await asyncio.sleep(seconds)
            finally:
                await self._do("thaw")

    # ------------------------------------------------------------------------------------------ a cluster's servers

    async def kill_servers(self, *numbers: int) -> None:
        """SIGKILL of these servers of the cluster at once, counted from 1."""
        assert self._cluster is not None
        nodes = self._cluster.servers.nodes
        since = time.monotonic()
        await asyncio.gather(*(asyncio.to_thread(nodes[number - 1].kill) for number in numbers))
        self._hit("killed", numbers, since)

    def _hit(self, what: str, numbers: tuple[int, ...], since: float) -> None:
        self._history.write("hit", name=f"{what}: {', '.join(map(str, numbers))}", since=round(since, 6))

    async def end_server(self, number: int) -> None:
        """SIGTERM; return when it has ended."""
        assert self._cluster is not None
        since = time.monotonic()
        await asyncio.to_thread(self._cluster.servers.nodes[number - 1].end)
        self._hit("ended", (number,), since)

    async def start_servers(self, *numbers: int) -> None:
        """Start them side by side; return when each of them answers."""
        assert self._cluster is not None
        await asyncio.to_thread(self._cluster.servers.start, *(number - 1 for number in numbers))
        self._hit("started", numbers, time.monotonic())

    async def delete_topic(self, delete: Callable[[str, str], Awaitable[None]], topic: str) -> None:
        """With the broker's own client."""
        async with self.fault("topic deleted", topic=topic):
            await delete(self._harness.started, topic)

    # -------------------------------------------------------------------------------------------- the way to it

    async def cut(self) -> None:
        """Reset every connection that goes through the proxy."""
        assert self._proxy is not None
        async with self.fault("connections cut"):
            self._proxy.cut()

    # ----------------------------------------------------------------------------------------------- the members

    async def kill_member(self, member: Process) -> None:
        """SIGKILL."""
        async with self.fault("member killed", target=member.pid):
            await member.kill()

    async def end_member(self, member: Process, seconds: float) -> None:
        """SIGTERM; it has this many seconds to end, with status 0."""
        async with self.fault("member asked to end", target=member.pid, graceful=True):
            member.signal(signal.SIGTERM)
            try:
                status = await member.gone(seconds)
            except TimeoutError:
                self.slow_ends.append(f"{member.name} had not ended {seconds:g} s after SIGTERM")
                await member.kill()
            else:
                if status != 0:
                    self.slow_ends.append(f"{member.name} ended with status {status} after SIGTERM")

    async def stop_member(self, member: Process, seconds: float) -> None:
        """SIGSTOP, and SIGCONT after this many seconds."""
        async with self.fault(f"member stopped for {seconds:g} s", target=member.pid):
            member.signal(signal.SIGSTOP)
            try:
                await asyncio.sleep(seconds)
            finally:
                member.signal(signal.SIGCONT)

    async def turn_member(self, member: Process) -> None:
        """Let it leave its group and join again, cleanly: its lanes go to others, and some come back."""
        async with self.fault("member leaves and joins", target=member.pid, graceful=True):
            member.signal(signal.SIGUSR1)
