"""One run: PostgreSQL, a broker, the programs, what is done to them, and the history."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import secrets
import signal
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from anybroker import Bus
from anybroker.outbox import OutboxRelay
from anybroker_postgres import PostgresOutbox

from ..brokers import Broker
from ..faults.history import Writer
from ..faults.processes import Process
from ..faults.tracker import Stalled, Tracker
from ..harness import BrokerHarness
from . import tables
from .plan import Fault, deck
from .points import STOP
from .programs import GROUPS

__all__ = ["PATIENCE", "Run", "Size"]

PROGRAM = "anybroker_contract.effects.programs"
LOOK = 0.1
QUIET = 3.0
"""Seconds that are waited at the end for what should not come."""
PATIENCE = 60.0
"""Seconds without a step after which a run is over, whatever is missing."""
AT_POINT = 15.0
"""Seconds that a program may take to pass its point."""
MOST_PASSES = 8
"""A program dies when it passes its point for at most so many times."""
DOWN = 0.3
"""Seconds that a server is away, besides the time that it takes to start."""


@dataclass(frozen=True)
class Size:
    """The size of a run."""

    events: int
    rate: float
    """Sales a second; 0: as fast as the database takes them."""
    faults: int
    """The most faults."""
    every: float
    """Seconds between two of them."""
    late: int
    """Transactions that stay open for long, one after another."""
    minutes: float = 0.0
    """No more is sold after this time; 0: until all are."""
    workers: int = 4
    relays: int = 2
    lease: float = 3.0
    """Of the relays' shards, in seconds."""
    handling: float = 5.0
    """Of events and of marks, in seconds."""


class Run:
    """From the start of the programs to what the tables say."""

    def __init__(
        self,
        harness: BrokerHarness,
        database: Broker,
        folder: Path,
        size: Size,
        seed: int,
        say: Callable[[str], None],
        mutant: str | None = None,
        only: Sequence[Fault] = (),
        patience: float = PATIENCE,
    ) -> None:
        self.notes: list[str] = []
        """What did not hold, as seen by the run itself."""
        self._harness = harness
        self._database = database
        self._folder = folder
        self._size = size
        self._say = say
        self._mutant = mutant
        self._only = only
        self._patience = patience
        self._seed = seed
        self._chance = random.Random(seed)
        self._history = Writer(folder / "history.jsonl")
        self._tracker = Tracker(folder / "history.jsonl")
        self._alive: dict[str, list[Process]] = {role: [] for role in ("worker", "relay", "last", "shop")}
        self._started = 0
        self._numbers = 0
        self._dealt = 0
        self._counts = (0, 0, 0)
        self._moved = time.monotonic()
        self._sold = False
        self._away = False
        """A server is, or a program is being killed: nothing need move."""

    # ------------------------------------------------------------------------------------------------- all of it

    async def go(self) -> None:
        """Raises Stalled, BrokerFailed."""
        size = self._size
        await self._prepare()
        self._history.write("run", broker=self._harness.name, seed=self._seed, mutant=self._mutant, **vars(size))
        wanted = {"worker": size.workers, "relay": size.relays, "last": 1, "shop": 1}
        try:
            for role, number in wanted.items():
                if role != "shop":
                    await asyncio.gather(*(self._begin(role) for _ in range(number)))
            for process in [each for role in self._alive.values() for each in role]:
                await process.ready(self._tracker)
            await self._begin("shop")
            await self._alive["shop"][0].ready(self._tracker)
            self._moved = time.monotonic()
            await self._until_handled()
            await self._end()
            for name, rows in await asyncio.to_thread(tables.truth, self._url):
                self._history.write("table", name=name, rows=rows)
        finally:
            for process in [each for processes in self._alive.values() for each in processes]:
                await process.kill()
            self._history.close()

    async def _until_handled(self) -> None:
        """With everything that goes on meanwhile, and a while of quiet after it."""
        handled = asyncio.create_task(self._handled())
        harm = asyncio.create_task(self._harm())
        helpers = [asyncio.create_task(work()) for work in (self._replace, self._look, self._stay_open)]
        try:
            working = {handled, harm, *helpers}
            while not handled.done():
                done, working = await asyncio.wait(working, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    await task  # what went wrong is raised
            harm.cancel()
            await asyncio.wait({harm})
            await asyncio.sleep(QUIET)
        finally:
            for task in (handled, harm, *helpers):
                task.cancel()
            await asyncio.wait({handled, harm, *helpers})

    async def _prepare(self) -> None:
        self._say("making the tables")
        name = f"effects_{secrets.token_hex(4)}"
        self._url = await asyncio.to_thread(tables.create_database, self._database.url, name)
        broker = self._harness.broker(self._folder)
        assert isinstance(broker, str)
        self._broker = broker
        async with Bus(broker, source="effects", consume=False, connect_timeout=30.0) as bus:
            for topic, groups in GROUPS.items():
                await bus.declare(topic, groups=groups)
            relay = OutboxRelay(PostgresOutbox(self._url))
            relay.attach(bus)
            await relay.start()  # makes its tables
            await relay.stop(0.0)
        await asyncio.to_thread(tables.create, self._url)

    # ------------------------------------------------------------------------------------------------- processes

    async def _begin(self, role: str) -> None:
        size = self._size
        self._started += 1
        options: dict[str, Any] = {
            "role": role,
            "broker": self._broker,
            "database": self._url,
            "mutant": self._mutant,
            "events": size.events,
            "rate": size.rate,
            "late": size.late,
            "seed": self._seed,
            "lease": size.lease,
            "handling": size.handling,
        }
        process = Process(f"{role}-{self._started}", self._folder, options, PROGRAM)
        await process.begin()
        self._alive[role].append(process)

    async def _replace(self) -> None:
        """Start another one for each that has ended. One that could not start while a server was away ends as well."""
        while True:
            for role, processes in self._alive.items():
                for process in [each for each in processes if not each.running]:
                    processes.remove(process)
                    if role == "shop" and process.status == 0:
                        self._sold, self._counts = True, (0, 0, 0)  # what is there is counted from now on
                        continue
                    if process.status != -signal.SIGKILL:
                        self._history.write("ended", name=process.name, status=process.status)
                        if process.pid in self._tracker.ready:
                            self.notes.append(f"{process.name} ended with {process.status}: {process.last_words()}")
                        await asyncio.sleep(0.5)
                    await self._begin(role)
            await asyncio.sleep(LOOK)

    async def _end(self) -> None:
        processes = [process for role in self._alive.values() for process in role]
        for process in processes:
            process.signal(signal.SIGTERM)
        for process in processes:
            try:
                await process.gone(20.0)
            except TimeoutError:
                self.notes.append(f"{process.name} had not ended 20 s after SIGTERM")

    # ---------------------------------------------------------------------------------------------------- faults

    @contextlib.asynccontextmanager
    async def _fault(self, name: str, **facts: Any) -> AsyncIterator[None]:
        self._numbers += 1
        number = self._numbers
        self._history.write("fault", name=name, number=number, **facts)
        self._away = True
        try:
            yield
        finally:
            self._history.write("over", name=name, number=number)
            self._away, self._moved = False, time.monotonic()

    @property
    def _servers(self) -> tuple[str, ...]:
        database = ("database",) if self._database.can_restart else ()
        return (*database, "broker") if {"kill", "start"} <= self._harness.can() else database

    async def _harm(self) -> None:
        cards = deck(self._chance, self._servers, self._only)
        while self._dealt < self._size.faults:
            await asyncio.sleep(self._size.every * self._chance.uniform(0.5, 1.5))
            fault = next(cards)
            self._dealt += 1
            match fault.what:
                case "database":
                    await self._restart_database()
                case "broker":
                    async with self._fault("broker killed"):
                        await asyncio.shield(asyncio.to_thread(self._broker_again))
                case _:
                    await self._harm_program(fault)

    async def _harm_program(self, fault: Fault) -> None:
        self._tracker.look()
        ready = [each for each in self._alive[fault.what] if each.running and each.pid in self._tracker.ready]
        if not ready:
            return
        process = self._chance.choice(ready)
        if fault.point is None:
            async with self._fault(f"{fault.what} killed", target=process.pid):
                await process.kill()
            return
        process.tell(f"{fault.point}:{self._chance.randint(1, MOST_PASSES)}")
        with contextlib.suppress(TimeoutError):  # where nothing passes there any more
            await process.gone(AT_POINT)

    def _broker_again(self) -> None:
        self._harness.kill()
        time.sleep(DOWN)
        self._harness.start()

    async def _restart_database(self) -> None:
        """As ``pg_ctl restart -m immediate``: sessions end without a word, and it recovers from its log."""
        async with self._fault("database restarted (immediate)"):
            await asyncio.shield(asyncio.to_thread(self._database_again))

    def _database_again(self) -> None:
        if self._database.source == "native":
            with psycopg.connect(self._database.url, autocommit=True) as connection:
                row = connection.execute("SELECT split_part(pg_read_file('postmaster.pid'), E'\\n', 1)::int").fetchone()
            assert row is not None
            os.kill(row[0], signal.SIGQUIT)
            end = time.monotonic() + 10.0
            while time.monotonic() < end and _exists(row[0]):
                time.sleep(0.02)
        self._database.kill()
        time.sleep(DOWN)
        self._database.start()

    async def _stay_open(self) -> None:
        """A transaction that has written, and stays open beside all others for as long as the database lives."""
        while True:
            with contextlib.suppress(psycopg.Error, OSError):
                async with await psycopg.AsyncConnection.connect(self._url) as connection:
                    await connection.execute("SELECT pg_current_xact_id()")
                    while not connection.closed:
                        await asyncio.sleep(1.0)
                        await connection.execute("SELECT 1")
            await asyncio.sleep(0.5)

    # -------------------------------------------------------------------------------------------------- progress

    async def _look(self) -> None:
        told = 0.0
        while True:
            with contextlib.suppress(psycopg.Error, OSError):
                found = await asyncio.to_thread(tables.counts, self._url)
                if found != self._counts:
                    self._counts, self._moved = found, time.monotonic()
            if time.monotonic() - told >= 2.0:
                told = time.monotonic()
                sold, billed, booked = self._counts
                self._say(f"{sold:,} sold, {billed:,} billed, {booked:,} booked; {self._dealt} faults")
            await asyncio.sleep(0.5)

    async def _handled(self) -> None:
        """Return when all that was sold has gone through, or nothing moves any more."""
        began = time.monotonic()
        while not (self._sold and min(self._counts) >= self._counts[0] > 0):
            if self._size.minutes and time.monotonic() - began > self._size.minutes * 60:
                for shop in self._alive["shop"]:
                    shop.tell(STOP)
            if not self._away and time.monotonic() - self._moved > self._patience:
                if not self._sold:
                    raise Stalled(f"nothing moves for {self._patience:g} s, and not everything is sold: {self._counts}")
                return
            await asyncio.sleep(LOOK)


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
