"""The idempotency store in a PostgreSQL database: durable, for any number of processes on any number of machines."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import psycopg

from anybroker.adapter import BrokerUrl
from anybroker.errors import ConfigError, StateError
from anybroker.idempotency import Busy, Claim, Done, Key, ParkedRow, Store, StoreUnavailable

from .all_tables import STORE_TABLES
from .batches import Batches, Job
from .claiming import Claiming
from .claims import PostgresClaim, plain
from .connection import connect
from .failures import not_open, unavailable, wrong_setup
from .lending import Lending
from .marking import Marking
from .options import STORE, Target, checked_schema, from_url, seconds
from .parking import Parking
from .pool import Pool
from .schema import prepare
from .statements import SESSION, Statements
from .transaction import PostgresTransaction

__all__ = ["PostgresStore", "store_of_url"]

_LONGEST = 100 * 365 * 86_400.0
"""Seconds, of a lease or of retain: more would be beyond the server's calendar, and fail a whole batch."""
_LONGEST_TIMEOUT = 600.0


class PostgresStore:
    """Remembers in a PostgreSQL database which events are done.

    All processes that name the same database and schema share it. That may be the application's own database: its
    handlers can then use a :class:`PostgresTransaction`. Several Buses of one event loop may share one object. All
    calls made at the same time go in one statement; one connection claims while another one marks. The server's clock
    alone decides whether a lease has ended.

    :param conninfo: libpq's URL (``postgresql://user:password@host/database?sslmode=require``) or its ``key=value``
        form. With several hosts the one that can be written is used.
    :param retain: seconds for which done events are remembered; 7 days by default. A copy that arrives later, such as a
        replayed dead letter, is handled again.
    :param timeout: seconds after which a call fails with ``StoreUnavailable``, whatever the server does.
    :param schema: the schema of the tables; by default the first one of the role's ``search_path``. Created if it does
        not exist and the role may.
    :param pool: the most connections for handlers' transactions at once, beside the two of the store. Handlers that
        find none free wait.
    """

    durable = True
    transaction_type = PostgresTransaction

    def __init__(
        self,
        conninfo: str,
        *,
        retain: float = 7 * 86_400.0,
        timeout: float = 5.0,
        schema: str | None = None,
        pool: int = 10,
    ) -> None:
        self._set(
            Target.of(conninfo, seconds(STORE, "timeout", timeout, _LONGEST_TIMEOUT), STORE),
            retain,
            timeout,
            schema,
            pool,
        )

    def _set(self, target: Target, retain: float, timeout: float, schema: str | None, pool: int) -> None:
        self.retain = seconds(STORE, "retain", retain, _LONGEST)
        if isinstance(pool, bool) or not isinstance(pool, int) or pool < 1:
            raise ConfigError("PostgresStore(pool=)", f"{pool!r} is not a number of connections", "Use 1 or more.")
        self._timeout = timeout
        self._schema = checked_schema(STORE, schema)
        self._target = target
        self._statements = Statements(schema)
        self._pool_size = pool
        self._opened = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._life = asyncio.Lock()
        """Held while it is opened or closed."""
        self._claims: Batches | None = None
        self._marks: Batches | None = None
        self._parking: Batches | None = None
        self._pool: Pool | None = None
        self._lending: Lending | None = None
        self._ascii_only = False
        """Whether the database has not all characters."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._target}>"

    # ---------------------------------------------------------------------------------------------- life

    async def open(self) -> None:
        """Store.open. Creates the tables if they are not there. ``ConfigError`` for a wrong password, a database that
        does not exist, a missing privilege (with the statements to run) or tables of another version;
        ``StoreUnavailable`` if the server does not let us in now."""
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            if self._opened or self._life.locked():
                raise StateError(f"{self!r} is open in another event loop: give each its own PostgresStore")
            self._loop, self._life = loop, asyncio.Lock()
        self._opened += 1
        try:
            async with self._life:
                if self._claims is None:
                    await self._open()
        except BaseException:
            self._opened -= 1
            raise

    async def _open(self) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._timeout
        try:
            connection = await connect(self._target, deadline, self._session())
        except TimeoutError as exc:
            raise StoreUnavailable(
                f"the idempotency store {self._target}: no connection within {self._timeout:g} s"
            ) from exc
        except (psycopg.Error, OSError) as exc:
            raise (wrong_setup(STORE.setting, self._target, exc) or unavailable(self._target, exc)) from exc
        timer = loop.call_at(deadline, connection.cut)
        try:
            await prepare(connection, self._schema, self._target, STORE_TABLES)
            self._ascii_only = connection.info.parameter_status("server_encoding") != "UTF8"
        except BaseException as exc:
            connection.cut()
            await connection.close()
            if isinstance(exc, psycopg.Error | OSError):
                raise unavailable(self._target, exc, "its tables: ") from exc
            raise
        finally:
            timer.cancel()
        claiming = Claiming(self._statements, self._ascii_only)
        self._claims = Batches(
            "claims", self._target, self._timeout, claiming.run, connected=claiming.connected, lost=claiming.lost
        )
        self._marks = Batches("marks", self._target, self._timeout, Marking(self._statements).run)
        parking = Parking(self._schema, self._target)
        self._parking = Batches("parked keys", self._target, self._timeout, parking.run, connected=parking.connected)
        self._claims.start()
        self._marks.start(connection)
        self._parking.start()
        self._pool = Pool(self._target, self._pool_size, self._timeout)
        self._lending = Lending(self._pool)

    def _session(self) -> tuple[tuple[str, str], ...]:
        return *SESSION, ("statement_timeout", str(max(1, int(self._timeout * 1000))))

    async def close(self) -> None:
        """Store.close: completes what was called before."""
        self._opened -= 1
        async with self._life:
            if self._opened:
                return
            claims, self._claims = self._claims, None
            parking, self._parking = self._parking, None
            try:
                if parking is not None:
                    await parking.stop()
                if claims is not None:
                    await claims.stop()
            finally:  # in this order: a claim that nobody waits for is released
                marks, self._marks = self._marks, None
                pool, self._pool, self._lending = self._pool, None, None
                try:
                    if marks is not None:
                        await marks.stop()
                finally:
                    if pool is not None:
                        await pool.close()

    # ---------------------------------------------------------------------------------------------- calls

    async def claim(self, key: Key, owner: str, lease: float, retain: float, /) -> Claim | Busy | Done:
        """Store.claim."""
        if self._claims is None:
            raise not_open(self._target)
        claim = PostgresClaim(key, plain(owner, self._ascii_only), min(lease, _LONGEST), min(retain, _LONGEST))
        result: Claim | Busy | Done = await self._claims.call(Job("claim", claim, self._unwanted))
        return result

    def _unwanted(self, result: Any) -> None:
        """Release a claim whose waiter was cancelled."""
        if isinstance(result, Claim) and self._marks is not None:
            try:
                self._marks.put(Job("release", result))
            except StoreUnavailable:
                pass  # closed in the meantime: the claim expires with its lease

    async def extend(self, claims: Sequence[Claim], /) -> Sequence[bool]:
        """Store.extend."""
        # Those that are just committed are not asked about: after the commit they would seem to be lost.
        asked = [claim for claim in claims if isinstance(claim, PostgresClaim) and not claim.ending]
        if not asked:
            return [True] * len(claims)
        ours: dict[Claim, bool] = dict(zip(asked, await self._mark("extend", asked), strict=True))
        return [ours.get(claim, True) for claim in claims]

    async def done(self, claim: Claim, /) -> bool:
        """Store.done. With a :class:`PostgresTransaction` that was used: commits it, together with the mark. If its
        commit failed, or the outcome was lost, the handler runs again unless the server says that it was committed."""
        assert isinstance(claim, PostgresClaim)
        transaction = claim.transaction
        if transaction is not None and transaction.used:
            claim.ending = True
            return await transaction.commit()
        return bool(await self._mark("done", claim))

    async def release(self, claim: Claim, /) -> None:
        """Store.release. Rolls the claim's transaction back."""
        assert isinstance(claim, PostgresClaim)
        if claim.transaction is not None:
            await claim.transaction.roll_back()
        await self._mark("release", claim)

    async def purge(self) -> int:
        """Store.purge: at most 1,000 rows."""
        return int(await self._mark("purge", None))

    async def parked(self, place: str, /) -> Mapping[str, int]:
        """ParkingStore.parked. The first of these calls creates the table of parked keys: ConfigError where it may
        not."""
        found: Mapping[str, int] = await self._park("parked", (place,))
        return found

    async def park(self, place: str, key: str, event: str, behind: bool, /) -> ParkedRow | None:
        """ParkingStore.park."""
        row: ParkedRow | None = await self._park("park", (place, key, event, behind))
        return row

    async def unpark(self, place: str, key: str, event: str | None, /) -> int:
        """ParkingStore.unpark."""
        return int(await self._park("unpark", (place, key, event)))

    async def _park(self, kind: str, value: tuple[object, ...]) -> Any:
        if self._parking is None:
            raise not_open(self._target)
        return await self._parking.call(Job(kind, value))

    def transaction(self, claim: Claim, /) -> PostgresTransaction:
        """TransactionalStore.transaction."""
        assert isinstance(claim, PostgresClaim)
        if self._pool is None or self._lending is None:
            raise not_open(self._target)
        transaction = claim.transaction
        if not isinstance(transaction, PostgresTransaction):  # one claim is one start of the handler
            transaction = claim.transaction = PostgresTransaction(
                claim, self._pool, self._lending, self._statements, self._mark
            )
        return transaction

    async def _mark(self, kind: str, value: Any) -> Any:
        if self._marks is None:
            raise not_open(self._target)
        return await self._marks.call(Job(kind, value))


def store_of_url(url: BrokerUrl) -> Store:
    """The store of ``postgresql://user:password@host/database?retain=…&sslmode=…``: ``retain``, ``timeout``, ``schema``
    and ``pool`` are the store's, all other options are libpq's. Raises ConfigError."""
    parameters, arguments = from_url(url, STORE)
    store = PostgresStore.__new__(PostgresStore)
    timeout = seconds(STORE, "timeout", arguments.get("timeout", 5.0), _LONGEST_TIMEOUT)
    store._set(
        Target(parameters, timeout),
        arguments.get("retain", 7 * 86_400.0),
        timeout,
        arguments.get("schema"),
        arguments.get("pool", 10),
    )
    return store
