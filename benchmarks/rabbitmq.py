"""RabbitMQ against bare aio-pika, on the same exchanges and queues.

The bare publisher awaits ``exchange.publish`` in 256 tasks: persistent, mandatory, confirmed. The bare consumer has a
channel for each of the group's four queues, a prefetch of 256, and acknowledges each message.
"""

from __future__ import annotations

import asyncio

import aio_pika
from aio_pika.abc import AbstractIncomingMessage

from anybroker.adapter import DEFAULT_LANES, slot_of

from .server import Handled, ServerBenchmark
from .workload import IN_FLIGHT, OrderPlaced

__all__ = ["RabbitMQ"]

_PREFIX = "cloudEvents_"


class RabbitMQ(ServerBenchmark):
    """The candidates, on one broker."""

    title = "RabbitMQ"
    client = "aio-pika"
    events = 10_000

    async def publish_bare(self, topic: str) -> float:
        """See :class:`ServerBenchmark`."""
        async with await aio_pika.connect(self.url) as connection:
            channel = await connection.channel(publisher_confirms=True, on_return_raises=True)
            exchange = await channel.get_exchange(topic, ensure=False)

            async def send(order: OrderPlaced) -> None:
                headers, body = self.message(order, _PREFIX)
                message = aio_pika.Message(
                    body,
                    headers=dict(headers),
                    content_type="application/json",
                    delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
                    message_id=headers[f"{_PREFIX}id"],
                )
                await exchange.publish(message, str(slot_of(order.customer)), mandatory=True)

            return await self.send_all(send)

    async def consume_bare(self, topic: str, handled: Handled) -> None:
        """See :class:`ServerBenchmark`."""
        done = asyncio.Event()

        async def deliver(message: AbstractIncomingMessage) -> None:
            attributes = {
                name[len(_PREFIX) :]: str(value) for name, value in message.headers.items() if name.startswith(_PREFIX)
            }
            await handled.handle(attributes, message.body)
            await message.ack()
            if handled.complete:
                done.set()

        async with await aio_pika.connect(self.url) as connection:
            for lane in range(DEFAULT_LANES):
                channel = await connection.channel()
                await channel.set_qos(prefetch_count=IN_FLIGHT)
                queue = await channel.get_queue(f"{topic}:bare:{lane}", ensure=False)
                await queue.consume(deliver)
            await done.wait()
