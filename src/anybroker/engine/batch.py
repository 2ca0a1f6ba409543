"""Batch handlers: deliveries are collected until there are enough or the time is up, then handled in one call."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import copy_context
from typing import TYPE_CHECKING, Any

from opentelemetry import context as otel_context
from opentelemetry import trace as otel

from ..delivery import Delivery
from ..errors import BatchFailed, ConfigError
from ..handlers.provide import ProvidedStack, Providers
from ..handlers.signature import Decoders, HandlerSpec, Wants, caller, leftover
from .spans import HANDLER, Spans, end, some_failed, start_failed

if TYPE_CHECKING:
    from .pump import Pump

__all__ = ["BatchCollector"]


class _Item:
    """One delivery in a batch."""

    __slots__ = ("batch", "delivery", "future", "task", "value")

    def __init__(self, delivery: Delivery, value: Any, future: asyncio.Future[None]) -> None:
        self.delivery = delivery
        self.value = value
        self.future = future
        self.batch: list[_Item] = []
        self.task: asyncio.Task[None] | None = None


class BatchCollector:
    """The innermost handler of a batch handler: each delivery waits here for the outcome of its batch.

    On an ordered subscription a batch holds at most one event of a key (the next one starts after this one), so that a
    failure retries exactly that event and what follows it. When nothing more can arrive, because everything received
    waits behind the batch, the batch starts at once. Each call runs in a separate context, that of the Bus's start
    without its trace: what a batch handler publishes has no single cause or trace, and gets random ids. Where an
    OpenTelemetry SDK is set up, each call is a trace of its own, whose span links every event.
    """

    def __init__(
        self,
        spec: HandlerSpec,
        size: int,
        within: float,
        providers: Providers,
        decoders: Decoders,
        pump: Callable[[], Pump],
        traced: tuple[Spans, str, str] | None = None,
    ) -> None:
        """``traced``: what makes spans, the topic, and the group."""
        self._traced = traced
        self._spec = spec
        self._size = size
        self._within = within
        self._providers = providers
        self._pump = pump
        self._context = copy_context()
        self._context.run(otel_context.attach, otel_context.Context())  # without the trace that started the Bus
        self._items: list[_Item] = []
        self._closing = False
        self._timer: asyncio.TimerHandle | None = None
        self._running: dict[asyncio.Task[None], Delivery] = {}
        lists = next(p for p in spec.parameters if p.wants in (Wants.PAYLOADS, Wants.EVENTS))
        if lists.wants is Wants.PAYLOADS:
            decode = decoders(lists.type)
            self._read: Callable[[Delivery], Any] = lambda delivery: decode(delivery.event)
        elif lists.type is None:
            self._read = lambda delivery: delivery.event
        else:
            typed = decoders(lists.type)
            self._read = lambda delivery: delivery.event._with_data(typed(delivery.event))
        if not spec.is_async:
            raise ConfigError(f"handler {spec.name}", "is a plain 'def' with batch=", "Make it 'async def'.")
        self._call = caller(spec)

    async def add(self, delivery: Delivery) -> None:
        """Wait for the outcome of the batch that this delivery joins."""
        value = self._read(delivery)
        loop = asyncio.get_running_loop()
        item = _Item(delivery, value, loop.create_future())
        self._items.append(item)
        if len(self._items) >= self._size or self._closing:
            self._flush()
        elif self._timer is None:
            self._timer = loop.call_later(self._within, self._flush)
            loop.call_soon(self._flush_if_alone)
        else:
            loop.call_soon(self._flush_if_alone)
        try:
            await item.future
        except asyncio.CancelledError:
            task = item.task
            if task is not None and not task.done() and all(other.future.done() for other in item.batch):
                task.cancel()  # nobody is waiting for it any more
                await asyncio.wait((task,))
            raise

    @property
    def waiting(self) -> list[Delivery]:
        """What is collected for a batch that has not begun."""
        return [item.delivery for item in self._items]

    def runs_in(self, task: asyncio.Task[Any] | None) -> bool:
        """Whether this task runs a batch."""
        return task in self._running

    def handled_in(self, task: asyncio.Task[Any] | None) -> Delivery | None:
        """The first delivery of the batch that this task handles."""
        return None if task is None else self._running.get(task)

    def close(self) -> None:
        """Handle what is collected, and what still arrives, without waiting for more."""
        self._closing = True
        self._flush()

    def _flush_if_alone(self) -> None:
        """Start the batch if nothing else can join, because everything received waits behind it."""
        if self._items and self._pump().only_blocked(len(self._items)):
            self._flush()

    def _flush(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        items = [item for item in self._items if not item.future.done()]
        self._items = []
        if items:
            task = asyncio.create_task(
                self._run(items), name=f"anybroker batch {self._spec.name}", context=self._context.copy()
            )
            for item in items:
                item.batch, item.task = items, task
            self._running[task] = items[0].delivery
            task.add_done_callback(self._running.pop)

    async def _run(self, items: list[_Item]) -> None:
        failures: dict[int, BaseException] = {}
        try:
            await (self._start(items) if self._traced is None else self._start_traced(items, *self._traced))
        except BatchFailed as exc:
            unknown = [index for index in exc.failures if not 0 <= index < len(items)]
            wrong = [failure for failure in exc.failures.values() if not _can_be_raised(failure)]
            if wrong:
                error = ConfigError("BatchFailed(failures)", f"holds {wrong[0]!r}, which cannot be raised")
                failures = dict.fromkeys(range(len(items)), error)
            elif unknown:
                error = ConfigError(
                    "BatchFailed(failures)", f"names {unknown[0]}, and the batch has {len(items)} items"
                )
                failures = dict.fromkeys(range(len(items)), error)
            else:
                failures = dict(exc.failures)
        except BaseException as exc:  # noqa: BLE001 - each delivery of the batch passes it on, cancellation included
            failures = dict.fromkeys(range(len(items)), exc)
        for index, item in enumerate(items):
            future = item.future
            if future.done():
                continue
            failure = failures.get(index)
            if failure is None:
                future.set_result(None)
            elif isinstance(failure, asyncio.CancelledError):
                future.cancel()
            else:
                future.set_exception(failure)

    async def _start_traced(self, items: list[_Item], spans: Spans, topic: str, group: str) -> None:
        constant = {**spans.attributes("process", topic, group), HANDLER: self._spec.name}
        span = spans.process_batch(f"process {topic}", constant, [item.delivery for item in items])
        token = otel_context.attach(otel.set_span_in_context(span))
        try:
            await self._start(items)
        except BatchFailed as exc:
            some_failed(span, _named(exc, items) or [(None, exc)], len(items))
            raise
        except BaseException as exc:
            start_failed(span, exc, self._pump().is_giving_up)
            raise
        finally:
            otel_context.detach(token)
            end(span)

    async def _start(self, items: list[_Item]) -> None:
        async with ProvidedStack() as stack:
            kwargs: dict[str, Any] = {}
            for parameter in self._spec.parameters:
                if parameter.wants is Wants.PROVIDED:
                    kwargs[parameter.name] = await self._providers.get(parameter.type, stack)
                else:
                    kwargs[parameter.name] = [item.value for item in items]
            if (result := await self._call(**kwargs)) is not None:
                await leftover(self._spec.where, result)


def _named(failed: BatchFailed, items: list[_Item]) -> list[tuple[object, BaseException]]:
    """The failures that name an event of the batch, with the event."""
    return [
        (items[index].delivery.event, failure)
        for index, failure in failed.failures.items()
        if 0 <= index < len(items) and isinstance(failure, BaseException)
    ]


def _can_be_raised(failure: object) -> bool:
    return isinstance(failure, Exception) and not isinstance(failure, StopIteration)
