"""A broker that is a server: found or started by :mod:`anybroker_contract.brokers`."""

from __future__ import annotations

from typing import ClassVar

from ..brokers import Broker, Unavailable, start_brokers
from ..harness import BrokerHarness, BrokerUnavailable

__all__ = ["ServerHarness"]


class ServerHarness(BrokerHarness):
    """Subclasses name the ``kind`` of server, and the URL's scheme where it is not their name."""

    kind: ClassVar[str]
    server: Broker | None = None

    def setup(self) -> str:
        """Start it now, by itself."""
        return self.take(start_brokers([self.kind])[self.kind])

    def take(self, found: Broker | Unavailable) -> str:
        """Use one that was started together with others."""
        if isinstance(found, Unavailable):
            raise BrokerUnavailable(found.reason, found.remedy)
        self.server = found
        self.detail = found.detail
        return found.url

    def teardown(self) -> None:
        """End it, if it is ours."""
        if self.server is not None:
            self.server.stop()
            self.server = None

    def can(self) -> frozenset[str]:
        """Nothing, where the server is somebody else's."""
        names = super().can()
        if self.server is not None and not self.server.can_restart:
            names &= {"absent_url"}
        return names

    def _own(self) -> Broker:
        if self.server is None:
            raise RuntimeError(f"the {self.kind} of this process was not set up")
        return self.server

    def restart(self) -> None:
        """Gracefully, same port and data."""
        self._own().restart()

    def kill(self) -> None:
        """SIGKILL."""
        self._own().kill()

    def start(self) -> None:
        """After a kill."""
        self._own().start()

    def freeze(self) -> None:
        """SIGSTOP."""
        self._own().freeze()

    def thaw(self) -> None:
        """SIGCONT."""
        self._own().thaw()
