"""A file of the embedded broker with dead letters in it, and the command line in this process."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from anybroker import Bus, Reject
from anybroker.cli import main
from anybroker.middleware import dead_letter, retry
from anybroker.testing import settled


@pytest.fixture(autouse=True)
def folder(own_folder: Path) -> Path:
    """The working folder."""
    return own_folder


@dataclass
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """What it wrote, which must be nothing but JSON."""
        return json.loads(self.out)


@pytest.fixture
def anybroker(capsys: pytest.CaptureFixture[str]) -> Callable[..., Ended]:
    """Runs a command in this process."""

    root = logging.getLogger()

    def command(*arguments: object) -> Ended:
        handlers, level = root.handlers[:], root.level  # a process has one command; "run" replaces them
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as exc:
            code = int(exc.code or 0)
        finally:
            root.handlers[:] = handlers
            root.setLevel(level)
        out, err = capsys.readouterr()
        return Ended(code, out, err)

    return command


class Shop:
    """A service on a file: "orders" for the group "billing", which refuses what its payload says."""

    def __init__(self, folder: Path) -> None:
        self.url = f"sqlite:///{folder}/shop.db"
        self.seen: list[Any] = []

    def bus(self, refuses: bool = True) -> Bus:
        bus = Bus(self.url, source="shop")

        @bus.subscribe("orders", group="billing", start="earliest", name="charge")
        @dead_letter()
        @retry(attempts=1)
        async def charge(order: dict[str, Any]) -> None:
            if refuses and "refuse" in order:
                raise Reject(order["refuse"])
            self.seen.append(order)

        @bus.subscribe("orders", group="stock", start="earliest", name="reserve")
        async def reserve(order: dict[str, Any]) -> None:
            self.seen.append("stock")

        return bus

    def fill(self, *orders: dict[str, Any], **options: Any) -> None:
        """Publish, and let the service handle them; ids are o-0, o-1, …"""

        async def publish() -> None:
            async with self.bus() as bus:
                for number, order in enumerate(orders):
                    await bus.publish("orders", order, type="order.v1", id=f"o-{number}", **options)
                await settled(bus)

        asyncio.run(publish())

    def work(self) -> list[Any]:
        """Let the fixed service handle what waits. Returns what "billing" has seen."""

        async def handle() -> None:
            async with self.bus(refuses=False) as bus:
                await settled(bus)

        self.seen.clear()
        asyncio.run(handle())
        return self.seen


@pytest.fixture
def shop(folder: Path) -> Shop:
    return Shop(folder)
