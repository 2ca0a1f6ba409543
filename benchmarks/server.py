"""A broker that is a server: anybroker against a bare program on the same broker, with the same topic.

Each publishing run creates a topic; its events are then consumed by anybroker in the group ``billing`` and by the bare
program in the group ``bare``.
"""

from __future__ import annotations

import asyncio
import gc
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine
from typing import Any, ClassVar
from uuid import uuid4

from anybroker import Bus

from .workload import TYPE, OrderPlaced, bare_attributes, consume_with_bus, in_flight, orders, total

__all__ = ["Handled", "ServerBenchmark"]


class Handled:
    """Counts what the bare consumer's handler has handled."""

    def __init__(self, expected: int) -> None:
        self.expected = expected
        self.seen = self.cents = 0
        self.begun = self.ended = 0.0

    async def charge(self, order: OrderPlaced, attributes: dict[str, str]) -> None:
        """The handler."""
        if not self.seen:
            self.begun = time.perf_counter()
        self.cents += order.cents
        self.seen += 1
        if self.seen == self.expected:
            self.ended = time.perf_counter()

    async def handle(self, attributes: dict[str, str], body: bytes) -> None:
        """Check the attributes, validate the payload, call the handler."""
        if attributes.get("specversion") != "1.0" or attributes.get("type") != TYPE:
            raise AssertionError("no event of ours")
        await self.charge(OrderPlaced.model_validate_json(body), attributes)

    @property
    def complete(self) -> bool:
        """Whether every event was handled."""
        return self.seen >= self.expected

    def seconds(self) -> float:
        """From the first event to the last."""
        if self.cents != total(self.expected):
            raise AssertionError("not every event was handled")
        return self.ended - self.begun


class ServerBenchmark(ABC):
    """The candidates on one broker."""

    title: ClassVar[str]
    client: ClassVar[str]
    """What the bare program uses."""
    events: ClassVar[int] = 20_000
    aims: ClassVar[tuple[float | None, float | None]] = (None, None)
    """Throughput over the bare program: publish, consume."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._filled: list[str] = []

    def candidates(self) -> dict[str, Callable[[], float]]:
        """What is run in each round, in this order."""
        return {
            f"{self.title} publish": self.publish,
            f"bare {self.client}, publish": self.bare_publish,
            f"{self.title} consume": self.consume,
            f"bare {self.client}, consume": self.bare_consume,
        }

    def _timed(self, main: Callable[[], Coroutine[Any, Any, float]]) -> float:
        gc.freeze()
        try:
            return asyncio.run(main()) * 1e6 / self.events
        finally:
            gc.unfreeze()

    def _bus(self, topic: str) -> Bus:
        return Bus(self.url, source="bench", topics={topic: {"groups": ["billing", "bare"]}})

    async def _fill(self, topic: str) -> float:
        async with self._bus(topic) as bus:
            begun = time.perf_counter()
            await in_flight(orders(self.events), lambda order: bus.publish(topic, order, key=order.customer))
            took = time.perf_counter() - begun
        self._filled.append(topic)
        return took

    def publish(self) -> float:
        """Ours."""
        return self._timed(lambda: self._fill(_name()))

    def consume(self) -> float:
        """Ours: default middleware, ordered by key."""

        async def main() -> float:
            if not self._filled:
                await self._fill(_name())
            topic = self._filled[-1]  # the bare consumer reads the same events
            return await consume_with_bus(Bus(self.url, source="bench"), topic, self.events, time.perf_counter)

        return self._timed(main)

    def bare_publish(self) -> float:
        """The bare program."""

        async def main() -> float:
            topic = _name()
            async with self._bus(topic):
                pass  # makes the topic
            return await self.publish_bare(topic)

        return self._timed(main)

    def bare_consume(self) -> float:
        """The bare program."""

        async def main() -> float:
            if not self._filled:
                await self._fill(_name())
            handled = Handled(self.events)
            await self.consume_bare(self._filled.pop(), handled)
            return handled.seconds()

        return self._timed(main)

    async def send_all(self, send: Callable[[OrderPlaced], Coroutine[Any, Any, object]]) -> float:
        """Seconds to send every order, 256 at a time."""
        begun = time.perf_counter()
        await in_flight(orders(self.events), send)
        return time.perf_counter() - begun

    @abstractmethod
    async def publish_bare(self, topic: str) -> float:
        """Publish every order with the client alone: seconds."""

    @abstractmethod
    async def consume_bare(self, topic: str, handled: Handled) -> None:
        """Hand every event of the topic's group ``bare`` to ``handled``, and settle it."""

    @staticmethod
    def message(order: OrderPlaced, prefix: str) -> tuple[dict[str, str], bytes]:
        """Headers and body of what the bare program writes."""
        headers = {f"{prefix}{name}": value for name, value in bare_attributes(order).items()}
        return headers, order.model_dump_json().encode()


def _name() -> str:
    return f"bench-{uuid4().hex[:12]}"
