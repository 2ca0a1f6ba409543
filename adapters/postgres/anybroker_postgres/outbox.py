"""The outbox in a PostgreSQL database: events are written in the application's transactions, and relayed from there."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Any, TypeVar

import psycopg
from pydantic_core import to_json

from anybroker.adapter import BrokerUrl, Outbound, Receipt
from anybroker.errors import StateError
from anybroker.outbox import SHARDS, Entry, OutboxUnavailable, Parked, Row, Taken, Waiting, share_of

from .all_tables import OUTBOX_TABLES
from .connection import Connection, connect
from .failures import failed, wrong_setup
from .options import OUTBOX, Target, checked_schema, from_url, seconds
from .outbox_ddl import channel
from .outbox_place import Place, Snapshot
from .outbox_statements import AGAIN, OutboxStatements
from .outbox_writing import in_parts, taken_by, write
from .schema import prepare

__all__ = ["PostgresOutbox", "outbox_of_url"]

_T = TypeVar("_T")

_LONGEST_TIMEOUT = 600.0
_SWEEP = 0.5
"""Seconds between two looks for rows that were committed late."""
_FULL_SWEEP = 20.0
"""Seconds between two looks at the whole table, for rows that were set aside and put back."""
_SHARE = 20
"""A look takes at most this part of the time: the longer it took, the later is the next one."""
_MOST = 100_000
"""Rows are counted up to here."""
_BY_POSITION = "SET enable_seqscan = off; SET enable_bitmapscan = off"
"""A table whose rows come and go has no statistics that are right: by those of a moment when it was empty the planner
reads all of it, with what was removed, at each look."""
_LOCK = 7_165_308_221_942
"""The advisory lock under which shards are shared out."""


class PostgresOutbox:
    """``Bus(sinks=[outbox])`` for writing, ``bus.add(OutboxRelay(outbox))`` for relaying.

    ::

        outbox = PostgresOutbox("postgresql://localhost/shop")
        bus = Bus("kafka://localhost", source="shop", sinks=[outbox])
        bus.add(OutboxRelay(outbox))

        async with await psycopg.AsyncConnection.connect("postgresql://localhost/shop") as shop:
            await shop.execute("INSERT INTO orders …")
            await bus.publish("orders", OrderPlaced(order_id="o-1"), within=shop)

    ``within`` is a connection of psycopg, asynchronous or not, a session or connection of SQLAlchemy, Django's
    ``connection``, or a :class:`PostgresTransaction`. The event is part of its transaction: the caller commits. Those
    that are not asynchronous are used in another thread while the caller waits; with ``bus.from_thread.publish`` in the
    calling thread, which is the only way for Django's, as they belong to their thread.

    :param conninfo: libpq's URL or its ``key=value`` form: the application's own database.
    :param schema: the schema of the tables; by default the first one of the role's ``search_path``.
    :param create: make the tables when a relay starts. Without: ``anybroker db sql postgres`` prints them.
    :param timeout: seconds after which a call of the relay's fails, whatever the server does.
    """

    def __init__(self, conninfo: str, *, schema: str | None = None, create: bool = True, timeout: float = 5.0) -> None:
        self._set(
            Target.of(conninfo, seconds(OUTBOX, "timeout", timeout, _LONGEST_TIMEOUT), OUTBOX), schema, create, timeout
        )

    def _set(self, target: Target, schema: str | None, create: bool, timeout: float) -> None:
        self._target = target
        self._schema = checked_schema(OUTBOX, schema)
        self._create = create
        self._timeout = timeout
        self._channel = channel(schema)
        self._statements = OutboxStatements(schema, self._channel)
        self._links: dict[str, _Link] = {}
        self._place = Place()
        self._next_sweep = 0.0
        self._next_full = 0.0
        self._rested = 0.0
        """When the last look for early rows has taken its share of the time."""
        self._notified = False

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._target}>"

    @property
    def target(self) -> str:
        """The database, without its password."""
        return str(self._target)

    # ---------------------------------------------------------------------------------------------------- the sink

    def takes(self, within: object, /) -> bool:
        """Sink.takes."""
        return taken_by(within)

    async def put(self, outbound: Outbound, within: Any, /) -> Receipt:
        """Sink.put: one statement in the caller's transaction. What the database says is raised as the driver raises
        it; ConfigError where there is no such table."""
        position = await write(self._statements.insert, Entry.of(outbound), within)
        return Receipt(outbound.topic, str(position))

    async def put_many(self, batch: Sequence[Outbound], within: Any, /) -> Sequence[Receipt]:
        """PutsMany.put_many: one statement for up to 1,000 rows or eight million characters. Where one of them fails,
        it has ended the caller's transaction, or the savepoint."""
        positions: list[int] = []
        for entries in in_parts([Entry.of(outbound) for outbound in batch]):
            positions += await write(self._statements.insert_many, (to_json(entries).decode(),), within)
        return [Receipt(each.topic, str(position)) for each, position in zip(batch, positions, strict=True)]

    # --------------------------------------------------------------------------------------------------- the table

    async def open(self) -> None:
        """OutboxTable.open. ``ConfigError`` says what to run where the tables are missing and cannot be made."""
        if self._links:
            raise StateError(f"{self!r} is open: give each relay its own PostgresOutbox")
        self.again()
        self._links = {
            "read": _Link(self._target, self._timeout, _BY_POSITION),
            "write": _Link(self._target, self._timeout, _BY_POSITION),
            "share": _Link(self._target, self._timeout),
        }
        try:
            await self._links["share"].call(
                lambda connection: prepare(connection, self._schema, self._target, OUTBOX_TABLES, create=self._create)
            )
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """OutboxTable.close."""
        links, self._links = self._links, {}
        for link in links.values():
            await link.close()

    async def _call(self, link: str, work: Callable[[Connection], Awaitable[_T]]) -> _T:
        if link not in self._links:
            raise StateError(f"{self!r} is not open")
        return await self._links[link].call(work)

    async def _execute(self, link: str, statement: str, *parameters: object) -> int:
        async def executing(connection: Connection) -> int:
            return (await connection.execute(statement.encode(), parameters)).rowcount

        return await self._call(link, executing)

    async def _fetch(self, link: str, statement: str, *parameters: object) -> list[tuple[Any, ...]]:
        async def fetching(connection: Connection) -> list[tuple[Any, ...]]:
            return await (await connection.execute(statement.encode(), parameters)).fetchall()

        return await self._call(link, fetching)

    async def take(self, relay: str, lease: float, /) -> Taken:
        """OutboxTable.take."""

        async def taking(connection: Connection) -> Taken:
            said = self._statements
            async with connection.transaction():
                await connection.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
                for statement, parameters in zip(said.meet, ((), (relay, lease), ()), strict=True):
                    await connection.execute(statement.encode(), parameters)
                relays = [row[0] for row in await (await connection.execute(said.relays.encode())).fetchall()]
                holders = dict(await (await connection.execute(said.holders.encode())).fetchall())
                share = share_of(relay, relays, holders, SHARDS)
                if share.take:
                    await connection.execute(said.lease.encode(), (list(share.take), relay))
            return Taken(share.held, share.surplus)

        return await self._call("share", taking)

    async def give_up(self, relay: str, shards: Collection[int] | None, /) -> None:
        """OutboxTable.give_up."""
        if shards is not None:
            await self._execute("share", self._statements.give_up, relay, list(shards))
            return
        for statement in self._statements.leave:
            await self._execute("share", statement, relay)

    def again(self) -> None:
        """OutboxTable.again."""
        self._place = Place()
        self._next_sweep = self._next_full = self._rested = 0.0

    async def rows(self, shards: Collection[int], limit: int, /) -> Sequence[Row]:
        """OutboxTable.rows. Rows that were committed late come before all later ones that are returned; where there is
        nothing new they, and those that have become due or were put back, are looked for twice a second, seldomer where
        that takes long."""
        place, said, mine = self._place, self._statements, list(shards)
        new = await self._fetch("read", said.rows, place.cursor, mine, limit)
        now = asyncio.get_running_loop().time()
        notified, self._notified = self._notified, False
        sweep = now >= (self._rested if notified and not new else self._next_sweep)  # what is new may be an early row
        if not new and not sweep:
            return ()
        number = 0
        if new:  # what had been committed before one of them is looked for in the snapshot that has it, or later
            text, _, last = new[0][-1].rpartition(":")
            snapshot, number = Snapshot.of(text), int(last)
        else:
            snapshot = Snapshot.of((await self._fetch("read", said.snapshot))[0][0])
        new = [row[:-1] for row in new]
        full = sweep and now >= self._next_full
        floor = 0 if full else place.late_from(snapshot)
        late = [] if floor is None else await self._late(place, floor, mine, limit)
        due = await self._fetch("read", said.due, mine, list(place.out), limit) if sweep else []
        if place is not self._place:
            return ()  # it was told to begin again
        if len(late) == limit:
            new = []  # there are more to come before them
        else:
            place.looked(snapshot)
            if new:
                place.reached(new[-1][0], snapshot, number)
        if sweep:
            took = asyncio.get_running_loop().time() - now
            self._rested = now + _SHARE * took
            self._next_sweep = max(self._rested, now + _SWEEP)
            if full and len(late) < limit:
                self._next_full = now + max(_FULL_SWEEP, _SHARE * took)
        found = [*late, *new, *due]
        place.returned(found)
        return [Row(*row) for row in sorted(found)]

    async def _late(self, place: Place, floor: int, shards: list[int], limit: int) -> list[tuple[Any, ...]]:
        """What has appeared from the floor on. This look may see a transaction that has ended since the floor was
        found, and has rows before it too: then it begins there."""
        while floor < place.cursor:
            found = await self._fetch(
                "read", self._statements.missed, floor, place.cursor, shards, list(place.out), limit
            )
            lower = place.late_from(Snapshot.of(found[0][-1])) if found else None
            if lower is None or lower >= floor:
                return [row[:-1] for row in found]
            floor = lower
        return []

    async def wait(self, seconds: float, /) -> None:
        """OutboxTable.wait. Wakes by LISTEN; without that, or while it is away, after the time."""
        began = asyncio.get_running_loop().time()
        link = self._links.get("listen")
        if link is None:
            link = self._links["listen"] = _Link(self._target, self._timeout, f'LISTEN "{_quoted(self._channel)}"')
        try:
            said = await link.call(lambda connection: _notified(connection, seconds), seconds + self._timeout)
            self._notified = said is not None
            if said == AGAIN:
                self.again()
        except OutboxUnavailable:
            await asyncio.sleep(max(0.0, began + seconds - asyncio.get_running_loop().time()))

    async def remove(self, positions: Sequence[int], /) -> None:
        """OutboxTable.remove."""
        await self._execute("write", self._statements.remove, list(positions))
        self._place.gone(positions)

    async def park(self, rejected: Sequence[tuple[int, str]], /) -> None:
        """OutboxTable.park."""
        positions = [position for position, _ in rejected]
        reasons = [reason.replace("\0", "\ufffd") for _, reason in rejected]
        await self._execute("write", self._statements.park, positions, reasons)
        self._place.gone(positions)

    async def parked(self, limit: int = 100, /) -> Sequence[Parked]:
        """OutboxTable.parked."""
        return [Parked(*row) for row in await self._fetch("share", self._statements.parked, limit)]

    async def parked_keys(self) -> Collection[tuple[str, str]]:
        """OutboxTable.parked_keys."""
        return [(topic, key) for topic, key in await self._fetch("share", self._statements.parked_keys)]

    async def retry(self, positions: Sequence[int] | None = None, /) -> int:
        """OutboxTable.retry. Relays are told; one that does not hear it finds them within half a minute."""
        chosen = None if positions is None else list(positions)
        count = await self._execute("share", self._statements.retry, chosen, chosen)
        await self._execute("share", self._statements.tell)
        return count

    async def discard(self, positions: Sequence[int] | None = None, /) -> int:
        """OutboxTable.discard."""
        chosen = None if positions is None else list(positions)
        return await self._execute("share", self._statements.discard, chosen, chosen)

    async def waiting(self) -> Waiting:
        """OutboxTable.waiting. Rows are counted up to 100,000."""
        ((rows, age, parked),) = await self._fetch("share", self._statements.waiting, _MOST, _MOST)
        return Waiting(rows, None if age is None else max(0.0, age), parked)


class _Link:
    """One connection, made when it is needed and again after a failure; one call at a time."""

    def __init__(self, target: Target, timeout: float, first: str | None = None) -> None:
        """``first``: executed on each new connection."""
        self._target = target
        self._timeout = timeout
        self._first = first
        self._lock = asyncio.Lock()
        self._connection: Connection | None = None

    async def call(self, work: Callable[[Connection], Awaitable[_T]], timeout: float | None = None) -> _T:
        """What ``work`` returns. ``OutboxUnavailable`` by the time-out; a call that fails ends the connection."""
        loop = asyncio.get_running_loop()
        async with self._lock:
            deadline = loop.time() + (self._timeout if timeout is None else timeout)
            try:
                async with asyncio.timeout_at(deadline):
                    connection = self._connection
                    if connection is None or connection.closed:
                        connection = self._connection = await connect(self._target, deadline)
                        if self._first is not None:
                            await connection.execute(self._first.encode())
                    return await work(connection)
            except (psycopg.Error, OSError) as exc:  # TimeoutError is an OSError
                await self.close()
                if (
                    isinstance(exc, psycopg.OperationalError)
                    and (wrong := wrong_setup(OUTBOX.setting, self._target, exc)) is not None
                ):
                    raise wrong from exc
                raise failed(self._target, exc, "the outbox", OutboxUnavailable) from exc
            except BaseException:
                await self.close()
                raise

    async def close(self) -> None:
        """End the connection."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.cut()
            await connection.close()


def _quoted(name: str) -> str:
    return name.replace('"', '""')


async def _notified(connection: Connection, seconds: float) -> str | None:
    """What was said when something was committed within the time."""
    async for notify in connection.notifies(timeout=seconds, stop_after=1):
        return notify.payload
    return None


def outbox_of_url(url: BrokerUrl, create: bool = True) -> PostgresOutbox:
    """The outbox of ``postgresql://…``: for the entry point."""
    parameters, arguments = from_url(url, OUTBOX)
    timeout = seconds(OUTBOX, "timeout", arguments.get("timeout", 5.0), _LONGEST_TIMEOUT)
    outbox = PostgresOutbox.__new__(PostgresOutbox)
    outbox._set(Target(parameters, timeout), arguments.get("schema"), create, timeout)
    return outbox
