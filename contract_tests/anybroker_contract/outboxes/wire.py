"""The broker that relays of a test publish to: in memory, with a record of what it has accepted, and with faults."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from anybroker import Event, MemoryBroker, Receipt
from anybroker.adapter import Adapter, AdapterContext, Outbound, Report, Sender
from anybroker.errors import BrokerError, PublishOutcomeUnknown
from anybroker.testing import AdapterWrapper, SenderWrapper

from .._waiting import Signal, quiet, wait_until

__all__ = ["Sent", "Wire", "inversions"]


@dataclass(frozen=True)
class Sent:
    """One event that the broker has accepted."""

    topic: str
    event: Event[Any]
    headers: Mapping[str, str]

    @property
    def place(self) -> tuple[str, int]:
        """Its key, and which of the key it is: of events made by the kit."""
        return str(self.event["key"]), int(self.event.data["n"])


class Wire:
    """``Bus(wire)``. One object for all Buses of a test."""

    def __init__(self, patience: float) -> None:
        self.broker = MemoryBroker()
        self.sent: list[Sent] = []
        """In the order of acceptance."""
        self.tried = 0
        """How many events were handed over, accepted or not."""
        self.refuse: Callable[[Outbound], BrokerError | None] = lambda _: None
        """The error of an event that is not stored."""
        self.lose_answer: Callable[[Outbound], bool] = lambda _: False
        """Whether an event is stored, and the publisher is told that this is unknown."""
        self.before: Callable[[Outbound], Awaitable[None]] | None = None
        """Awaited for each event before it is stored."""
        self.held: list[Callable[[], Any]] | None = None
        """While it is a list: events that were handed over and have no answer; each when called goes on."""
        self.changed = Signal()
        self._patience = patience

    def make_adapter(self, context: AdapterContext) -> Adapter:
        """What a Bus calls."""
        return _Adapter(self.broker.make_adapter(context), self)

    @property
    def ids(self) -> list[str]:
        """Of the events, in the order of acceptance."""
        return [sent.event.id for sent in self.sent]

    async def until(self, count: int) -> list[Sent]:
        """What was accepted, as soon as it is so much."""
        await self.when(lambda: len(self.sent) >= count, lambda: f"{len(self.sent)} of {count} events were relayed")
        return self.sent

    async def when(self, condition: Callable[[], object], what: Callable[[], str]) -> None:
        """Return as soon as it is true."""
        await wait_until(condition, self._patience, self.changed, what)

    async def quiet(self, seconds: float) -> list[Sent]:
        """What was accepted, once nothing happens for so long."""
        await quiet(self.changed, seconds)
        return self.sent

    async def pass_on(self, inner: Sender, batch: Sequence[Outbound], report: Report) -> None:
        """One ``submit``."""
        good: list[Outbound] = []
        for outbound in batch:
            self.tried += 1
            if self.before is not None:
                await self.before(outbound)
            error = self.refuse(outbound)
            if error is None:
                good.append(outbound)
            else:
                report(outbound, error)
        self.changed.fire()

        def answer(outbound: Outbound, result: Receipt | BrokerError) -> None:
            if isinstance(result, Receipt):
                assert isinstance(outbound.event, Event)
                self.sent.append(Sent(outbound.topic, outbound.event, dict(outbound.headers or {})))
                self.changed.fire()
                if self.lose_answer(outbound):
                    result = PublishOutcomeUnknown("the connection was lost before the answer")
            report(outbound, result)

        if self.held is not None:
            for outbound in good:
                self.held.append(partial(inner.submit, [outbound], answer))
        elif good:
            await inner.submit(good, answer)

    async def let_go(self) -> None:
        """What is held goes on, and nothing more is held."""
        held, self.held = self.held or [], None
        for submit in held:
            await submit()


class _Adapter(AdapterWrapper):
    def __init__(self, inner: Adapter, wire: Wire) -> None:
        super().__init__(inner)
        self._wire = wire

    def wrap_sender(self, sender: Sender) -> Sender:
        """With the record."""
        return _Sender(sender, self._wire)


class _Sender(SenderWrapper):
    def __init__(self, inner: Sender, wire: Wire) -> None:
        super().__init__(inner)
        self._wire = wire

    async def submit(self, batch: Sequence[Outbound], report: Report, /) -> None:
        """Through the wire."""
        await self._wire.pass_on(self.inner, batch, report)


def inversions(places: Sequence[tuple[str, int]]) -> list[tuple[str, int]]:
    """What came for the first time after a later one of its key, or before an earlier one that is missing."""
    seen: dict[str, set[int]] = {}
    wrong: list[tuple[str, int]] = []
    for key, number in places:
        before = seen.setdefault(key, set())
        if number not in before and number != len(before):
            wrong.append((key, number))
        before.add(number)
    return wrong
