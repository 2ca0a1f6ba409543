"""Kafka against bare aiokafka.

The bare publisher awaits ``send_and_wait`` in 256 tasks with an idempotent producer (acks=all). The bare consumer reads
with ``getmany`` and commits each batch.
"""

from __future__ import annotations

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from .server import Handled, ServerBenchmark
from .workload import OrderPlaced

__all__ = ["Kafka"]


class Kafka(ServerBenchmark):
    """The candidates, on one broker."""

    title = "Kafka"
    client = "aiokafka"
    aims = (2.5, 1.1)

    @property
    def _servers(self) -> str:
        return self.url.removeprefix("kafka://")

    async def publish_bare(self, topic: str) -> float:
        """See :class:`ServerBenchmark`."""
        producer = AIOKafkaProducer(bootstrap_servers=self._servers, enable_idempotence=True, acks="all")

        async def send(order: OrderPlaced) -> None:
            headers, body = self.message(order, "ce_")
            pairs = [(name, value.encode()) for name, value in headers.items()]
            pairs.append(("content-type", b"application/json"))
            await producer.send_and_wait(topic, body, key=order.customer.encode(), headers=pairs)

        await producer.start()
        try:
            return await self.send_all(send)
        finally:
            await producer.stop()

    async def consume_bare(self, topic: str, handled: Handled) -> None:
        """See :class:`ServerBenchmark`."""
        consumer = AIOKafkaConsumer(
            topic,
            bootstrap_servers=self._servers,
            group_id=f"{topic}.plain",
            enable_auto_commit=False,
            auto_offset_reset="earliest",
        )
        await consumer.start()
        try:
            while not handled.complete:
                for partition, records in (await consumer.getmany(timeout_ms=1000)).items():
                    for record in records:
                        attributes = {
                            name[3:]: value.decode() for name, value in record.headers if name.startswith("ce_")
                        }
                        await handled.handle(attributes, record.value or b"")
                    await consumer.commit({partition: records[-1].offset + 1})
        finally:
            await consumer.stop()
