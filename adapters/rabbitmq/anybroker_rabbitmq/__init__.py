"""The RabbitMQ adapter of anybroker: ``amqp://user:password@host:5672/vhost`` and, with TLS, ``amqps://host:5671/``."""

from .adapter import RabbitmqAdapter
from .settings import RabbitmqSettings

__all__ = ["RabbitmqAdapter", "RabbitmqSettings"]
