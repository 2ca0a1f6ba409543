"""What harnesses share whose server is found or started by :mod:`anybroker_contract.brokers`."""

from __future__ import annotations

from typing import ClassVar

from ._disturbances import DISTURBANCES
from .brokers import Broker, Unavailable, start_brokers
from .brokers.given import address_of
from .harness import BrokerUnavailable

__all__ = ["OnServer", "TakesServer"]


class TakesServer:
    """Before the suite's harness in the list of bases. Subclasses name the ``kind`` of server."""

    kind: ClassVar[str]
    disturbances: ClassVar[frozenset[str]]
    """What may be done to it, where it is ours."""
    running: Broker | None = None
    detail: str = ""

    def setup(self) -> str:
        """Start it now, by itself."""
        return self.take(start_brokers([self.kind])[self.kind])

    def take(self, found: Broker | Unavailable) -> str:
        """Use one that was started together with others."""
        if isinstance(found, Unavailable):
            raise BrokerUnavailable(found.reason, found.remedy)
        self.running = found
        self.detail = found.detail
        return found.url

    def teardown(self) -> None:
        """End it, if it is ours."""
        if self.running is not None:
            self.running.stop()
            self.running = None

    def can(self) -> frozenset[str]:
        """Without disturbances if the server is somebody else's; the rest stays."""
        names: frozenset[str] = super().can()  # type: ignore[misc] # the harness's
        if self.running is not None and not self.running.can_restart:
            names -= self.disturbances
        return names

    def _own(self) -> Broker:
        if self.running is None:
            raise RuntimeError(f"the {self.kind} of this process was not set up")
        return self.running


class OnServer(TakesServer):
    """A server of stores and outboxes."""

    disturbances: ClassVar[frozenset[str]] = DISTURBANCES
    server: ClassVar[bool] = True
    timeout: ClassVar[float] = 2.0
    started: str = ""

    def names(self, place: str) -> str:
        """The port, however the host is written."""
        address = address_of(self.started)
        return "" if address is None else str(address[1])

    def restart(self, place: str) -> None:
        """Gracefully, same port and data."""
        self._own().restart()

    def kill(self, place: str) -> None:
        """SIGKILL."""
        self._own().kill()

    def start(self, place: str) -> None:
        """After a kill."""
        self._own().start()

    def freeze(self, place: str) -> None:
        """SIGSTOP."""
        self._own().freeze()

    def thaw(self, place: str) -> None:
        """SIGCONT."""
        self._own().thaw()
