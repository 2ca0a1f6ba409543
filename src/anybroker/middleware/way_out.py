"""The way through the publish middleware, one event of a key at a time up to the broker's sender; and its spans.

A span begins before the outermost middleware, so that it lasts as long as the caller waits, what a middleware does is
inside of it, and what a middleware raises is recorded. Its context is written into the headers at the innermost place,
where no middleware can change it any more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any

from ..adapter import Receipt
from ..cloudevents.event import Event
from ..engine.core import Core
from ..engine.outgoing import Turn, Turns
from ..engine.publisher import Publishing, results_of
from ..engine.spans import Publication, Spans, end, failed, some_failed
from ..errors import BrokerError
from ..names import check_headers
from .outgoing import Outgoing, PublishHandler, PublishMiddleware

__all__ = ["WayOut"]


class WayOut:
    """Composed when the Bus starts, where it has publish middleware, or an OpenTelemetry SDK is set up."""

    def __init__(self, core: Core, middleware: Sequence[PublishMiddleware]) -> None:
        """``middleware``: outermost first."""
        self._core = core
        self._spans = core.spans
        self.turns = Turns()
        self._takes_turns = bool(middleware)  # else an event is handed to the sender in the first step
        through: PublishHandler = self._send
        for item in reversed(middleware):
            through = item(through)
        self._through = through

    async def publish(self, outgoing: Outgoing) -> Receipt:
        """One event; its place among those of its key is taken before anything is awaited."""
        if self._spans is None:
            return await self._go(outgoing, self._enter(outgoing))
        operation = "send" if outgoing.within is None else "create"
        outgoing.publication = self._spans.publish(operation, outgoing.topic, outgoing.event, outgoing.headers)
        with outgoing.publication.current():
            return await self._go(outgoing, self._enter(outgoing))

    async def publish_many(
        self, topic: str, ready: Iterable[tuple[Event[Any], dict[str, str]]], deadline: float | None, within: object
    ) -> list[Receipt | BrokerError]:
        """Events with their headers; one result for each, in order. ``within``: the first failure is raised, and with
        middleware they go one after the other."""
        outgoing = [Outgoing(topic, *each, None, deadline, within) for each in ready]
        if within is not None:
            if self._takes_turns or self._spans is None:
                return [await self.publish(each) for each in outgoing]
            return [*await self._put_batch(topic, outgoing, self._spans, within)]
        if self._spans is None:
            return await self._go_all(outgoing)
        return await self._send_batch(topic, outgoing, self._spans, deadline)

    async def _put_batch(self, topic: str, outgoing: list[Outgoing], spans: Spans, within: object) -> list[Receipt]:
        """A ``create`` span for each, which lasts until all are written."""
        batch: list[Publishing] = []
        for each in outgoing:
            each.publication = spans.publish("create", topic, each.event, each.headers)
            batch.append(Publishing(each.event, topic, None, self._headers(each), None, ""))
        created = [each.publication for each in outgoing if each.publication is not None]
        try:
            return await self._core.put_many(topic, batch, within)
        except BaseException as exc:
            for publication in created:
                failed(publication.span, exc)
            raise
        finally:
            for publication in created:
                publication.end()

    async def _send_batch(
        self, topic: str, outgoing: list[Outgoing], spans: Spans, deadline: float | None
    ) -> list[Receipt | BrokerError]:
        """A ``create`` span for each, which is over once it is handed to the sender, and one ``send`` span."""
        created: list[Publication] = []
        for each in outgoing:
            each.publication = spans.publish("create", topic, each.event, each.headers)
            each.publication.is_of_batch = True
            created.append(each.publication)
        span = spans.send_batch(topic, created)
        try:
            if self._takes_turns:
                results = await self._go_all(outgoing)
            else:
                results = await self._hand_over(topic, outgoing, deadline)
            pairs = zip(created, results, strict=True)
            failures = [(each.event, result) for each, result in pairs if not isinstance(result, Receipt)]
            some_failed(span, failures, len(created))
        except BaseException as exc:
            failed(span, exc)
            raise
        finally:
            end(span)
            for publication in created:  # those of publishes that were cancelled before their first step
                publication.end()
        return results

    async def _hand_over(
        self, topic: str, all_outgoing: list[Outgoing], deadline: float | None
    ) -> list[Receipt | BrokerError]:
        """To the sender at once: no middleware waits, and nothing that is published later may overtake them."""
        ready = [(outgoing.event, self._headers(outgoing) or {}) for outgoing in all_outgoing]
        for outgoing in all_outgoing:
            if outgoing.publication is not None:
                outgoing.publication.end()
        publisher = self._core.publisher
        if publisher is None:
            raise self._core.not_started("publish_many")
        return await publisher.send_many(topic, ready, deadline)

    async def _go_all(self, all_outgoing: list[Outgoing]) -> list[Receipt | BrokerError]:
        tasks: list[asyncio.Task[Receipt]] = []
        for outgoing in all_outgoing:
            turn = self._enter(outgoing)
            task = asyncio.create_task(self._go_created(outgoing, turn))
            if turn is not None:
                task.add_done_callback(turn.leave)  # cancelled before its first step, it leaves too
            tasks.append(task)
        return results_of(await asyncio.gather(*tasks, return_exceptions=True))

    async def _go_created(self, outgoing: Outgoing, turn: Turn | None) -> Receipt:
        if outgoing.publication is None:
            return await self._go(outgoing, turn)
        with outgoing.publication.current():
            return await self._go(outgoing, turn)

    def _enter(self, outgoing: Outgoing) -> Turn | None:
        if not self._takes_turns:
            return None
        if outgoing.within is not None:  # one that waits for the database must not keep others of its key
            return self.turns.take("within", str(id(outgoing.within)))
        return None if outgoing.event.key is None else self.turns.take(outgoing.topic, outgoing.event.key)

    async def _go(self, outgoing: Outgoing, turn: Turn | None) -> Receipt:
        if turn is None:
            return await self._through(outgoing)
        try:
            await turn.wait()
            outgoing.release = turn.leave
            return await self._through(outgoing)
        finally:
            turn.leave()

    async def _send(self, outgoing: Outgoing) -> Receipt:
        """The innermost handler."""
        headers = self._headers(outgoing)
        publishing = Publishing(outgoing.event, outgoing.topic, None, headers, outgoing.not_before, "")
        if outgoing.within is not None:
            return await self._core.put(publishing, outgoing.within)
        publisher = self._core.publisher
        if publisher is None:
            raise self._core.not_started("publish")
        future = publisher.send(publishing, outgoing.deadline)
        outgoing.release()
        if outgoing.publication is not None and outgoing.publication.is_of_batch:
            outgoing.publication.end()
        return await future

    @staticmethod
    def _headers(outgoing: Outgoing) -> dict[str, str] | None:
        """Those to send, with the context of the span."""
        if outgoing.publication is not None:
            outgoing.publication.inject(outgoing.event, outgoing.headers)
        return check_headers(outgoing.headers) if outgoing.headers else None
