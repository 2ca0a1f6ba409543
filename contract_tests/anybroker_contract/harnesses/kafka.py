"""The Kafka adapter, on a Kafka of this session."""

from __future__ import annotations

from typing import ClassVar

from ..brokers.ports import free_port
from .server import ServerHarness

__all__ = ["KafkaHarness"]


class KafkaHarness(ServerHarness):
    """Topics have names of their own; the server is shared."""

    name: ClassVar[str] = "kafka"
    kind: ClassVar[str] = "kafka"

    def absent_url(self) -> str:
        """A port where nobody listens."""
        return f"kafka://127.0.0.1:{free_port()}"
