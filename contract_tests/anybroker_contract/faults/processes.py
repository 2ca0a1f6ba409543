"""Publishers and members as processes, seen from the run: started, signalled, ended."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from .tracker import Stalled, Tracker

__all__ = ["Process"]

READY = 60.0
"""Seconds that a process may take to start."""


class Process:
    """Runs a program of a run (:mod:`anybroker_contract.faults.workload`, or another one); its output goes to a file
    next to the history."""

    def __init__(
        self, name: str, folder: Path, options: dict[str, Any], program: str = "anybroker_contract.faults.workload"
    ) -> None:
        self.name = name
        self.program = program
        self.log = folder / f"{name}.log"
        self._options = {**options, "history": str(folder / "history.jsonl")}
        self._process: asyncio.subprocess.Process | None = None

    async def begin(self) -> None:
        """Start it."""
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", self.program, json.dumps(self._options)),
                stdin=asyncio.subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for the run, which ends its processes itself
            )

    async def ready(self, tracker: Tracker) -> None:
        """Return when it has started."""
        await tracker.until(lambda: self.pid in tracker.ready or not self.running, READY, f"{self.name} is ready")
        if self.pid not in tracker.ready:
            raise Stalled(f"{self.name} ended with {self.status} before it was ready: {self.last_words()}")

    @property
    def pid(self) -> int:
        """Of the process."""
        assert self._process is not None
        return self._process.pid

    @property
    def status(self) -> int | None:
        """Its exit status; None while it runs."""
        return None if self._process is None else self._process.returncode

    @property
    def running(self) -> bool:
        """Whether it has been started and has not ended."""
        return self._process is not None and self._process.returncode is None

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal, unless it has ended."""
        if self.running:
            os.kill(self.pid, number)

    def tell(self, line: str) -> None:
        """Write a line to its standard input, unless it has ended."""
        if self.running and self._process is not None and self._process.stdin is not None:
            self._process.stdin.write(line.encode() + b"\n")

    async def gone(self, seconds: float) -> int:
        """Wait for its end; its exit status. TimeoutError after this many seconds."""
        assert self._process is not None
        async with asyncio.timeout(seconds):
            return await self._process.wait()

    async def kill(self) -> None:
        """SIGKILL, even if it is stopped, and wait for its end."""
        if self._process is None:
            return
        self.signal(signal.SIGKILL)
        await self._process.wait()

    def last_words(self) -> str:
        """The last line of its output."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines() if self.log.exists() else []
        return next((line for line in reversed(lines) if line.strip()), "it said nothing")
