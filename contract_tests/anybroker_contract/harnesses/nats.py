"""The NATS adapter, on a nats-server of this session."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from ..brokers.ports import free_port
from ..harness import Clustered, Secured
from ..secured import nats
from .server import ServerHarness

if TYPE_CHECKING:
    from ..raw import RawClient

__all__ = ["NatsHarness"]

ELECTION = 9.0
"""A follower that hears nothing waits for 4 to 9 s, and the server has no setting for that."""
CATCH_UP = 300.0
"""A server that was alone with a stream, and is killed, asks the others for its last entries in vain until their leader
makes a snapshot ("Expected first catchup entry to be a snapshot and peerstate, will retry"). One is due after 8 MB of
entries, or 2 to 3 minutes; it is refused five times because of the very server that waits for it ("snapshot can not be
installed while catchups running"), every 15 s, and made after that. Seen with 2.15.1: 110 s at 500 events a second."""


class NatsHarness(ServerHarness):
    """Topics have unique names; the server is shared."""

    name: ClassVar[str] = "nats"
    kind: ClassVar[str] = "nats"
    handed_over_again: ClassVar[float] = 15.0

    def absent_url(self) -> str:
        """A port where nobody listens."""
        return f"nats://127.0.0.1:{free_port()}"

    async def delete(self, topic: str) -> None:
        """The topic's stream, and with it its consumers."""
        async with self.raw() as client:
            await client.delete(topic, "g")

    def secured(self, folder: Path) -> Secured:
        """Others, with TLS and credentials."""
        return nats.start(folder)

    async def delete_lane(self, topic: str) -> None:
        """The consumer of lane 2."""
        async with self.raw() as client:
            await client.delete_lane(topic, "g", 2)

    def cluster(self) -> Clustered:
        """Streams have three replicas there."""
        servers = self.start_servers()

        async def in_sync(topic: str) -> bool:
            from ..raw.nats import NatsClient

            async with NatsClient(servers.url) as client:
                return await client.replicas_in_sync(topic) == len(servers.nodes)

        url = f"{servers.url}?replicas={len(servers.nodes)}"
        # A server that was not the leader itself knows for ten seconds only that it hears of none, and one that
        # had just become the leader only that the one that was asked is not any more.
        too_few = ("too few to store it", "no leader", "does JetStream have a leader?", "has another leader now")
        return Clustered(url, servers, in_sync, too_few, ELECTION, CATCH_UP)

    def raw(self) -> RawClient:
        """By the broker's own client, which is imported now."""
        from ..raw.nats import NatsClient

        return NatsClient(self.started)
