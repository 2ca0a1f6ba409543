"""A consumer in a separate process, seen from the test: started, listened to, signalled, ended."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from typing import Any

from ._checkers import Handling
from ._log import Log

__all__ = ["Worker"]


class Worker:
    """Runs :mod:`anybroker_contract._worker`; what its handler does goes to a log in the test."""

    def __init__(self, url: str, topic: str, group: str, log: Log, mutant: str | None, options: dict[str, Any]) -> None:
        self.log = log
        self._options: dict[str, Any] = {
            "url": url,
            "topic": topic,
            "group": group,
            "mutant": mutant,
            "lease": 6.0,
            "drain": 5.0,
            "seconds": 0.0,
            "stick": [],
            "fail": [],
            "attempts": 3,
            "subscription": {},
            **options,
        }
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None
        self._errors = b""
        self.ready = False
        self.closed: dict[str, Any] | None = None
        """The counters of its subscription, once it has closed normally."""

    @property
    def pid(self) -> int:
        """Of the running process."""
        assert self._process is not None
        return self._process.pid

    @property
    def errors(self) -> str:
        """What it wrote to stderr, once it is gone."""
        return self._errors.decode(errors="replace")

    @property
    def member(self) -> str:
        """What its starts in the log are marked with."""
        return f"pid {self.pid}"

    async def start(self, seconds: float = 30.0) -> None:
        """Start it and wait until its Bus has started."""
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "anybroker_contract._worker",
            json.dumps(self._options),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        self._reading = asyncio.create_task(self._read(self._process), name=f"reading {self._process.pid}")
        await self.log.until(
            lambda: self.ready or (self._reading is not None and self._reading.done()),
            "the worker is ready",
            seconds,
        )
        if not self.ready:
            raise AssertionError(f"the worker ended before it was ready:\n{self.errors}")

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        assert process.stderr is not None
        errors = asyncio.create_task(process.stderr.read())
        running: dict[str, Handling] = {}
        while line := await process.stdout.readline():
            facts = json.loads(line)
            match facts["what"]:
                case "ready":
                    self.ready = True
                case "closed":
                    self.closed = facts["stats"]
                case "start":
                    handling = Handling(
                        facts["id"],
                        facts["key"],
                        facts["attempt"],
                        self.member,
                        self._now(),
                        headers=facts["headers"],
                    )
                    running[facts["id"]] = handling
                    self.log.add(handling)
                case "end":
                    self.log.end(running.pop(facts["id"]))
            self.log.changed.fire()
        for handling in running.values():
            handling.failed = "died"
            self.log.end(handling)
        self._errors = await errors
        self.log.changed.fire()

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        assert self._process is not None
        self._process.send_signal(number)

    async def gone(self, seconds: float = 30.0) -> int:
        """Wait for its end; the exit status."""
        assert self._process is not None
        assert self._reading is not None
        async with asyncio.timeout(seconds):
            status = await self._process.wait()
            await self._reading
        return status

    async def kill(self) -> None:
        """SIGKILL, and wait for its end."""
        self.signal(signal.SIGKILL)
        await self.gone()

    async def end(self) -> None:
        """Kill it, if it still runs."""
        if self._process is None:
            return
        if self._process.returncode is None:
            self._process.kill()
        await self.gone()
