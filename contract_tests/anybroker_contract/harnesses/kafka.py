"""The Kafka adapter, on a Kafka of this session."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from ..brokers.ports import free_port
from ..harness import BrokerUnavailable, Clustered, Secured
from ..proxy import Rewrite
from ..secured import kafka
from .server import ServerHarness

if TYPE_CHECKING:
    from ..raw.kafka import KafkaClient

__all__ = ["KafkaHarness"]

LOOPBACK = "127.0.0.1"


class KafkaHarness(ServerHarness):
    """Topics have unique names; the server is shared."""

    name: ClassVar[str] = "kafka"
    kind: ClassVar[str] = "kafka"

    def absent_url(self) -> str:
        """A port where nobody listens."""
        return f"kafka://127.0.0.1:{free_port()}"

    def secured(self, folder: Path) -> Secured:
        """Another one, with TLS and credentials."""
        return kafka.start(folder)

    def rewrite(self, host: str, port: int, proxy: int) -> Rewrite:
        """A broker in an answer: its host as text, and its port in four bytes."""
        if len(host) != len(LOOPBACK):
            raise BrokerUnavailable(f"clients of {host} cannot be sent to a proxy at {LOOPBACK} without changing sizes")
        return host.encode() + struct.pack(">i", port), LOOPBACK.encode() + struct.pack(">i", proxy)

    async def delete(self, topic: str) -> None:
        """By Kafka's admin client."""
        async with self.raw() as client:
            await client.delete(topic, "g")

    async def distrust(self, topic: str) -> None:
        """Records may be at most 0 ms old, so all are too old when the broker checks them."""
        async with self.raw() as client:
            await client.configure(topic, {"message.timestamp.before.max.ms": "0"})

    async def grow(self, topic: str, lanes: int) -> None:
        """By Kafka's admin client."""
        async with self.raw() as client:
            await client.grow(topic, lanes)

    def cluster(self) -> Clustered:
        """Topics have three replicas there by default, and a write needs two [min.insync.replicas]."""
        servers = self.start_servers()

        async def in_sync(topic: str) -> bool:
            from ..raw.kafka import KafkaClient

            return await KafkaClient(servers.url).replicas_in_sync(topic) == len(servers.nodes)

        return Clustered(servers.url, servers, in_sync, ("NotEnoughReplicas",))

    def raw(self) -> KafkaClient:
        """By the broker's own client, which is imported now."""
        from ..raw.kafka import KafkaClient

        return KafkaClient(self.started)
