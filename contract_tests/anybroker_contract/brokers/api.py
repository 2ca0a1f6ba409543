"""What the suite and people see: a running ``Broker``, or why there is none (``Unavailable``)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

__all__ = ["Broker", "Source", "Unavailable"]

Source = Literal["url", "container", "native"]


class Broker(ABC):
    """A broker that answers in its own protocol.

    Its methods block; call them from one thread at a time. Every one raises ``BrokerFailed`` when it cannot keep
    its promise, with the end of the broker's log, and when ``can_restart`` is false (``stop`` then does nothing).
    """

    name: str
    url: str
    """``kafka://``, ``amqp://``, ``nats://``, ``sqs://``, ``redis://`` or ``postgresql://``; stays the same."""
    source: Source
    detail: str
    """One line for the run's header: what it is, where it is from, and why no earlier source was used."""
    can_restart: bool
    survives_kill: bool
    """Whether what it acknowledged survives ``kill`` and ``start`` (an SQS emulator goes back)."""

    @abstractmethod
    def restart(self) -> None:
        """End it gracefully and start it again, same port, same data; returns when it answers (90 s at most)."""

    @abstractmethod
    def kill(self) -> None:
        """SIGKILL; returns when its processes are gone."""

    @abstractmethod
    def start(self) -> None:
        """Start it after ``kill``, same port, and the same data where ``survives_kill``; returns when it answers."""

    @abstractmethod
    def freeze(self) -> None:
        """Hold every process of it as SIGSTOP does: connections stay open, nothing is answered."""

    @abstractmethod
    def thaw(self) -> None:
        """Let it run again after ``freeze``; does not wait for it to answer."""

    @abstractmethod
    def stop(self) -> None:
        """End it and remove its data, frozen or killed or not. Idempotent."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name} {self.url} ({self.source})>"


@dataclass(frozen=True)
class Unavailable:
    """No source had this broker."""

    name: str
    reason: str
    """One line: what each source lacked."""
    remedy: str
    """The command that would get it."""
    log: str = ""
    """Where one was started and failed: the whole error, with the end of its log."""

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}; get it with: {self.remedy}"
