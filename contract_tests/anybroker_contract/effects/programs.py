"""The programs of a run, on the public API: ``python -m anybroker_contract.effects.programs '{"role": …}'``.

The ``shop`` sells: a row of its own and an event are one transaction. A ``relay`` relays. A ``worker`` bills: an
effect, its mark and the next event are one transaction. The ``last`` service takes what was billed once, and beside it
writes to the history everything that arrives. They end at SIGTERM, and at once when the process that started them is
gone; a line on standard input arms a point of :mod:`.points`, or tells the shop to stop.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import random
import signal
import sys
import threading
from collections.abc import Awaitable, Mapping, Sequence
from pathlib import Path
from typing import Any

import psycopg

from anybroker import Bus, Delivery, Event
from anybroker.adapter import Receipt
from anybroker.idempotency import Claim
from anybroker.middleware import idempotent, retry
from anybroker.outbox import OutboxRelay
from anybroker.outbox.relay import Forwards
from anybroker_postgres import PostgresOutbox, PostgresStore, PostgresTransaction

from ..faults.history import Writer
from . import mutants
from .points import Points, send_commit
from .tables import CHARGES, ORDERS

__all__ = ["FAILS_EVERY", "GROUPS", "main"]

BILLING, LEDGER, WIRE = "billing", "ledger", "wire"
GROUPS: Mapping[str, Sequence[str]] = {ORDERS: (BILLING, WIRE), CHARGES: (LEDGER, WIRE)}
"""By topic."""
SOLD, CHARGED = "com.example.effects.sold.v1", "com.example.effects.charged.v1"
KEYS, TASKS = 32, 8
"""Each task of the shop has its own keys: the transactions of one key come one after another, as behind a lock."""
UNDONE_EVERY = 10
"""Every so many transactions of the shop are rolled back once before they are committed."""
FAILS_EVERY = 50
"""Handlers fail on every so many events, once in each process, after they have published."""
LATE_KEYS = 4
PAUSE = 0.2


class Failing(Exception):
    """The handler was asked to fail."""


class Program:
    """What all of them have."""

    def __init__(self, options: dict[str, Any], history: Writer, points: Points) -> None:
        self.options = options
        self.history = history
        self.points = points
        self.mutant: str | None = options["mutant"]
        self.broker: str = options["broker"]
        self.database: str = options["database"]

    async def run(self) -> None:
        """Until its work is done, or SIGTERM."""
        raise NotImplementedError

    async def ready(self) -> None:
        """Say that it has started; until it is cancelled."""
        self.history.write("ready")
        await asyncio.Event().wait()

    def store(self) -> PostgresStore:
        """The inbox, with its points."""
        return Inbox(self.database, self.points)


class Inbox(PostgresStore):
    """Dies between the commit and the acknowledgement, where asked to."""

    def __init__(self, conninfo: str, points: Points) -> None:
        super().__init__(conninfo)
        self._points = points

    async def done(self, claim: Claim, /) -> bool:
        """Store.done."""
        ours = await super().done(claim)
        self._points.pass_("after-commit")
        return ours


# ------------------------------------------------------------------------------------------------------------- shop


class Shop(Program):
    """Sells ``o-0``, ``o-1``, … and, in transactions that stay open for long, ``late-0`` …, each once."""

    async def run(self) -> None:
        """Until all are committed."""
        outbox = PostgresOutbox(self.database)
        bus = Bus(self.broker, source="shop", consume=False, sinks=[outbox], connect_timeout=60.0)
        async with bus:
            self.bus = bus
            self.history.write("ready")
            await asyncio.gather(*(self._sell(task) for task in range(TASKS)), self._sell_late())
        self.history.write("closed")

    async def _sell(self, task: int) -> None:
        """Every ``TASKS``-th event, two in a transaction, from the first that is not sold on."""
        rate: float = self.options["rate"] / TASKS
        events: int = self.options["events"]
        loop = asyncio.get_running_loop()
        sold = await self._sold("o-", task)
        mine = [number for number in range(task, events, TASKS) if number > sold]
        pairs = [mine[at : at + 2] for at in range(0, len(mine), 2)]
        due = loop.time()
        for at, pair in enumerate(pairs):
            if self.points.stopped:
                return
            due = max(due, loop.time() - 1.0) + len(pair) / rate if rate else 0.0
            await asyncio.sleep(max(0.0, due - loop.time()) if rate else 0.0)
            rows = [(f"o-{number}", f"k{number % KEYS}", number) for number in pair]
            await self._commit(rows, undo=at % UNDONE_EVERY == UNDONE_EVERY - 1)

    async def _sell_late(self) -> None:
        """Transactions that commit long after others that began later."""
        if not self.options["late"]:
            return
        chance = random.Random(self.options["seed"])
        for number in range(await self._sold("late-", None) + 1, self.options["late"]):
            if self.points.stopped:
                return
            await self._commit([(f"late-{number}", f"late{number % LATE_KEYS}", number)], hold=chance.uniform(0.5, 2.5))

    async def _sold(self, prefix: str, task: int | None) -> int:
        """The highest number that is committed; they are committed in order."""
        statement = (
            "SELECT coalesce(max(n), -1) FROM sale WHERE starts_with(id, %s) AND (%s::int IS NULL OR n %% %s = %s::int)"
        )
        while True:
            try:
                async with await psycopg.AsyncConnection.connect(self.database) as connection:
                    row = await (await connection.execute(statement.encode(), (prefix, task, TASKS, task))).fetchone()
            except psycopg.Error:  # the database is away
                await asyncio.sleep(PAUSE)
            else:
                assert row is not None
                return int(row[0])

    async def _commit(self, rows: Sequence[tuple[str, str, int]], *, undo: bool = False, hold: float = 0.0) -> None:
        """Until they are committed, whatever happens to the database."""
        while True:
            try:
                async with await psycopg.AsyncConnection.connect(self.database, autocommit=True) as connection:
                    if undo:
                        await connection.execute("BEGIN")
                        await self._write(connection, [(f"undone-{id_}", key, n) for id_, key, n in rows])
                        await connection.execute("ROLLBACK")
                        undo = False
                    await connection.execute("BEGIN")
                    await self._write(connection, rows)
                    await asyncio.sleep(hold)
                    self.points.pass_("after-publish")
                    if self.points.reached("in-commit"):
                        send_commit(connection)
                        self.points.die("in-commit")
                    await connection.execute("COMMIT")
                    return
            except psycopg.Error:  # whether it was committed shows when it is written again
                await asyncio.sleep(PAUSE)

    async def _write(self, connection: psycopg.AsyncConnection[Any], rows: Sequence[tuple[str, str, int]]) -> None:
        for id_, key, number in rows:
            sale = await connection.execute(
                "INSERT INTO sale VALUES (%s, %s, %s) ON CONFLICT DO NOTHING", (id_, key, number)
            )
            if sale.rowcount:
                event = Event.create({"n": number}, source="shop", type=SOLD, id=id_, key=key)
                within = None if self.mutant == "publishes-outside" else connection
                await self.bus.publish(ORDERS, event, within=within)


# ------------------------------------------------------------------------------------------------------------ relay


class Relay(Program):
    """Relays, with its points, and records what the broker has accepted."""

    async def run(self) -> None:
        """Until SIGTERM."""
        Lapses.attach_to(self.history)
        table = mutants.table_of(self.mutant)(self.database)
        points, remove = self.points, table.remove

        async def removing(positions: Sequence[int], /) -> None:
            points.pass_("before-delete")
            await remove(positions)
            points.pass_("after-delete")

        table.remove = removing  # type: ignore[method-assign] # of this one
        bus = Bus(self.broker, source="relay", consume=False, connect_timeout=60.0)
        bus.add(Recorded(table, self.options["lease"], self.history, points))
        await bus.run_async(self.ready)


class Recorded(OutboxRelay):
    """Its Bus records what it has sent."""

    def __init__(self, table: PostgresOutbox, lease: float, history: Writer, points: Points) -> None:
        super().__init__(table, lease=lease, poll=0.5)
        self._history = history
        self._points = points

    def attach(self, bus: Forwards, /) -> None:
        """OutboxRelay.attach."""
        super().attach(Recording(bus, self._history, self._points))


class Recording:
    """A Bus for a relay."""

    def __init__(self, bus: Forwards, history: Writer, points: Points) -> None:
        self._bus = bus
        self._history = history
        self._points = points

    @property
    def source(self) -> str:
        """Forwards.source."""
        return self._bus.source

    def forward(
        self, topic: str, event: Event[Any], /, *, headers: Mapping[str, str] | None = None
    ) -> Awaitable[Receipt]:
        """Forwards.forward."""
        return self._forward(topic, event, headers)

    async def _forward(self, topic: str, event: Event[Any], headers: Mapping[str, str] | None) -> Receipt:
        self._points.pass_("before-send")
        receipt = await self._bus.forward(topic, event, headers=headers)
        self._history.write("sent", topic=topic, id=event.id)
        self._points.pass_("after-send")
        return receipt


class Lapses(logging.Handler):
    """A relay that loses its lease says so in its log: others may send what it has sent."""

    @classmethod
    def attach_to(cls, history: Writer) -> None:
        """Write them to the history as faults."""
        handler = cls()
        handler.history = history
        logging.getLogger("anybroker.outbox").addHandler(handler)

    history: Writer

    def emit(self, record: logging.LogRecord) -> None:
        """Handler.emit."""
        if "the lease of" in record.msg:
            number = f"{os.getpid()}-{record.created}"
            self.history.write("fault", name="lease lapsed", number=number, target=os.getpid())
            self.history.write("over", name="lease lapsed", number=number)


# -------------------------------------------------------------------------------------------------------- consumers


class Worker(Program):
    """Bills each order once."""

    async def run(self) -> None:
        """Until SIGTERM."""
        self.points.watch_commits()
        sinks = [] if self.mutant == "publishes-at-once" else [PostgresOutbox(self.database)]
        bus = Bus(
            self.broker, source=BILLING, sinks=sinks, lease=self.options["handling"], drain=5.0, connect_timeout=60.0
        )
        points, failed = self.points, set[str]()

        @bus.subscribe(ORDERS, group=BILLING, middleware=[retry(attempts=1000, first=0.05, cap=1.0)])
        @idempotent(self.store())
        async def bill(delivery: Delivery, transaction: PostgresTransaction) -> None:
            points.pass_("before-effect")
            event: Event[Any] = delivery.event
            number = event.data["n"]
            if self.mutant == "marks-first":
                await mutants.mark_first(transaction)
            await effect(transaction, BILLING, event)
            points.pass_("after-effect")
            if number % FAILS_EVERY == FAILS_EVERY - 1 and event.id not in failed:
                failed.add(event.id)
                undone = {"n": number, "of": "nothing"}
                await bus.publish(CHARGES, undone, type=CHARGED, key=event.key, id=f"undone-{event.id}")
                raise Failing
            await bus.publish(CHARGES, {"n": number, "of": event.id}, type=CHARGED, key=event.key)
            points.pass_("after-publish")

        await bus.run_async(self.ready)


class Last(Program):
    """Takes each charge once, and records what arrives on both topics."""

    async def run(self) -> None:
        """Until SIGTERM."""
        self.points.watch_commits()
        bus = Bus(self.broker, source=LEDGER, lease=self.options["handling"], drain=5.0, connect_timeout=60.0)
        points = self.points

        @bus.subscribe(CHARGES, group=LEDGER, middleware=[retry(attempts=1000, first=0.05, cap=1.0)])
        @idempotent(self.store())
        async def book(delivery: Delivery, transaction: PostgresTransaction) -> None:
            await effect(transaction, LEDGER, delivery.event)
            points.pass_("after-effect")

        @bus.subscribe(ORDERS, group=WIRE)
        async def see_order(delivery: Delivery) -> None:
            self._arrived(ORDERS, delivery)

        @bus.subscribe(CHARGES, group=WIRE)
        async def see_charge(delivery: Delivery) -> None:
            self._arrived(CHARGES, delivery)

        await bus.run_async(self.ready)

    def _arrived(self, topic: str, delivery: Delivery) -> None:
        event: Any = delivery.event
        self.history.write("arrive", topic=topic, id=event.id, key=event.key, n=event.data["n"])


async def effect(transaction: PostgresTransaction, consumer: str, event: Any) -> None:
    """The handler's own write."""
    await transaction.execute(
        "INSERT INTO effect (consumer, source, id, key, n) VALUES (%s, %s, %s, %s, %s)",
        (consumer, event.source, event.id, event.key, event.data["n"]),
    )


# ---------------------------------------------------------------------------------------------------------- program

ROLES: Mapping[str, type[Program]] = {"shop": Shop, "relay": Relay, "worker": Worker, "last": Last}


def listen(points: Points) -> None:
    """Arm points by lines of standard input, and end with it: the one that started this process is gone."""

    def watch() -> None:
        with contextlib.suppress(OSError):
            for line in sys.stdin:
                points.told(line.strip())
        os._exit(4)

    threading.Thread(target=watch, daemon=True, name="effects: listen").start()


def main() -> None:
    """Entry point."""
    options: dict[str, Any] = json.loads(sys.argv[1])
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    history = Writer(Path(options["history"]))
    points = Points(options["role"], history)
    listen(points)
    mutants.put_in(options["mutant"])

    async def run() -> None:
        if options["role"] == "shop":
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, os._exit, 0)
        await ROLES[options["role"]](options, history, points).run()

    asyncio.run(run())


if __name__ == "__main__":
    main()
