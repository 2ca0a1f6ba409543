"""The way through the publish middleware, one event of a key at a time up to the broker's sender."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any

from ..adapter import Receipt
from ..cloudevents.event import Event
from ..engine.core import Core
from ..engine.outgoing import Turn, Turns
from ..engine.publisher import Publishing
from ..errors import BrokerError
from ..names import check_headers
from .outgoing import Outgoing, PublishHandler, PublishMiddleware
from .trace import inject

__all__ = ["WayOut"]


class WayOut:
    """Composed when the Bus starts, where it has publish middleware, or an OpenTelemetry SDK is set up."""

    def __init__(self, core: Core, middleware: Sequence[PublishMiddleware], traced: bool) -> None:
        """``middleware``: outermost first."""
        self._core = core
        self._traced = traced
        self.turns = Turns()
        through: PublishHandler = self._send
        for item in reversed(middleware):
            through = item(through)
        self._through = through

    async def publish(
        self, topic: str, event: Event[Any], headers: dict[str, str], not_before: float | None, deadline: float | None
    ) -> Receipt:
        """One event; its place among those of its key is taken before anything is awaited."""
        return await self._go(*self._enter(topic, event, headers, not_before, deadline))

    async def publish_many(
        self, topic: str, ready: Iterable[tuple[Event[Any], dict[str, str]]], deadline: float | None
    ) -> list[Receipt | BrokerError | BaseException]:
        """Events with their headers; one result for each, in order."""
        tasks: list[asyncio.Task[Receipt]] = []
        for event, headers in ready:
            outgoing, turn = self._enter(topic, event, headers, None, deadline)
            task = asyncio.create_task(self._go(outgoing, turn))
            if turn is not None:
                task.add_done_callback(turn.leave)  # cancelled before its first step, it leaves too
            tasks.append(task)
        return list(await asyncio.gather(*tasks, return_exceptions=True))

    def _enter(
        self, topic: str, event: Event[Any], headers: dict[str, str], not_before: float | None, deadline: float | None
    ) -> tuple[Outgoing, Turn | None]:
        outgoing = Outgoing(topic, event, headers)
        outgoing.not_before, outgoing.deadline = not_before, deadline
        return outgoing, None if event.key is None else self.turns.take(topic, event.key)

    async def _go(self, outgoing: Outgoing, turn: Turn | None) -> Receipt:
        if turn is None:
            return await self._through(outgoing)
        try:
            await turn.come()
            outgoing.release = turn.leave
            return await self._through(outgoing)
        finally:
            turn.leave()

    async def _send(self, outgoing: Outgoing) -> Receipt:
        """The innermost handler."""
        publisher = self._core.publisher
        if publisher is None:
            raise self._core.not_started("publish")
        if self._traced:
            inject(outgoing.headers)
        headers = check_headers(outgoing.headers) if outgoing.headers else None
        publishing = Publishing(outgoing.event, outgoing.topic, None, headers, outgoing.not_before, "")
        future = publisher.send(publishing, outgoing.deadline)
        outgoing.release()
        return await future
