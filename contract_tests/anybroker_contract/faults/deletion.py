"""Deleting a topic behind the library's back, with the broker's own client."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

__all__ = ["DELETIONS"]


async def kafka(url: str, topic: str) -> None:
    """The topic."""
    from aiokafka.admin import AIOKafkaAdminClient

    admin = AIOKafkaAdminClient(bootstrap_servers=url.removeprefix("kafka://").partition("?")[0])
    await admin.start()
    try:
        await admin.delete_topics([topic])
    finally:
        await admin.close()


async def rabbitmq(url: str, topic: str) -> None:
    """The topic's exchange, and with it the bindings of its groups' exchanges; their queues stay."""
    import aio_pika

    connection = await aio_pika.connect(url)
    async with connection:
        channel = await connection.channel()
        await channel.exchange_delete(topic)


async def nats(url: str, topic: str) -> None:
    """The topic's stream, and with it the consumers."""
    import nats as client

    connection = await client.connect(url.partition("?")[0])
    try:
        await connection.jetstream().delete_stream(topic.replace(".", "_"))
    finally:
        await connection.close()


DELETIONS: Mapping[str, Callable[[str, str], Awaitable[None]]] = {"kafka": kafka, "rabbitmq": rabbitmq, "nats": nats}
"""By the name of the harness: ``await DELETIONS["kafka"](url, topic)``."""
