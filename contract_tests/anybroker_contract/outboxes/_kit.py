"""What one test of an outbox works with: outboxes on one place, transactions, relays here and elsewhere, a broker."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, TypeVar

from anybroker import Bus, MemoryBroker, Receipt
from anybroker.outbox import OutboxRelay, OutboxUnavailable, Parked, Row, Waiting

from .._disturbances import Disturbed
from .._waiting import eventually
from ._elsewhere import Elsewhere
from .harness import Outbox, OutboxHarness, Writer
from .wire import Wire, inversions

__all__ = ["ALL", "LONG", "TOPIC", "OutboxKit"]

_T = TypeVar("_T")

TOPIC = "orders"
LONG = 60.0
"""Seconds, a lease that does not end during a test."""
ALL = range(16)
"""Shards."""


class OutboxKit:
    """Given to every test as the fixture ``kit``. What it opened is closed after the test, what it disturbed is put
    right."""

    def __init__(self, harness: OutboxHarness, folder: Path, *, size: str, patience: float, mutant: str | None) -> None:
        self.harness = harness
        self.folder = folder
        self.size = size
        """``short``, ``full`` or ``stress``."""
        self.patience = patience
        """Seconds within which what must happen has to happen."""
        self.mutant = mutant
        from .mutants import Flaw, flaw_of

        self._flaw: Flaw = flaw_of(mutant)
        self.wire = Wire(patience)
        self.place = harness.place(folder)
        self._stack = AsyncExitStack()
        self._stack.push_async_callback(asyncio.to_thread, harness.clean, self.place)
        self._disturbed = Disturbed(harness, self.place)
        self._next: dict[str, int] = {}
        harness.prepare(self.place)

    def pick(self, short: _T, full: _T) -> _T:
        """A number for the tier: the first in ``short``, else the second."""
        return short if self.size == "short" else full

    # ------------------------------------------------------------------------------------------------- outboxes

    def outbox(self, *, place: str | None = None, create: bool = False) -> Outbox:
        """A new object on this test's place, not opened."""
        return self._flaw.broken(self.harness.outbox(self.place if place is None else place, create=create))

    async def open(self) -> Outbox:
        """A new object, opened; closed after the test."""
        outbox = self.outbox()
        await outbox.open()
        self._stack.push_async_callback(outbox.close)
        return outbox

    async def writer(self, kind: str | None = None) -> Writer:
        """A transaction of the application's; closed after the test."""
        writer = await self.harness.writer(self.place, kind or self.harness.kinds()[0])
        self._stack.push_async_callback(writer.close)
        return writer

    async def reader(self, *, writes: bool) -> Writer:
        """A transaction that stays open; closed after the test."""
        reader = await self.harness.reader(self.place, writes=writes)
        self._stack.push_async_callback(reader.close)
        return reader

    async def insert(self, payload: str, *, key: str | None = None, headers: str | None = None) -> None:
        """A row by another program."""
        await asyncio.to_thread(self.harness.insert, self.place, TOPIC, key, payload, headers)

    async def fill(self, bus: Bus, count: int, keys: int = 1_000) -> None:
        """A backlog of so many rows and one, quickly."""
        writer = await self.writer()
        await bus.publish("backlog", {"n": 0}, type="backlog", key="k0", within=writer.within)
        await writer.commit()
        await asyncio.to_thread(self.harness.fill, self.place, count, keys)

    # ---------------------------------------------------------------------------------------------------- Buses

    async def app(self, **settings: Any) -> Bus:
        """A Bus of the application, started, that only writes: on a broker of its own. Closed after the test."""
        return await self._started(Bus(MemoryBroker(), **{"source": "shop", "sinks": [self.outbox()], **settings}))

    def relay(self, outbox: Outbox | None = None, **settings: Any) -> OutboxRelay:
        """A relay, not added to a Bus."""
        usual = {"poll": 0.2, "lease": 3.0}
        return self._flaw.relay(outbox or self.outbox(), **{**usual, **settings})

    async def relaying(self, relay: OutboxRelay | None = None, **settings: Any) -> Bus:
        """A Bus with a relay, started, that publishes to :attr:`wire`. Closed after the test."""
        bus = Bus(self.wire, source="relay", drain=2.0, **{"publish_deadline": 0.5, **settings})
        bus.add(self.relay() if relay is None else relay)
        return await self._started(bus)

    async def _started(self, bus: Bus) -> Bus:
        await bus.__aenter__()
        self._stack.push_async_callback(bus.close)
        return bus

    async def elsewhere(self, **settings: Any) -> Elsewhere:
        """A relay in another process, started; ended after the test. What it sends is in the file ``sent``."""
        cls = type(self.harness)
        options = {
            "harness": f"{cls.__module__}:{cls.__qualname__}",
            "started": self.harness.started,
            "place": self.place,
            "file": str(self.folder / "sent"),
            "mutant": self.mutant,
            "settings": {"poll": 0.2, "lease": 2.0, **settings},
        }
        other = Elsewhere(options)
        self._stack.push_async_callback(other.kill)
        await other.start()
        return other

    # --------------------------------------------------------------------------------------------------- events

    async def publish(self, bus: Bus, within: object, key: str = "k", count: int = 1, **options: Any) -> list[Receipt]:
        """So many events of the key, numbered from the last one on."""
        receipts = []
        for _ in range(count):
            number = self._next.get(key, 0)
            self._next[key] = number + 1
            receipts.append(
                await bus.publish(
                    TOPIC,
                    {"n": number},
                    type="order",
                    key=key,
                    id=f"{key}-{number}",
                    extensions={"key": key},
                    within=within,
                    **options,
                )
            )
        return receipts

    async def commit(self, bus: Bus, key: str = "k", count: int = 1, **options: Any) -> list[Receipt]:
        """The same in a transaction of their own, committed."""
        writer = await self.harness.writer(self.place, self.harness.kinds()[0])
        try:
            receipts = await self.publish(bus, writer.within, key, count, **options)
            await writer.commit()
        finally:
            await writer.close()
        await asyncio.sleep(0)  # a database in this thread lets nobody else run
        return receipts

    def in_order(self) -> None:
        """Of each key, what was accepted came in the order of writing, and nothing is missing in between."""
        wrong = inversions([sent.place for sent in self.wire.sent])
        assert not wrong, f"{len(wrong)} events out of order, the first: {wrong[0]}"

    async def effects(self) -> list[str]:
        """What is committed beside the events."""
        return list(await asyncio.to_thread(self.harness.effects, self.place))

    async def in_table(self, outbox: Outbox) -> Waiting:
        """What is there, asked until the database answers."""
        got: list[Waiting] = []

        async def answers() -> bool:
            try:
                got.append(await outbox.waiting())
            except (OutboxUnavailable, OSError):
                return False
            return True

        await eventually(answers, self.patience, "the table does not answer")
        return got[-1]

    async def emptied(self, outbox: Outbox) -> None:
        """Return when nothing waits any more."""

        async def empty() -> bool:
            return (await self.in_table(outbox)).rows == 0

        await eventually(empty, self.patience, "rows are left in the table")

    async def found(self, outbox: Outbox, shards: Sequence[int] = ALL, *, count: int) -> list[Row]:
        """Rows of the table, as soon as there are so many."""
        rows: dict[int, Row] = {}

        async def enough() -> bool:
            rows.update((row.position, row) for row in await outbox.rows(shards, 500))
            return len(rows) >= count

        await eventually(enough, self.patience, f"there are no {count} rows")
        return [rows[position] for position in sorted(rows)]

    async def aside(self, outbox: Outbox, count: int) -> list[Parked]:
        """What was set aside, as soon as it is so much."""
        got: list[Sequence[Parked]] = []

        async def enough() -> bool:
            got.append(await outbox.parked())
            return len(got[-1]) == count

        await eventually(enough, self.patience, f"there are no {count} rows that were set aside")
        return list(got[-1])

    # ----------------------------------------------------------------------------------------------- disturbances

    async def disturb(self, what: str) -> None:
        """Disturb the server or file. What was not put right is put right after the test."""
        await self._disturbed.do(what)

    async def close(self) -> None:
        """Put right what was disturbed, and end what the test left open."""
        await self._disturbed.undo()
        await self._stack.aclose()
