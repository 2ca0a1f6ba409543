"""Brokers as processes of this machine, on loopback, with a temporary folder."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .api import Broker
from .context import Context
from .errors import BrokerFailed, Cancelled
from .process import Keeper, tail
from .waiting import until_ready

__all__ = ["Install", "NativeBroker", "Plan", "Step"]

GRACE_SECONDS = 30.0
"""How long a graceful end may take before it counts as failed."""


@dataclass(frozen=True)
class Step:
    """A command that runs to its end before the broker's first start (``initdb``, ``format``)."""

    argv: Sequence[str]
    seconds: float = 60.0


@dataclass(frozen=True)
class Plan:
    """How to run one broker in one folder."""

    url: str
    argv: Sequence[str]
    env: Mapping[str, str]
    """The whole environment of the process: nothing else is inherited."""
    ready: Callable[[], object]
    """One attempt to be answered; raises ``OSError`` or ``NotYet``."""
    before: Sequence[Step] = ()
    owner: tuple[int, int] | None = None
    """The user and group to run as, where the broker refuses root."""
    term: signal.Signals = signal.SIGTERM
    """The signal that asks for a graceful end."""
    at_end: Sequence[str] = ()
    """A command for when everything has ended, before the folder is removed."""
    survives_kill: bool = True


Install = Callable[[Path], Plan]
"""A broker that is on this machine: given an empty folder, how to run it there."""


class NativeBroker(Broker):
    """See ``Broker``; made by ``launch``, which returns when it answers."""

    source = "native"
    can_restart = True

    def __init__(self, context: Context, keeper: Keeper, plan: Plan, detail: str) -> None:
        self.name = context.name
        self.url = plan.url
        self.detail = detail
        self.survives_kill = plan.survives_kill
        self._context = context
        self._keeper = keeper
        self._plan = plan

    @classmethod
    def launch(cls, context: Context, install: Install, detail: str) -> NativeBroker:
        """Start it; raises ``BrokerFailed`` or ``Cancelled``, and then nothing of it is left."""
        broker = cls.prepared(context, install, detail)
        try:
            broker.start()
        except BaseException:
            broker.stop()
            raise
        return broker

    @classmethod
    def prepared(cls, context: Context, install: Install, detail: str) -> NativeBroker:
        """Everything but its start; raises ``BrokerFailed`` or ``Cancelled``, and then nothing of it is left."""
        keeper = Keeper(f"anybroker-{context.name}-")
        try:
            plan = install(keeper.folder)
            broker = cls(context, keeper, plan, detail)
            if plan.at_end:
                keeper.at_end(plan.at_end)
            for step in plan.before:
                broker._run_step(step)
        except BaseException:
            keeper.end()
            raise
        return broker

    def start(self) -> None:
        self.begin()
        self.wait()

    def begin(self) -> None:
        """Start it, and do not wait: a server of a cluster may answer only when others are there."""
        if self._keeper.running():
            raise BrokerFailed(f"{self.name} is running already")
        self._run(self._plan.argv)

    def wait(self) -> None:
        """Return when it answers."""
        until_ready(self.name, self._plan.ready, died=self._death, log=self._tail, cancelled=self._context.cancelled)

    def restart(self) -> None:
        self.end()
        self.start()

    def end(self) -> None:
        """End it gracefully; ``start`` has it again, with its data."""
        self._keeper.thaw()  # a stopped process would keep the signal for later
        self._end_gracefully()

    def kill(self) -> None:
        self._keeper.kill()

    def freeze(self) -> None:
        self._keeper.freeze()

    def thaw(self) -> None:
        self._keeper.thaw()

    def stop(self) -> None:
        self._keeper.end()

    def _run(self, argv: Sequence[str]) -> None:
        user, group = self._plan.owner or (None, None)
        self._keeper.run(argv, env=self._plan.env, user=user, group=group)

    def _run_step(self, step: Step) -> None:
        self._run(step.argv)
        deadline = time.monotonic() + step.seconds
        while self._keeper.running():
            if self._context.cancelled.is_set():
                raise Cancelled
            if time.monotonic() > deadline:
                raise BrokerFailed(f"{self.name}: {step.argv[0]} took {step.seconds:.0f} s:\n{self._tail()}")
            time.sleep(0.02)
        if code := self._keeper.exit_code():
            raise BrokerFailed(f"{self.name}: {step.argv[0]} failed with {code}:\n{self._tail()}")

    def _end_gracefully(self) -> None:
        if not self._keeper.send(self._plan.term):
            raise BrokerFailed(f"{self.name} does not run; the end of its log:\n{self._tail()}")
        deadline = time.monotonic() + GRACE_SECONDS
        while self._keeper.running():
            if time.monotonic() > deadline:
                raise BrokerFailed(f"{self.name} did not end in {GRACE_SECONDS:.0f} s:\n{self._tail()}")
            time.sleep(0.02)
        self._keeper.kill()  # what a broker leaves behind (epmd) must not meet its next run

    def _death(self) -> str | None:
        if self._keeper.running():
            return None
        return f"ended with exit code {self._keeper.exit_code()}"

    def _tail(self) -> str:
        return tail(self._keeper.log)
