"""An outbox around a real one that a :class:`Flaw` breaks, and a relay between which and its Bus the flaw is. All
broken ones go through it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from anybroker import Event, PutsMany, Receipt
from anybroker.adapter import Outbound
from anybroker.outbox import OutboxRelay, Parked, Row, Taken, Waiting
from anybroker.outbox.relay import Forwards

from ..harness import Outbox

__all__ = ["BrokenOutbox", "BrokenRelay", "Flaw"]


class Flaw:
    """What is wrong with a broken outbox or relay. Every method is correct here; a subclass breaks one or two.

    There is one object for each test (and one in each process that a test starts), for all outboxes of the test."""

    def broken(self, outbox: Outbox) -> Outbox:
        """The outbox with the flaw."""
        return BrokenOutbox(outbox, self)

    def relay(self, outbox: Outbox, **settings: Any) -> OutboxRelay:
        """A relay with the flaw."""
        return BrokenRelay(outbox, self, **settings)

    # ------------------------------------------------------------------------------------------------- the sink

    def takes(self, outbox: Outbox, within: object) -> bool:
        """Sink.takes."""
        return outbox.takes(within)

    async def put(self, outbox: Outbox, outbound: Outbound, within: Any) -> Receipt:
        """Sink.put."""
        return await outbox.put(outbound, within)

    async def put_many(self, outbox: Outbox, batch: Sequence[Outbound], within: Any) -> Sequence[Receipt]:
        """PutsMany.put_many. A flaw of ``put`` is one of this too."""
        if type(self).put is not Flaw.put or not isinstance(outbox, PutsMany):
            return [await self.put(outbox, each, within) for each in batch]
        return await outbox.put_many(batch, within)

    # ------------------------------------------------------------------------------------------------ the table

    async def open(self, outbox: Outbox) -> None:
        """OutboxTable.open."""
        await outbox.open()

    async def take(self, outbox: Outbox, relay: str, lease: float) -> Taken:
        """OutboxTable.take."""
        return await outbox.take(relay, lease)

    async def give_up(self, outbox: Outbox, relay: str, shards: Collection[int] | None) -> None:
        """OutboxTable.give_up."""
        await outbox.give_up(relay, shards)

    async def rows(self, outbox: Outbox, shards: Collection[int], limit: int) -> Sequence[Row]:
        """OutboxTable.rows."""
        return await outbox.rows(shards, limit)

    def again(self, outbox: Outbox) -> None:
        """OutboxTable.again."""
        outbox.again()

    async def wait(self, outbox: Outbox, seconds: float) -> None:
        """OutboxTable.wait."""
        await outbox.wait(seconds)

    async def remove(self, outbox: Outbox, positions: Sequence[int]) -> None:
        """OutboxTable.remove."""
        await outbox.remove(positions)

    async def park(self, outbox: Outbox, rejected: Sequence[tuple[int, str]]) -> None:
        """OutboxTable.park."""
        await outbox.park(rejected)

    async def parked(self, outbox: Outbox, limit: int) -> Sequence[Parked]:
        """OutboxTable.parked."""
        return await outbox.parked(limit)

    async def parked_keys(self, outbox: Outbox) -> Collection[tuple[str, str]]:
        """OutboxTable.parked_keys."""
        return await outbox.parked_keys()

    async def retry(self, outbox: Outbox, positions: Sequence[int] | None) -> int:
        """OutboxTable.retry."""
        return await outbox.retry(positions)

    async def discard(self, outbox: Outbox, positions: Sequence[int] | None) -> int:
        """OutboxTable.discard."""
        return await outbox.discard(positions)

    async def waiting(self, outbox: Outbox) -> Waiting:
        """OutboxTable.waiting."""
        return await outbox.waiting()

    async def close(self, outbox: Outbox) -> None:
        """OutboxTable.close."""
        await outbox.close()

    # ------------------------------------------------------------------------------------------------ the relay

    async def forward(self, bus: Forwards, topic: str, event: Event[Any], headers: Mapping[str, str] | None) -> Receipt:
        """Bus.forward, as the relay calls it."""
        return await bus.forward(topic, event, headers=headers)

    async def stop(self, relay: OutboxRelay, drain: float) -> None:
        """OutboxRelay.stop."""
        await OutboxRelay.stop(relay, drain)


class BrokenOutbox:
    """Asks the flaw about everything."""

    def __init__(self, inner: Outbox, flaw: Flaw) -> None:
        self.inner = inner
        self.flaw = flaw

    @property
    def target(self) -> str:
        """OutboxTable.target."""
        return self.inner.target

    def takes(self, within: object, /) -> bool:
        """Sink.takes."""
        return self.flaw.takes(self.inner, within)

    async def put(self, outbound: Outbound, within: Any, /) -> Receipt:
        """Sink.put."""
        return await self.flaw.put(self.inner, outbound, within)

    async def put_many(self, batch: Sequence[Outbound], within: Any, /) -> Sequence[Receipt]:
        """PutsMany.put_many."""
        return await self.flaw.put_many(self.inner, batch, within)

    async def open(self) -> None:
        """OutboxTable.open."""
        await self.flaw.open(self.inner)

    async def take(self, relay: str, lease: float, /) -> Taken:
        """OutboxTable.take."""
        return await self.flaw.take(self.inner, relay, lease)

    async def give_up(self, relay: str, shards: Collection[int] | None, /) -> None:
        """OutboxTable.give_up."""
        await self.flaw.give_up(self.inner, relay, shards)

    async def rows(self, shards: Collection[int], limit: int, /) -> Sequence[Row]:
        """OutboxTable.rows."""
        return await self.flaw.rows(self.inner, shards, limit)

    def again(self) -> None:
        """OutboxTable.again."""
        self.flaw.again(self.inner)

    async def wait(self, seconds: float, /) -> None:
        """OutboxTable.wait."""
        await self.flaw.wait(self.inner, seconds)

    async def remove(self, positions: Sequence[int], /) -> None:
        """OutboxTable.remove."""
        await self.flaw.remove(self.inner, positions)

    async def park(self, rejected: Sequence[tuple[int, str]], /) -> None:
        """OutboxTable.park."""
        await self.flaw.park(self.inner, rejected)

    async def parked(self, limit: int = 100, /) -> Sequence[Parked]:
        """OutboxTable.parked."""
        return await self.flaw.parked(self.inner, limit)

    async def parked_keys(self) -> Collection[tuple[str, str]]:
        """OutboxTable.parked_keys."""
        return await self.flaw.parked_keys(self.inner)

    async def retry(self, positions: Sequence[int] | None = None, /) -> int:
        """OutboxTable.retry."""
        return await self.flaw.retry(self.inner, positions)

    async def discard(self, positions: Sequence[int] | None = None, /) -> int:
        """OutboxTable.discard."""
        return await self.flaw.discard(self.inner, positions)

    async def waiting(self) -> Waiting:
        """OutboxTable.waiting."""
        return await self.flaw.waiting(self.inner)

    async def close(self) -> None:
        """OutboxTable.close."""
        await self.flaw.close(self.inner)


class BrokenRelay(OutboxRelay):
    """A relay whose Bus, as it sees it, is broken by the flaw."""

    def __init__(self, table: Outbox, flaw: Flaw, **settings: Any) -> None:
        super().__init__(table, **settings)
        self.flaw = flaw

    def attach(self, bus: Forwards, /) -> None:
        """As ``bus.add`` calls it."""
        super().attach(_BrokenBus(bus, self.flaw))

    async def stop(self, drain: float, /) -> None:
        """Part.stop."""
        await self.flaw.stop(self, drain)


class _BrokenBus:
    def __init__(self, bus: Forwards, flaw: Flaw) -> None:
        self.bus = bus
        self.flaw = flaw

    @property
    def source(self) -> str:
        return self.bus.source

    async def forward(self, topic: str, event: Event[Any], /, *, headers: Mapping[str, str] | None = None) -> Receipt:
        return await self.flaw.forward(self.bus, topic, event, headers)
