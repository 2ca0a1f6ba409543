"""The RabbitMQ adapter, on a RabbitMQ of this session."""

from __future__ import annotations

from typing import ClassVar

from ..brokers.ports import free_port
from .server import ServerHarness

__all__ = ["Rabbitmq4Harness", "RabbitmqHarness"]


class RabbitmqHarness(ServerHarness):
    """Topics have names of their own; the server is shared."""

    name: ClassVar[str] = "rabbitmq"
    scheme: ClassVar[str] = "amqp"
    kind: ClassVar[str] = "rabbitmq"

    def absent_url(self) -> str:
        """A port where nobody listens."""
        return f"amqp://127.0.0.1:{free_port()}"


class Rabbitmq4Harness(RabbitmqHarness):
    """The same on the newest major version, asked for by name."""

    name: ClassVar[str] = "rabbitmq4"
    kind: ClassVar[str] = "rabbitmq4"
