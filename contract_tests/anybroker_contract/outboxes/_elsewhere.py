"""A relay in another process, as a test sees it: signals, and the file of what all of them have sent."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from pathlib import Path
from typing import Any, NamedTuple

__all__ = ["Elsewhere", "Line", "sent_in"]


class Line(NamedTuple):
    """One event that was sent."""

    pid: int
    key: str
    number: int

    @property
    def place(self) -> tuple[str, int]:
        """Its key, and which of the key it is."""
        return self.key, self.number


def sent_in(file: Path) -> list[Line]:
    """What all relays that were given this file have sent, in order."""
    if not file.exists():
        return []
    return [Line(*json.loads(line)) for line in file.read_text(encoding="utf-8").splitlines()]


class Elsewhere:
    """Runs :mod:`anybroker_contract.outboxes._process`."""

    def __init__(self, options: dict[str, Any]) -> None:
        self._options = options
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int:
        """Of the process."""
        assert self._process is not None
        return self._process.pid

    async def start(self, seconds: float = 30.0) -> None:
        """Start it and wait until its relay runs."""
        process = self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "anybroker_contract.outboxes._process", json.dumps(self._options)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        assert process.stdout is not None
        said = b""
        async with asyncio.timeout(seconds):
            while line := await process.stdout.readline():
                if line == b"ready\n":
                    return
                said += line
        raise AssertionError(f"the other process ended: {said.decode(errors='replace')[-2000:]}")

    def stop(self) -> None:
        """SIGSTOP."""
        self._signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """SIGCONT."""
        self._signal(signal.SIGCONT)

    async def end(self) -> int:
        """Let it stop as a service does; its exit status."""
        self._signal(signal.SIGTERM)
        return await self._gone()

    async def kill(self) -> None:
        """SIGKILL, where it still runs."""
        if self._process is not None and self._process.returncode is None:
            self._signal(signal.SIGKILL)
            await self._gone()

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    async def _gone(self) -> int:
        process = self._process
        assert process is not None
        await process.communicate()  # closes its pipes
        assert process.returncode is not None
        return process.returncode
