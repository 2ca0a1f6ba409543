"""The services as processes, and what an on-call person gets from each: its log, ``/ready`` and ``/live``."""

from __future__ import annotations

import os
import re
import sys
import urllib.error
import urllib.request
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Protocol

from ..brokers.errors import BrokerFailed
from ..brokers.ports import free_port
from ..brokers.process import Keeper, tail
from .faults import Fault

__all__ = ["Answer", "Running", "Services"]

_WARNING = re.compile(r"(WARNING|ERROR|CRITICAL) anybroker\.")
_ANSWER_SECONDS = 10.0


@dataclass(frozen=True)
class Answer:
    """Of a probe."""

    status: int
    said: str

    def __str__(self) -> str:
        return "ok" if self.status == 200 else f"{self.status} {self.said}"


class Running(Protocol):
    """The services."""

    def check(self) -> None:
        """``BrokerFailed`` where one has ended."""
        ...

    def warnings(self, service: str) -> list[str]:
        """The lines at WARNING or above that the service has logged, without their tracebacks."""
        ...

    def ask(self, service: str, path: str) -> Answer:
        """What its probe says."""
        ...


class Services:
    """The processes; they end with the block."""

    def __init__(self, faults: Sequence[Fault], broker: str | None) -> None:
        """``broker``: its URL; None: each service has a file of the embedded one."""
        self.ports = {fault.service: free_port() for fault in faults}
        self._broker = broker
        self._keepers: dict[str, Keeper] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Services:
        with self._stack:
            for name, port in self.ports.items():
                keeper = self._keepers[name] = self._stack.enter_context(Keeper(f"anybroker-alerts-{name}-"))
                url = self._broker or f"sqlite:///{keeper.folder.resolve()}/{name}.db"
                module = f"{__package__}.services"
                keeper.run([sys.executable, "-m", module, name, url, str(port)], env=_environ())
            self._stack = self._stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def check(self) -> None:
        """``BrokerFailed`` where one has ended."""
        for name, keeper in self._keepers.items():
            if not keeper.running():
                raise BrokerFailed(f"the service {name} ended; the end of its log:\n{tail(keeper.log)}")

    def warnings(self, service: str) -> list[str]:
        """The lines at WARNING or above that the service has logged, without their tracebacks."""
        log = self._keepers[service].log
        text = log.read_text("utf-8", errors="replace") if log.exists() else ""
        return [line for line in text.splitlines() if _WARNING.match(line)]

    def ask(self, service: str, path: str) -> Answer:
        """What its probe says."""
        try:
            with urllib.request.urlopen(
                f"http://127.0.0.1:{self.ports[service]}{path}", timeout=_ANSWER_SECONDS
            ) as answer:
                return Answer(answer.status, answer.read().decode().strip())
        except urllib.error.HTTPError as error:
            with error:
                return Answer(error.code, error.read().decode().strip())
        except OSError as error:
            return Answer(0, f"no answer: {error}")


def _environ() -> dict[str, str]:
    """Of a service: what this process imports it imports too, and nothing of the user's settings."""
    mine = {name: value for name, value in os.environ.items() if not name.startswith("ANYBROKER_")}
    return {**mine, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONWARNINGS": "ignore"}
