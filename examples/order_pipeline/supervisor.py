"""Starts the services, restarts the one that dies, and ends them all: as processes, or as Buses of this process."""

from __future__ import annotations

import asyncio
import importlib
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Protocol

from anybroker import Bus

__all__ = ["SERVICES", "InProcess", "Processes", "ServiceFailed", "Services"]

SERVICES = ("shipping", "payment", "inventory", "storefront")
"""The last service first, so that the storefront finds the others ready; nothing depends on it."""

_ROOT = Path(__file__).parents[2]
_DRAIN = 30.0
"""Seconds that services have to end after SIGTERM."""


class ServiceFailed(Exception):
    """A service ended although nobody asked it to."""


class Services(Protocol):
    """The running services."""

    how: str
    """What :meth:`crash` does."""

    async def start(self) -> None:
        """Start all."""

    async def crash(self, name: str) -> None:
        """End a service without warning, in the middle of its work, and start it again."""

    def check(self) -> None:
        """Raises ServiceFailed."""

    async def stop(self) -> list[str]:
        """Let all services drain and end; returns what did not end well. Idempotent; leaves nothing behind."""
        ...


class Processes:
    """Each service in a separate process: ``python -m examples.order_pipeline.<service>``."""

    how = "SIGKILL"

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self._folder = folder
        path = os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH")]))
        self._environment = {**os.environ, **environment, "PYTHONPATH": path}
        self._running: dict[str, asyncio.subprocess.Process] = {}

    async def start(self) -> None:
        """All at once: declared groups miss nothing."""
        for name in SERVICES:
            await self._start(name)

    async def _start(self, name: str) -> None:
        with (self._folder / f"{name}.log").open("ab") as log:
            self._running[name] = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                f"{__package__}.{name}",
                env=self._environment,
                stdin=asyncio.subprocess.PIPE,  # its end tells the service that the supervisor is gone
                stdout=log,
                stderr=log,
                process_group=0,  # Ctrl-C is for the supervisor, which ends the services in order
            )

    async def crash(self, name: str) -> None:
        """SIGKILL: no handler, no clean-up, no farewell to the broker."""
        process = self._running.pop(name)
        process.kill()
        await process.wait()
        await self._start(name)

    def check(self) -> None:
        """Raises ServiceFailed, with the last lines that the service wrote."""
        for name, process in self._running.items():
            if process.returncode is not None:
                raise ServiceFailed(f"{name} ended with code {process.returncode}:\n{self.last_words(name)}")

    def last_words(self, name: str, lines: int = 30) -> str:
        """The end of what the service wrote to its log."""
        path = self._folder / f"{name}.log"
        return "\n".join(path.read_text(errors="replace").splitlines()[-lines:]) if path.exists() else ""

    async def stop(self) -> list[str]:
        """SIGTERM, then SIGKILL for processes that still run after the drain time."""
        running, self._running = self._running, {}
        alive = {name: process for name, process in running.items() if process.returncode is None}
        for process in alive.values():
            process.send_signal(signal.SIGTERM)
        waiting = [asyncio.create_task(process.wait()) for process in alive.values()]
        try:
            if waiting:
                await asyncio.wait(waiting, timeout=_DRAIN)
        finally:
            for process in alive.values():
                if process.returncode is None:
                    process.kill()
            await asyncio.gather(*waiting)
        return [
            f"{name} ended with code {process.returncode}:\n{self.last_words(name)}"
            for name, process in running.items()
            if process.returncode != 0
        ]


class InProcess:
    """All services in this process, on a broker that other processes cannot reach."""

    how = "its Bus restarted, handlers cancelled"

    def __init__(self) -> None:
        self._modules: dict[str, ModuleType] = {}
        self._selling: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """The storefront last: when it has started, it sells."""
        for name in SERVICES:
            self._modules[name] = importlib.import_module(f".{name}", __package__)
            await self._bus(name).start()
        self._selling = asyncio.create_task(self._modules["storefront"].sell())

    def _bus(self, name: str) -> Bus:
        bus = self._modules[name].bus
        assert isinstance(bus, Bus)
        return bus

    async def crash(self, name: str) -> None:
        """No time to drain: handlers are cancelled. Then the service's module is run again, as its process would."""
        await self._bus(name).close(drain=0)
        importlib.reload(self._modules[name])
        await self._bus(name).start()

    def check(self) -> None:
        """Raises what the storefront's selling raised."""
        if self._selling is not None and self._selling.done():
            self._selling.result()

    async def stop(self) -> list[str]:
        """Close the Buses, the storefront's first."""
        selling, self._selling = self._selling, None
        if selling is not None:
            selling.cancel()
            await asyncio.gather(selling, return_exceptions=True)
        for name in reversed(list(self._modules)):
            await self._bus(name).close()
        self._modules.clear()
        return []
