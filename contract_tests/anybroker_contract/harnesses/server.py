"""A broker that is a server: found or started by :mod:`anybroker_contract.brokers`."""

from __future__ import annotations

from typing import ClassVar

from .._on_server import TakesServer
from ..brokers import Unavailable
from ..brokers.cluster import Cluster, start_cluster
from ..brokers.given import address_of
from ..harness import DISTURBANCES, BrokerHarness, BrokerUnavailable, Route
from ..proxy import Rewrite

__all__ = ["ServerHarness"]


class ServerHarness(TakesServer, BrokerHarness):
    """Subclasses name the ``kind`` of server, and the URL's scheme where it is not their name."""

    disturbances: ClassVar[frozenset[str]] = DISTURBANCES

    def start_servers(self) -> Cluster:
        """Three servers as one broker, besides the one of ``setup``."""
        found = start_cluster(self.kind, 3)
        if isinstance(found, Unavailable):
            raise BrokerUnavailable(found.reason, found.remedy)
        return found

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

    def route(self) -> Route:
        """To the first server that the URL names."""
        address = address_of(self.started)
        if address is None:
            raise BrokerUnavailable(f"the URL of {self.kind} names no server")
        host, port = address
        named = next(name for name in (f"{host}:{port}", host) if name in self.started)
        return Route(
            host,
            port,
            lambda proxy: self.started.replace(named, f"127.0.0.1:{proxy}"),
            lambda proxy: self.rewrite(host, port, proxy),
        )

    def rewrite(self, host: str, port: int, proxy: int) -> Rewrite:
        """The address that the server tells its clients, and the proxy's, in the same number of bytes.

        By default as in a URL; where the lengths differ nothing is rewritten."""
        old, new = f"{host}:{port}".encode(), f"127.0.0.1:{proxy}".encode()
        return (old, new) if len(old) == len(new) else (b"", b"")
