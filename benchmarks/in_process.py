"""Microseconds an event in process: our memory adapter, FastStream's in-memory run, and a bare loop.

All three handle the same events with the same typed handler. The bare loop takes messages in binary mode from a deque,
makes the event of them and validates the payload, and does nothing else: no order, no acknowledgement, no retries.
FastStream's figure is its own layer on a message that is there already (``process_message``), one after the other,
which is the fastest way through it.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections import deque
from collections.abc import Awaitable, Callable

from faststream.nats import NatsBroker, TestNatsBroker
from pydantic import BaseModel

from anybroker import Bus, Event, MemoryBroker, event_type
from anybroker.cloudevents import HeaderBinding

__all__ = ["bare_consume", "consume", "faststream_consume", "publish"]

EVENTS = 30_000
IN_FLIGHT = 256
PORTION = 2_000
KEYS = 1_000


@event_type("com.example.order.placed.v1")
class OrderPlaced(BaseModel):
    """The payload."""

    order_id: str
    customer: str
    cents: int


def _orders(count: int) -> list[OrderPlaced]:
    return [OrderPlaced(order_id=f"o-{n}", customer=f"c-{n % KEYS}", cents=n % 10_000) for n in range(count)]


def _timed(main: Callable[[], Awaitable[float]]) -> float:
    gc.freeze()
    try:
        return asyncio.run(main()) * 1e6 / EVENTS  # type: ignore[arg-type] # coroutines are what they return
    finally:
        gc.unfreeze()


async def _publish_all(bus: Bus, orders: list[OrderPlaced]) -> None:
    source = iter(orders)

    async def publisher() -> None:
        for order in source:
            await bus.publish("orders", order, key=order.customer)

    await asyncio.gather(*(publisher() for _ in range(IN_FLIGHT)))


def publish() -> float:
    """``await bus.publish`` from 256 tasks, into a group that is emptied between two portions."""

    async def main() -> float:
        broker = MemoryBroker()
        async with Bus(broker, source="bench", topics={"orders": {"groups": ["billing"]}}) as bus:
            orders = _orders(EVENTS)
            took = 0.0
            for first in range(0, EVENTS, PORTION):
                begun = time.process_time()
                await _publish_all(bus, orders[first : first + PORTION])
                took += time.process_time() - begun
                broker.purge("orders", "billing")
            return took

    return _timed(main)


def consume() -> float:
    """A subscription with default middleware on what was published before; 256 events in flight."""

    async def main() -> float:
        broker = MemoryBroker()
        async with Bus(broker, source="bench", topics={"orders": {"groups": ["billing"]}}) as publisher:
            await _publish_all(publisher, _orders(EVENTS))
        bus = Bus(broker, source="bench")
        done = asyncio.Event()
        cents = seen = 0

        @bus.subscribe("orders", group="billing", max_in_flight=IN_FLIGHT)
        async def charge(order: OrderPlaced, event: Event) -> None:
            nonlocal cents, seen
            cents += order.cents
            seen += 1
            if seen == EVENTS:
                done.set()

        begun = time.process_time()
        async with bus:
            await done.wait()
            took = time.process_time() - begun
        assert cents == sum(n % 10_000 for n in range(EVENTS))
        return took

    return _timed(main)


def bare_consume() -> float:
    """The same decoding and the same handler, in a bare loop."""

    async def main() -> float:
        binding = HeaderBinding(bytes, prefix="ce_")
        messages = deque()
        for order in _orders(EVENTS):
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
        assert cents == sum(n % 10_000 for n in range(EVENTS))
        return took

    return _timed(main)


def faststream_consume() -> float:
    """FastStream's in-memory broker: its layer on messages that are there already."""

    async def main() -> float:
        broker = NatsBroker(logger=None)
        cents = 0

        @broker.subscriber("orders")
        async def charge(order: OrderPlaced) -> None:
            nonlocal cents
            cents += order.cents

        from faststream.nats.testing import build_message  # its test broker's own way to make a message

        async with TestNatsBroker(broker):
            subscriber = broker.subscribers[0]
            for call in subscriber.calls:
                call.handler.reset_test()  # its test double records every call, which is not its layer's cost
            messages = [await build_message(order.model_dump(), "orders") for order in _orders(EVENTS)]
            begun = time.process_time()
            for message in messages:
                await subscriber.process_message(message)
            took = time.process_time() - begun
        assert cents == sum(n % 10_000 for n in range(EVENTS))
        return took

    return _timed(main)
