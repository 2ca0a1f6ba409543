"""The RabbitMQ adapter, on a RabbitMQ of this session."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from ..brokers.ports import free_port
from ..brokers.rabbitmq import find_4
from ..harness import Secured
from ..secured import rabbitmq
from .server import ServerHarness

if TYPE_CHECKING:
    from ..raw import RawClient

__all__ = ["Rabbitmq4Harness", "RabbitmqHarness"]


class RabbitmqHarness(ServerHarness):
    """Topics have unique names; the server is shared."""

    name: ClassVar[str] = "rabbitmq"
    scheme: ClassVar[str] = "amqp"
    kind: ClassVar[str] = "rabbitmq"

    def absent_url(self) -> str:
        """A port where nobody listens."""
        return f"amqp://127.0.0.1:{free_port()}"

    async def delete(self, topic: str) -> None:
        """The topic's exchange, and its group ``g`` with what waits for it."""
        async with self.raw() as client:
            await client.delete(topic, "g")

    async def delete_lane(self, topic: str) -> None:
        """The queue of lane 2."""
        async with self.raw() as client:
            await client.delete_lane(topic, "g", 2)

    def secured(self, folder: Path) -> Secured:
        """Another one, with TLS and credentials."""
        return rabbitmq.start(folder)

    def raw(self) -> RawClient:
        """By the broker's own client, which is imported now."""
        from ..raw.rabbitmq import RabbitmqClient

        return RabbitmqClient(self.started)


class Rabbitmq4Harness(RabbitmqHarness):
    """The same on the newest major version, asked for by name."""

    name: ClassVar[str] = "rabbitmq4"
    kind: ClassVar[str] = "rabbitmq4"

    def secured(self, folder: Path) -> Secured:
        """Another one of that version, with TLS and credentials."""
        return rabbitmq.start(folder, find_4)
