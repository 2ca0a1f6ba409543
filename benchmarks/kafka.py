"""Kafka: anybroker against a bare aiokafka program that writes and reads the same CloudEvents, on the same broker.

The bare publisher awaits ``send_and_wait`` in 256 tasks with an idempotent producer (acks=all). The bare consumer reads
with ``getmany``, checks the attributes, validates the payload, calls the handler and commits each batch.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable, Coroutine
from typing import Any
from uuid import uuid4

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from anybroker import Bus

from .workload import TYPE, OrderPlaced, bare_attributes, consume_with_bus, in_flight, orders, total

__all__ = ["Kafka"]


class Kafka:
    """The candidates, on one broker; each run on a topic of its own."""

    def __init__(self, url: str, events: int = 20_000) -> None:
        self._url = url
        self._servers = url.removeprefix("kafka://")
        self._events = events
        self._filled: list[str] = []

    def _timed(self, main: Callable[[], Coroutine[Any, Any, float]]) -> float:
        gc.freeze()
        try:
            return asyncio.run(main()) * 1e6 / self._events
        finally:
            gc.unfreeze()

    def _bus(self, topic: str) -> Bus:
        return Bus(self._url, source="bench", topics={topic: {"groups": ["billing", "bare"]}})

    def publish(self) -> float:
        """Ours."""

        async def main() -> float:
            topic = f"bench-{uuid4().hex[:12]}"
            async with self._bus(topic) as bus:
                begun = time.perf_counter()
                await in_flight(orders(self._events), lambda order: bus.publish(topic, order, key=order.customer))
                took = time.perf_counter() - begun
            self._filled.append(topic)
            return took

        return self._timed(main)

    def bare_publish(self) -> float:
        """Bare aiokafka."""

        async def main() -> float:
            topic = f"bench-{uuid4().hex[:12]}"
            async with self._bus(topic):
                pass  # makes the topic
            producer = AIOKafkaProducer(bootstrap_servers=self._servers, enable_idempotence=True, acks="all")
            await producer.start()

            async def send(order: OrderPlaced) -> None:
                headers = [(f"ce_{name}", value.encode()) for name, value in bare_attributes(order).items()]
                headers.append(("content-type", b"application/json"))
                await producer.send_and_wait(
                    topic, order.model_dump_json().encode(), key=order.customer.encode(), headers=headers
                )

            try:
                begun = time.perf_counter()
                await in_flight(orders(self._events), send)
                return time.perf_counter() - begun
            finally:
                await producer.stop()

        return self._timed(main)

    async def _fill(self) -> str:
        topic = f"bench-{uuid4().hex[:12]}"
        async with self._bus(topic) as bus:
            await in_flight(orders(self._events), lambda order: bus.publish(topic, order, key=order.customer))
        return topic

    def consume(self) -> float:
        """Ours: default middleware, ordered by key, commits from the ledger."""

        async def main() -> float:
            topic = self._filled.pop() if self._filled else await self._fill()
            self._filled.append(topic)  # the bare consumer reads the same events with its own group
            return await consume_with_bus(Bus(self._url, source="bench"), topic, self._events, time.perf_counter)

        return self._timed(main)

    def bare_consume(self) -> float:
        """Bare aiokafka."""

        async def main() -> float:
            topic = self._filled.pop() if self._filled else await self._fill()
            consumer = AIOKafkaConsumer(
                topic,
                bootstrap_servers=self._servers,
                group_id=f"{topic}.plain",
                enable_auto_commit=False,
                auto_offset_reset="earliest",
            )
            cents = seen = 0
            begun = 0.0

            async def charge(order: OrderPlaced, attributes: dict[str, str]) -> None:
                nonlocal cents, seen, begun
                if not seen:
                    begun = time.perf_counter()
                cents += order.cents
                seen += 1

            await consumer.start()
            try:
                while seen < self._events:
                    for partition, records in (await consumer.getmany(timeout_ms=1000)).items():
                        for record in records:
                            attributes = {
                                name[3:]: value.decode() for name, value in record.headers if name.startswith("ce_")
                            }
                            if attributes.get("specversion") != "1.0" or attributes.get("type") != TYPE:
                                raise AssertionError("no event of ours")
                            await charge(OrderPlaced.model_validate_json(record.value or b""), attributes)
                        await consumer.commit({partition: records[-1].offset + 1})
                took = time.perf_counter() - begun
            finally:
                await consumer.stop()
            if cents != total(self._events):
                raise AssertionError("not every event was handled")
            return took

        return self._timed(main)
