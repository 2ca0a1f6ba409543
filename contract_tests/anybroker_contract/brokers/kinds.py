"""Every broker, and where it comes from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from . import kafka, nats, postgres, rabbitmq, redis, sqs
from .context import Context
from .image import Image
from .native import Install

__all__ = ["ALL", "KINDS", "Kind"]


@dataclass(frozen=True)
class Kind:
    """One broker by name."""

    image: Image
    find: Callable[[Context], tuple[Install, str]]
    """How to run it as processes of this machine, and one line about it; raises ``Missing``."""
    find_cluster: Callable[[Context, int], tuple[Sequence[Install], str]] | None = None
    """The same for the servers of one cluster, where we can run one."""


KINDS: Mapping[str, Kind] = {
    "kafka": Kind(kafka.IMAGE, kafka.find, kafka.find_cluster),
    "rabbitmq": Kind(rabbitmq.IMAGE, rabbitmq.find),
    "nats": Kind(nats.IMAGE, nats.find, nats.find_cluster),
    "sqs": Kind(sqs.IMAGE, sqs.find),
    "redis": Kind(redis.IMAGE, redis.find),
    "postgres": Kind(postgres.IMAGE, postgres.find),
    "rabbitmq3": Kind(rabbitmq.IMAGE_3, rabbitmq.find_3),
    "rabbitmq4": Kind(rabbitmq.IMAGE, rabbitmq.find_4),
}

ALL = ("kafka", "rabbitmq", "nats", "sqs", "redis", "postgres")
"""What ``all`` means; ``rabbitmq3`` and ``rabbitmq4`` are variants that are asked for by name."""
