"""Deleting a topic behind the library's back, with the broker's own client."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

__all__ = ["DELETIONS"]


async def kafka(url: str, topic: str) -> None:
    """The topic."""
    from ..raw.kafka import KafkaClient

    async with KafkaClient(url) as client:
        await client.delete(topic, "")


async def rabbitmq(url: str, topic: str) -> None:
    """The topic's exchange, and with it the bindings of its groups' exchanges; their queues stay."""
    import aio_pika

    connection = await aio_pika.connect(url)
    async with connection:
        channel = await connection.channel()
        await channel.exchange_delete(topic)


async def nats(url: str, topic: str) -> None:
    """The topic's stream, and with it the consumers."""
    from ..raw.nats import NatsClient

    async with NatsClient(url) as client:
        await client.delete(topic, "")


DELETIONS: Mapping[str, Callable[[str, str], Awaitable[None]]] = {"kafka": kafka, "rabbitmq": rabbitmq, "nats": nats}
"""By the name of the harness: ``await DELETIONS["kafka"](url, topic)``."""
