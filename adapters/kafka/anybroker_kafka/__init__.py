"""The Kafka adapter of anybroker: ``kafka://host:9092`` and, with TLS, ``kafkas://host:9093``."""

from .adapter import KafkaAdapter
from .settings import KafkaSettings

__all__ = ["KafkaAdapter", "KafkaSettings"]
