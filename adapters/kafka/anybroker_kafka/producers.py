"""The producer in use, its replacement after a refusal, and how each is ended."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, for_code
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.protocol.produce import ProduceRequest

from anybroker.errors import Unavailable

from .answers import tell_answers
from .closing import Closing, ignore_outcome
from .failures import CLIENT_ERRORS, failure, unavailable

__all__ = ["Producers", "keep_refusals"]

_T = TypeVar("_T")
_GZIP = 1
"""In a record batch's attributes: the one compression that needs no library."""
_LAST_WORDS = 0.5
"""Seconds that a request under way has for its answer when the sender is closed and Kafka does not answer."""


class Producers:
    """One aiokafka producer at a time. Whatever Kafka refuses leaves a hole in an idempotent producer's sequence, so
    another one takes its place, while the old one finishes what other partitions have under way."""

    def __init__(
        self, make: Callable[[], AIOKafkaProducer], closing: Closing, *, deadline: float, connect_timeout: float
    ) -> None:
        """``deadline``: seconds for which a producer tries to store a batch; ``connect_timeout``: to start one."""
        self._make = make
        self._closing = closing
        self.deadline = deadline
        self._connect_timeout = connect_timeout
        self._lock = asyncio.Lock()
        self._current: AIOKafkaProducer | None = None
        self._batches: Any = None
        self._retiring: dict[AIOKafkaProducer, asyncio.Task[None]] = {}
        self._replaced: dict[AIOKafkaProducer, asyncio.Future[None]] = {}
        """Of each producer that is used: done when another takes its place."""
        self.refusals: dict[tuple[str, int], type[KafkaError]] = {}
        """By topic and partition: what Kafka has answered to a batch that the client tries again."""

    def create_batch(self, compressed: bool = False) -> Any:
        """An empty batch; one producer's is as good as another's. ``compressed``: whatever the setting says."""
        batch = self._batches.create_batch()
        if compressed and not self._batches._message_accumulator._compression_type:  # no public way for one batch
            batch = BatchBuilder(1, _GZIP)
        return batch

    async def current(self) -> AIOKafkaProducer:
        """The producer, connected anew if the last one failed. Raises ``Unavailable``."""
        if self._current is not None:
            return self._current
        async with self._lock:
            if self._current is not None:
                return self._current
            producer = self._make()
            try:
                async with asyncio.timeout(self._connect_timeout):
                    await producer.start()
            except BaseException as exc:
                self._closing.leave(producer.stop())
                if not isinstance(exc, CLIENT_ERRORS):
                    raise
                raise unavailable(failure(exc, "connecting the producer")) from exc
            # aiokafka would give up a batch whose partition has no leader after the request time-out, with its outcome
            # unknown, though a broker needs longer to come back. No public setting separates the two.
            producer._message_accumulator._batch_ttl = self.deadline
            keep_refusals(producer.client, self.refusals)
            self._current = self._batches = producer
            self._replaced[producer] = asyncio.get_running_loop().create_future()
            return producer

    async def while_used(self, producer: AIOKafkaProducer, call: Coroutine[Any, Any, _T]) -> _T:
        """The result of a producer's call that asks for metadata: once the producer is closed, it would never come.
        Raises ``Unavailable`` when another has taken its place; nothing was sent then."""
        replaced = self._replaced.get(producer)
        if replaced is None:
            call.close()
            raise Unavailable("the producer was replaced")
        asking = asyncio.ensure_future(call)
        either: set[asyncio.Future[Any]] = {asking, replaced}
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not asking.done():
                asking.cancel()
        if asking.cancelled() or not asking.done():
            raise Unavailable("the producer was replaced while it looked for the topic")
        return asking.result()

    def replace(self, producer: AIOKafkaProducer) -> None:
        """Send nothing more with this one; it finishes the batches of other partitions that it has under way."""
        if (replaced := self._replaced.pop(producer, None)) is not None:
            replaced.set_result(None)
        if self._current is producer:
            self._current = None
            self._retiring[producer] = self._closing.leave(self._retire(producer))

    async def _retire(self, producer: AIOKafkaProducer) -> None:
        await producer.flush()
        del self._retiring[producer]
        await self._cut(producer)

    def close(self) -> list[asyncio.Task[None]]:
        """Cut all of them off; the tasks that do so."""
        for task in self._retiring.values():
            task.cancel()
        left = [*self._retiring, *([] if self._current is None else [self._current])]
        self._current = None
        return [self._closing.leave(self._cut(producer)) for producer in left]

    async def _cut(self, producer: AIOKafkaProducer) -> None:
        """End a producer that may have something under way which Kafka does not take.

        There is no public way: ``stop()`` waits for it, and an idempotent producer tries forever. Should these two
        names change, the tasks of a producer whose broker is away would outlive the Bus.
        """
        producer._closed = True
        routine = asyncio.create_task(producer._sender.close())
        await asyncio.wait({routine}, timeout=_LAST_WORDS)
        routine.cancel()
        await asyncio.wait({routine})
        ignore_outcome(routine)
        async with asyncio.timeout(_LAST_WORDS):
            await producer.client.close()


def keep_refusals(client: Any, refusals: dict[tuple[str, int], type[KafkaError]]) -> None:
    """From now on keep the last refusal of each partition, until Kafka takes a batch of it. ``client`` is a producer's.

    aiokafka tries a refused batch again and only logs the reason, which callers need.
    """

    def told(reply: Any) -> None:
        for topic, partitions in reply.topics:
            for partition, code, *_ in partitions:
                if code:
                    refusals[topic, partition] = for_code(code)
                elif refusals:
                    refusals.pop((topic, partition), None)

    if hasattr(client, "send"):
        tell_answers(client, ProduceRequest, told)
