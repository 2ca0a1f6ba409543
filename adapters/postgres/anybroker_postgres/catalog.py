"""What PostgreSQL's catalog says of the tables. It can be read without any right to them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .connection import Connection
from .ddl import qualified
from .schema import NEEDED, Tables

__all__ = ["Found", "Needed", "found_in", "parts_of"]

_TABLE = re.compile(r"CREATE TABLE IF NOT EXISTS (\w+) \(\n(.*?)\n\)", re.DOTALL)
_COLUMN = re.compile(r"^    (\w+) ", re.MULTILINE)
_INDEX = re.compile(r"CREATE (?:UNIQUE )?INDEX IF NOT EXISTS (\w+)")
_SCHEMA = "anybroker_schema"


@dataclass(frozen=True)
class Needed:
    """What statements make."""

    columns: Mapping[str, Sequence[str]]
    """By table."""
    indexes: Sequence[str]


def parts_of(statements: Iterable[str]) -> Needed:
    """Of our own statements, without a schema: they are the only place where the columns are written down."""
    text = ";\n".join(statements)
    return Needed({name: _COLUMN.findall(body) for name, body in _TABLE.findall(text)}, _INDEX.findall(text))


@dataclass(frozen=True)
class Found:
    """What is there."""

    role: str
    """Who asks."""
    schema_exists: bool
    version: int | None
    columns: Mapping[str, Sequence[str]]
    """By table."""
    indexes: Sequence[str]
    refused: Sequence[str]
    """Privileges that are needed to use the tables and that the role has not."""
    may_make: bool
    """Whether the role may make tables, and change those that are there."""

    def lacks(self, needed: Needed) -> Iterator[str]:
        """What is not there."""
        for table, columns in needed.columns.items():
            if table not in self.columns:
                yield f"table {table}"
            else:
                yield from (f"column {table}.{name}" for name in columns if name not in self.columns[table])
        yield from (f"index {name}" for name in needed.indexes if name not in self.indexes)


async def found_in(connection: Connection, schema: str | None, tables: Tables) -> Found:
    """The state of these tables: in this schema, or where the search path leads. Raises ``psycopg.Error``."""
    names = (_SCHEMA, *tables.names)
    ((role, there, usage, create, makes_schemas),) = await _rows(
        connection,
        "SELECT current_user, n.oid IS NOT NULL, coalesce(has_schema_privilege(n.oid, 'USAGE'), false), "
        "coalesce(has_schema_privilege(n.oid, 'CREATE'), false), has_database_privilege(current_database(), 'CREATE') "
        "FROM (SELECT coalesce(%s::text, current_schema())) AS asked (name) "
        "LEFT JOIN pg_namespace n ON n.nspname = asked.name",
        schema,
    )
    relations = {
        str(row[0]): row
        for row in await _rows(
            connection,
            "SELECT c.relname, c.oid::bigint, pg_has_role(c.relowner, 'USAGE'), "
            + ", ".join(f"has_table_privilege(c.oid, '{privilege}')" for privilege in NEEDED)
            + " FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
            "WHERE c.relname = ANY(%s) AND c.relkind IN ('r', 'p') "
            "AND CASE WHEN %s::text IS NULL THEN pg_table_is_visible(c.oid) ELSE n.nspname = %s END",
            list(names),
            schema,
            schema,
        )
    }
    by_oid = {row[1]: name for name, row in relations.items()}
    columns: dict[str, list[str]] = {name: [] for name in relations}
    for oid, column in await _rows(
        connection,
        "SELECT attrelid::bigint, attname FROM pg_attribute "
        "WHERE attrelid = ANY(%s::bigint[]::oid[]) AND attnum > 0 AND NOT attisdropped",
        list(by_oid),
    ):
        columns[by_oid[oid]].append(str(column))
    indexes = await _rows(
        connection,
        "SELECT c.relname FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid "
        "WHERE i.indrelid = ANY(%s::bigint[]::oid[]) AND i.indisvalid",
        list(by_oid),
    )
    refused = [] if usage or not there else [f"USAGE on schema {schema}"]
    for name in (name for name in names if name in relations):
        has = dict(zip(NEEDED, relations[name][3:], strict=True))
        asked = ("SELECT",) if name == _SCHEMA else NEEDED
        refused += [f"{privilege} on {name}" for privilege in asked if not has[privilege]]
    version: int | None = None
    if _SCHEMA in relations and relations[_SCHEMA][3] and usage:
        before = qualified(schema).replace("%", "%%")
        rows = await _rows(connection, f"SELECT version FROM {before}{_SCHEMA} WHERE part = %s", tables.part)
        version = int(rows[0][0]) if rows else None
    owns = all(row[2] for row in relations.values())
    return Found(
        role=str(role),
        schema_exists=bool(there),
        version=version,
        columns=columns,
        indexes=[str(row[0]) for row in indexes],
        refused=refused,
        may_make=owns and bool(create if there else makes_schemas and schema is not None),
    )


async def _rows(connection: Connection, query: str, *parameters: object) -> list[tuple[Any, ...]]:
    return await (await connection.execute(query.encode(), parameters)).fetchall()
