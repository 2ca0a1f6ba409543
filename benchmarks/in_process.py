"""Microseconds per event in process: our memory adapter, FastStream's in-memory run, and a bare loop.

All three handle the same events with the same typed handler. The bare loop takes messages in binary mode from a deque,
makes events of them and validates the payloads, and nothing else: no order, no acknowledgement, no retries.
FastStream's figure is its own layer on existing messages (``process_message``), one after the other, which is the
fastest way through it, with its logging off. Processor time is measured, because nothing waits here.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

from faststream.nats import NatsBroker, TestNatsBroker
from faststream.nats.testing import build_message  # its test broker's own way to make a message

from anybroker import Bus, Event, MemoryBroker
from anybroker.cloudevents import HeaderBinding

from .workload import OrderPlaced, consume_with_bus, in_flight, orders, total

__all__ = ["bare_consume", "consume", "faststream_consume", "plain_bus", "publish"]

EVENTS = 30_000
PORTION = 2_000
TOPICS = {"orders": {"groups": ["billing"]}}


def _timed(main: Callable[[], Coroutine[Any, Any, float]]) -> float:
    gc.freeze()
    try:
        return asyncio.run(main()) * 1e6 / EVENTS
    finally:
        gc.unfreeze()


def plain_bus(broker: MemoryBroker) -> Bus:
    """With nothing attached to it."""
    return Bus(broker, source="bench", topics=TOPICS)


def publish(make: Callable[[MemoryBroker], Bus] = plain_bus) -> float:
    """``await bus.publish`` from 256 tasks, into a group that is emptied between portions."""

    async def main() -> float:
        broker = MemoryBroker()
        async with make(broker) as bus:
            items = orders(EVENTS)
            took = 0.0
            for first in range(0, EVENTS, PORTION):
                begun = time.process_time()
                await in_flight(
                    items[first : first + PORTION], lambda order: bus.publish("orders", order, key=order.customer)
                )
                took += time.process_time() - begun
                if broker.purge("orders", "billing") != PORTION:
                    raise AssertionError("not every event was published")
            return took

    return _timed(main)


def consume(make: Callable[[MemoryBroker], Bus] = plain_bus) -> float:
    """A subscription with default middleware on events that were published before; 256 events in flight."""

    async def main() -> float:
        broker = MemoryBroker()
        async with plain_bus(broker) as bus:
            await in_flight(orders(EVENTS), lambda order: bus.publish("orders", order, key=order.customer))
        return await consume_with_bus(make(broker), "orders", EVENTS, time.process_time)

    return _timed(main)


def bare_consume() -> float:
    """The same decoding and the same handler, in a bare loop."""

    async def main() -> float:
        binding = HeaderBinding(bytes, prefix="ce_")
        messages: deque[tuple[list[tuple[str, bytes]], bytes | None]] = deque()
        for order in orders(EVENTS):
            event = Event.create(order, source="bench", key=order.customer)
            messages.append((binding.binary_headers(event), event.body))
        cents = 0

        async def charge(order: OrderPlaced, event: Event) -> None:
            nonlocal cents
            cents += order.cents

        validate = OrderPlaced.model_validate_json
        begun = time.process_time()
        while messages:
            headers, body = messages.popleft()
            event = binding.parse(headers, body)
            await charge(validate(event.body or b""), event)
        took = time.process_time() - begun
        if cents != total(EVENTS):
            raise AssertionError("not every event was handled")
        return took

    return _timed(main)


def faststream_consume() -> float:
    """FastStream's in-memory broker: its layer on existing messages."""

    async def main() -> float:
        broker = NatsBroker(logger=None)
        cents = 0

        @broker.subscriber("orders")
        async def charge(order: OrderPlaced) -> None:
            nonlocal cents
            cents += order.cents

        async with TestNatsBroker(broker):
            subscriber = broker.subscribers[0]
            for call in subscriber.calls:
                call.handler.reset_test()  # its test double records every call, which is not its layer's cost
            messages = [await build_message(order.model_dump(), "orders") for order in orders(EVENTS)]
            begun = time.process_time()
            for message in messages:
                await subscriber.process_message(message)
            took = time.process_time() - begun
        if cents != total(EVENTS):
            raise AssertionError("not every event was handled")
        return took

    return _timed(main)
