"""A relay in another process: ``python -m anybroker_contract.outboxes._process OPTIONS``.

It publishes to a broker in its own memory; each event that this accepts is a line of a file that all of them append to.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any

from anybroker import Bus

from .mutants import flaw_of
from .wire import Sent, Wire

__all__: list[str] = []


class Noted(list[Sent]):
    """Writes what is appended to it into a file."""

    def __init__(self, write: Callable[[Sent], None]) -> None:
        super().__init__()
        self._write = write

    def append(self, sent: Sent, /) -> None:
        """One more."""
        self._write(sent)


async def run(options: dict[str, Any]) -> None:
    """Until SIGTERM."""
    module, _, attribute = options["harness"].partition(":")
    harness = getattr(import_module(module), attribute)()
    harness.attach(options["started"])
    flaw = flaw_of(options["mutant"])
    file = os.open(options["file"], os.O_CREAT | os.O_APPEND | os.O_WRONLY)

    def write(sent: Sent) -> None:
        os.write(file, json.dumps([os.getpid(), *sent.place]).encode() + b"\n")

    wire = Wire(30.0)
    wire.sent = Noted(write)
    bus = Bus(wire, source="relay", drain=2.0)
    bus.add(flaw.relay(flaw.broken(harness.outbox(options["place"], create=False)), **options["settings"]))
    bus.add(Ready())
    await bus.run_async()


class Ready:
    """Says that the parts before it have started."""

    name = "ready"
    problem: str | None = None

    async def start(self) -> None:
        """Say it."""
        sys.stdout.write("ready\n")
        sys.stdout.flush()

    async def stop(self, drain: float, /) -> None:
        """Nothing."""


if __name__ == "__main__":
    asyncio.run(run(json.loads(sys.argv[1])))
