"""The outbox in PostgreSQL: every test has its own database."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

from ..._on_server import OnServer
from ..._postgres import run, set_read_only
from ..harness import Outbox, OutboxHarness, Writer
from ._filling import shards_of

__all__ = ["PostgresOutboxes"]

_KINDS = {
    "psycopg": (),
    "psycopg-sync": (),
    "sqlalchemy-session": ("sqlalchemy",),
    "sqlalchemy-connection": ("sqlalchemy",),
    "sqlalchemy-async-session": ("sqlalchemy", "greenlet"),
    "sqlalchemy-async-connection": ("sqlalchemy", "greenlet"),
    "sqlalchemy-asyncpg": ("sqlalchemy", "greenlet", "asyncpg"),
    "django": ("django",),
}
"""Each with the packages that it needs beside psycopg."""
_EFFECT = "INSERT INTO effect(text) VALUES ('{}')"
_FAIL = "SELECT 1/0"


class PostgresWriter:
    """Any of them, by what is called to execute, commit, roll back and close, each of which may return an awaitable."""

    def __init__(
        self,
        within: Any,
        execute: Callable[[str], Any],
        close: Callable[[], Any],
        commit: Callable[[], Any] | None = None,
        rollback: Callable[[], Any] | None = None,
    ) -> None:
        self.within = within
        self._execute = execute
        self._close = close
        self._commit = commit or within.commit
        self._rollback = rollback or within.rollback

    async def effect(self, text: str) -> None:
        """One row."""
        await _done(self._execute(_EFFECT.format(text)))

    async def fail(self) -> None:
        """Divide by zero."""
        try:
            await _done(self._execute(_FAIL))
        except Exception as exc:  # each driver has its own
            if "zero" not in str(exc):
                raise

    async def commit(self) -> None:
        """Writer.commit."""
        await _done(self._commit())

    async def rollback(self) -> None:
        """Writer.rollback."""
        await _done(self._rollback())

    async def close(self) -> None:
        """Writer.close."""
        await _done(self._close())


async def _done(result: Any) -> None:
    if hasattr(result, "__await__"):
        await result


class PostgresOutboxes(OnServer, OutboxHarness):
    """The package and its client are imported when they are needed."""

    name: ClassVar[str] = "postgres"
    kind: ClassVar[str] = "postgres"
    concurrent: ClassVar[bool] = True
    aborts: ClassVar[bool] = True
    whole: ClassVar[bool] = True

    def place(self, folder: Path) -> str:
        """A new database on the server."""
        database = f"contract_{secrets.token_hex(6)}"
        run(self.started, f'CREATE DATABASE "{database}"')
        return f"{self.started.rpartition('/')[0]}/{database}"

    def prepare(self, place: str) -> None:
        """Its statements, and the table of effects."""
        statements = import_module("anybroker_postgres.outbox_ddl").statements()
        with import_module("psycopg").connect(place, autocommit=True) as connection:
            for statement in (*statements, "CREATE TABLE effect(number bigserial PRIMARY KEY, text text NOT NULL)"):
                connection.execute(statement)

    def outbox(self, place: str, *, create: bool = True) -> Outbox:
        """A new object."""
        made: Outbox = import_module("anybroker_postgres").PostgresOutbox(place, create=create, timeout=self.timeout)
        return made

    def clean(self, place: str) -> None:
        """The database goes."""
        run(self.started, f'DROP DATABASE IF EXISTS "{place.rpartition("/")[2]}" WITH (FORCE)')

    def kinds(self) -> Sequence[str]:
        """Those that are installed."""
        return tuple(kind for kind, packages in _KINDS.items() if all(find_spec(package) for package in packages))

    def threads(self) -> Sequence[str]:
        """Django's connections are those of a thread."""
        return ("django",)

    async def writer(self, place: str, kind: str) -> Writer:
        """A new connection or session."""
        return await getattr(self, f"_{kind.replace('-', '_')}")(place)  # type: ignore[no-any-return]

    async def reader(self, place: str, *, writes: bool) -> Writer:
        """One that has a transaction id (``writes``), or only a snapshot."""
        writer = await self._psycopg(place)
        if writes:
            await writer.within.execute("SELECT pg_current_xact_id()")
        else:
            await writer.within.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            await writer.within.execute("SELECT count(*) FROM effect")
        return writer

    async def _psycopg(self, place: str) -> PostgresWriter:
        connection = await import_module("psycopg").AsyncConnection.connect(place)
        return PostgresWriter(connection, connection.execute, connection.close)

    async def _psycopg_sync(self, place: str) -> PostgresWriter:
        connection = await asyncio.to_thread(import_module("psycopg").connect, place)
        return PostgresWriter(connection, connection.execute, connection.close)

    async def _sqlalchemy_session(self, place: str) -> PostgresWriter:
        engine, text = _engine(place, "create_engine", "psycopg")
        session = import_module("sqlalchemy.orm").Session(engine)

        def close() -> None:
            session.close()
            engine.dispose()

        return PostgresWriter(session, lambda statement: session.execute(text(statement)), close)

    async def _sqlalchemy_connection(self, place: str) -> PostgresWriter:
        engine, text = _engine(place, "create_engine", "psycopg")
        connection = engine.connect()

        def close() -> None:
            connection.close()
            engine.dispose()

        return PostgresWriter(connection, lambda statement: connection.execute(text(statement)), close)

    async def _sqlalchemy_async_session(self, place: str, driver: str = "psycopg") -> PostgresWriter:
        engine, text = _engine(place, "create_async_engine", driver)
        session = import_module("sqlalchemy.ext.asyncio").AsyncSession(engine)

        async def close() -> None:
            await session.close()
            await engine.dispose()

        return PostgresWriter(session, lambda statement: session.execute(text(statement)), close)

    async def _sqlalchemy_asyncpg(self, place: str) -> PostgresWriter:
        return await self._sqlalchemy_async_session(place, "asyncpg")

    async def _sqlalchemy_async_connection(self, place: str) -> PostgresWriter:
        engine, text = _engine(place, "create_async_engine", "psycopg")
        connection = await engine.connect()

        async def close() -> None:
            await connection.close()
            await engine.dispose()

        return PostgresWriter(connection, lambda statement: connection.execute(text(statement)), close)

    async def _django(self, place: str) -> PostgresWriter:
        """In the thread that calls this."""
        connection = _django_connection(place)
        connection.set_autocommit(False)
        return PostgresWriter(connection, lambda statement: connection.cursor().execute(statement), connection.close)

    def insert(self, place: str, topic: str, key: str | None, payload: str, headers: str | None) -> None:
        """By SQL."""
        with import_module("psycopg").connect(place, autocommit=True) as connection:
            connection.execute(
                "INSERT INTO anybroker_outbox (id, aggregatetype, aggregateid, type, payload, headers, shard) "
                "VALUES ('foreign', %s, %s, 'foreign', %s, %s, 0)",
                (topic, key, payload, headers),
            )

    def fill(self, place: str, count: int, keys: int) -> None:
        """By one statement."""
        with import_module("psycopg").connect(place, autocommit=True) as connection:
            connection.execute(
                "INSERT INTO anybroker_outbox (id, aggregatetype, aggregateid, type, payload, headers, shard) "
                "SELECT id || '-' || number, 'backlog', 'k' || number %% %(keys)s, type, payload, headers, "
                "(%(shards)s::smallint[])[number %% %(keys)s + 1] "
                "FROM generate_series(0, %(count)s - 1) AS number, anybroker_outbox AS first "
                "WHERE first.aggregatetype = 'backlog' ORDER BY number",
                {"keys": keys, "count": count, "shards": shards_of(keys)},
            )

    def effects(self, place: str) -> Sequence[str]:
        """All rows."""
        return [str(row[0]) for row in run(place, "SELECT text FROM effect ORDER BY number")]

    def store(self, place: str) -> Any:
        """In the same database."""
        return import_module("anybroker_postgres").PostgresStore(place, timeout=self.timeout)

    def dead_rows(self, place: str) -> int:
        """As the statistics say."""
        run(place, "SELECT pg_stat_force_next_flush()")
        ((dead,),) = run(place, "SELECT n_dead_tup FROM pg_stat_user_tables WHERE relname = 'anybroker_outbox'")
        return int(dead)

    def make_read_only(self, place: str) -> None:
        """As a standby."""
        set_read_only(self.started, "on")

    def make_writable(self, place: str) -> None:
        """Again."""
        set_read_only(self.started, "off")


def _engine(place: str, make: str, driver: str) -> tuple[Any, Any]:
    module = import_module("sqlalchemy" if make == "create_engine" else "sqlalchemy.ext.asyncio")
    url = place.replace("postgresql:", f"postgresql+{driver}:", 1)
    return getattr(module, make)(url), import_module("sqlalchemy").text


def _django_connection(place: str) -> Any:
    settings = import_module("django.conf").settings
    if not settings.configured:
        settings.configure()
        import_module("django.apps").apps.ready = True  # no application is loaded
    parts = import_module("urllib.parse").urlsplit(place)
    database = {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": parts.path[1:],
        "USER": parts.username,
        "PASSWORD": parts.password,
        "HOST": parts.hostname,
        "PORT": parts.port,
    }
    return import_module("django.db.utils").ConnectionHandler({"default": database})["default"]
