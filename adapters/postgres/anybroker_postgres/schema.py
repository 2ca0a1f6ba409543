"""The tables at ``open()``: there in the right version, or created, or an error that says what to run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import psycopg
from psycopg import errors

from anybroker.errors import ConfigError, Unavailable
from anybroker.kit.tables import Steps

from .connection import Connection
from .ddl import create_schema, qualified

__all__ = ["LOCK", "NEEDED", "Tables", "joined", "prepare", "script"]

LOCK = 7_165_308_221_941
"""The advisory lock under which tables are created and changed: any number that no other program is likely to use."""
NEEDED = ("SELECT", "INSERT", "UPDATE", "DELETE")


@dataclass(frozen=True)
class Tables:
    """What somebody needs."""

    part: str
    """The row of ``anybroker_schema``."""
    version: int
    names: Sequence[str]
    statements: Callable[[str | None], Sequence[str]]
    """What creates them in a schema."""
    privileges: Callable[[str, str | None], Sequence[str]]
    """What a role needs on them."""
    setting: str
    """What errors name."""
    whose: str
    """As in "the idempotency store"."""
    unavailable: type[Unavailable]
    steps: Steps = field(default_factory=dict)
    """What brings older versions to the next one, with ``{schema}`` before each table."""


async def prepare(
    connection: Connection, schema: str | None, target: object, tables: Tables, *, create: bool = True
) -> None:
    """Create the tables if they are not there, and may be created. Raises ``ConfigError``, what ``tables`` has for an
    outage, or ``psycopg.Error``."""
    try:
        version = await _version(connection, schema, tables)
        if version is None and create:
            version = await _create(connection, schema, tables)
        if version is None:
            raise ConfigError(
                tables.setting,
                f"{target}: {tables.whose} has no tables there",
                f"Run: {script(schema, await _user(connection), tables)}",
            )
        if version == tables.version:
            await _check_privileges(connection, schema, target, tables)
            return
    except errors.InsufficientPrivilege as exc:
        raise ConfigError(
            tables.setting,
            f"{target}: the role may neither read the tables of {tables.whose} nor create them "
            f"({exc.diag.message_primary})",
            f"Run as a role that may: {script(schema, await _user(connection), tables)}",
        ) from exc
    except errors.InvalidSchemaName as exc:
        raise ConfigError(
            tables.setting,
            f"{target}: {exc.diag.message_primary}",
            f"Set the schema= of {tables.whose}, or the role's search_path.",
        ) from exc
    except errors.ReadOnlySqlTransaction as exc:
        raise tables.unavailable(
            f"{tables.whose} {target}: its tables are not there, and the server is read-only: a standby, or "
            "default_transaction_read_only"
        ) from exc
    raise ConfigError(
        tables.setting,
        f"{target}: its tables have version {version}, and this version of anybroker needs {tables.version}",
        "'anybroker db migrate' brings them to it, and 'anybroker db check' says what it would do."
        if version < tables.version
        else f"Run the same version of anybroker in all services, or give {tables.whose} a schema= of its own.",
    )


async def _version(connection: Connection, schema: str | None, tables: Tables) -> int | None:
    name = f"{qualified(schema)}anybroker_schema"
    cursor = await connection.execute("SELECT to_regclass(%s) IS NOT NULL", (name,))
    if not (await _one(cursor))[0]:
        return None
    query = f"SELECT version FROM {name.replace('%', '%%')} WHERE part = %s"
    cursor = await connection.execute(query.encode(), (tables.part,))
    row = await cursor.fetchone()
    return None if row is None else int(row[0])


async def _create(connection: Connection, schema: str | None, tables: Tables) -> int | None:
    async with connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock(%s)", (LOCK,))
        version = await _version(connection, schema, tables)  # another process may have been first
        if version is not None:
            return version
        if schema is not None:
            cursor = await connection.execute("SELECT 1 FROM pg_namespace WHERE nspname = %s", (schema,))
            if await cursor.fetchone() is None:
                await connection.execute(create_schema(schema).encode())
        for statement in tables.statements(schema):
            await connection.execute(statement.encode())
        return await _version(connection, schema, tables)


async def _check_privileges(connection: Connection, schema: str | None, target: object, tables: Tables) -> None:
    for name in tables.names:
        table = f"{qualified(schema)}{name}"
        asked = ", ".join(f"has_table_privilege(%s, '{privilege}')" for privilege in NEEDED)
        cursor = await connection.execute(f"SELECT {asked}".encode(), (table,) * len(NEEDED))
        missing = [privilege for privilege, has in zip(NEEDED, await _one(cursor), strict=True) if not has]
        if missing:
            raise ConfigError(
                tables.setting,
                f"{target}: the role has no {', '.join(missing)} on {table}",
                f"Run as the table's owner: {joined(tables.privileges(await _user(connection), schema))}",
            )


async def _one(cursor: psycopg.AsyncCursor[tuple[object, ...]]) -> tuple[object, ...]:
    row = await cursor.fetchone()
    assert row is not None
    return row


async def _user(connection: Connection) -> str:
    return str((await _one(await connection.execute("SELECT current_user")))[0])


def script(schema: str | None, role: str, tables: Tables) -> str:
    """All that somebody else has to run, so that this role can use the tables."""
    first = [] if schema is None else [create_schema(schema)]
    return joined([*first, *tables.statements(schema), *tables.privileges(role, schema)])


def joined(lines: Iterable[str]) -> str:
    """Statements, each on a line of its own."""
    return "".join(f"\n{line};" for line in lines)
