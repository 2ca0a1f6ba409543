"""``anybroker db check`` and ``migrate``: what is there of the tables, and bringing them to this release's version."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import psycopg
from psycopg import errors

from anybroker.adapter import BrokerUrl
from anybroker.errors import ConfigError, Unavailable
from anybroker.kit.tables import Migrated, TablesState, check_not_newer, statements_between

from .all_tables import OUTBOX_TABLES, STORE_TABLES
from .catalog import Found, found_in, parts_of
from .connection import Connection, connect
from .ddl import create_schema, qualified
from .failures import failed, wrong_setup
from .options import DATABASE, Target, checked_schema, from_url, seconds
from .schema import LOCK, Tables, joined, script

__all__ = ["PostgresDatabase", "database_of_url"]

_T = TypeVar("_T")

_LONGEST_TIMEOUT = 600.0
_TABLES = {"store": STORE_TABLES, "outbox": OUTBOX_TABLES}
_WAITS = "10s"
"""How long a statement of a migration waits for a table: all that want the table later wait behind it."""


class PostgresDatabase:
    """The tables in one schema of one database.

    :param tables: by part, what is needed of it; by default that of this release.
    """

    def __init__(
        self, target: Target, schema: str | None, timeout: float = 5.0, tables: Mapping[str, Tables] = _TABLES
    ) -> None:
        self._target = target
        self._schema = checked_schema(DATABASE, schema)
        self._timeout = timeout
        self._tables = tables

    @property
    def target(self) -> str:
        """The database, without its password."""
        return str(self._target)

    async def check(self, parts: Sequence[str], /) -> Sequence[TablesState]:
        """Database.check. In a transaction that may only read."""

        async def checking(connection: Connection) -> Sequence[TablesState]:
            async with connection.transaction():
                await connection.execute("SET TRANSACTION READ ONLY")
                return [await self._state(connection, part) for part in parts]

        return await self._connected(checking)

    async def migrate(self, parts: Sequence[str], /) -> Sequence[Migrated]:
        """Database.migrate. Who uses a table longer than ten seconds lets it fail with ``Unavailable``."""

        async def migrating(connection: Connection) -> Sequence[Migrated]:
            async with connection.transaction():
                await connection.execute("SELECT pg_advisory_xact_lock(%s)", (LOCK,))
                await connection.execute(f"SET LOCAL lock_timeout = '{_WAITS}'".encode())
                done = [await self._migrated(connection, part) for part in parts]
                for part in parts:
                    await self._check_complete(connection, part)
                return done

        return await self._connected(migrating)

    async def _connected(self, work: Callable[[Connection], Awaitable[_T]]) -> _T:
        connection: Connection | None = None
        try:
            connection = await connect(self._target, asyncio.get_running_loop().time() + self._timeout)
            return await work(connection)
        except errors.LockNotAvailable as exc:
            raise Unavailable(
                f"{self._target}: another transaction uses a table for longer than {_WAITS}; nothing was changed. Try "
                "again when it has ended"
            ) from exc
        except (psycopg.Error, OSError) as exc:
            if isinstance(exc, psycopg.OperationalError) and (
                wrong := wrong_setup(DATABASE.setting, self._target, exc)
            ):
                raise wrong from exc
            raise failed(self._target, exc, "the database", Unavailable) from exc
        finally:
            if connection is not None:
                await connection.close()

    # ------------------------------------------------------------------------------------------------------- check

    async def _state(self, connection: Connection, part: str) -> TablesState:
        tables = self._tables[part]
        found = await found_in(connection, self._schema, tables)
        missing = (*found.lacks(parts_of(tables.statements(None))), *found.refused)
        state = TablesState(part, found.version, tables.version, missing)
        return state if state.fits else state._replace(remedy=self._remedy(state, found, tables))

    def _remedy(self, state: TablesState, found: Found, tables: Tables) -> str:
        if found.version is not None and found.version > tables.version:
            return "update anybroker here: an older release cannot use them"
        if found.refused and len(found.refused) == len(state.missing):
            return f"as their owner: {'; '.join(tables.privileges(found.role, self._schema))}"
        if found.may_make:
            return "anybroker db migrate"
        where = "" if self._schema is None else f" --schema '{self._schema}'"
        return (
            f"the role {found.role} may not make them: as one that may, anybroker db migrate, or what 'anybroker db "
            f"sql postgres{where}' prints"
        )

    # ----------------------------------------------------------------------------------------------------- migrate

    async def _migrated(self, connection: Connection, part: str) -> Migrated:
        tables = self._tables[part]
        found = await found_in(connection, self._schema, tables)
        lacks = tuple(found.lacks(parts_of(tables.statements(None))))
        check_not_newer(self._target, TablesState(part, found.version, tables.version))
        if found.version == tables.version and not lacks:
            return Migrated(part, found.version, tables.version)
        statements = list(self._statements(found, tables))
        try:
            for statement in statements:
                await connection.execute(statement.encode())
        except (errors.InsufficientPrivilege, errors.InvalidSchemaName) as exc:
            raise ConfigError(
                f"tables of the {part}",
                f"{self._target}: the role {found.role} may not make or change them ({exc.diag.message_primary})",
                f"Run as a role that may: {joined(statements)}{joined(tables.privileges(found.role, self._schema))}"
                if found.version is not None
                else f"Run as a role that may: {script(self._schema, found.role, tables)}",
            ) from exc
        return Migrated(part, found.version, tables.version, lacks)

    def _statements(self, found: Found, tables: Tables) -> Iterable[str]:
        before = qualified(self._schema)
        if self._schema is not None and not found.schema_exists:
            yield create_schema(self._schema)
        if found.version is not None and found.version < tables.version:
            for statement in statements_between(found.version, tables.version, tables.steps):
                yield statement.format(schema=before)
            yield f"UPDATE {before}anybroker_schema SET version = {tables.version} WHERE part = '{tables.part}'"
        yield from tables.statements(self._schema)

    async def _check_complete(self, connection: Connection, part: str) -> None:
        tables = self._tables[part]
        found = await found_in(connection, self._schema, tables)
        if lacks := list(found.lacks(parts_of(tables.statements(None)))):
            raise ConfigError(
                f"tables of the {part}",
                f"{self._target}: {', '.join(lacks)} cannot be made: a table of that name is there, and not as this "
                "library makes it. Nothing was changed",
                "Rename it, or add what is missing as 'anybroker db sql postgres' prints it.",
            )


def database_of_url(url: BrokerUrl) -> PostgresDatabase:
    """The tables that ``postgresql://…`` leads to: for the entry point."""
    parameters, arguments = from_url(url, DATABASE)
    timeout = seconds(DATABASE, "timeout", arguments.get("timeout", 5.0), _LONGEST_TIMEOUT)
    schema: Any = arguments.get("schema")
    return PostgresDatabase(Target(parameters, timeout), schema, timeout)
