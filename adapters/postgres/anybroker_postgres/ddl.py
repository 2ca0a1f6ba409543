"""The tables, as statements that people can read, run themselves, or put into a migration."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["PART", "VERSION", "create_schema", "privileges", "qualified", "statements"]

PART = "idempotency"
"""The row of ``anybroker_schema`` that says which version of these tables there is."""
VERSION = 1

_TABLES = """\
CREATE TABLE IF NOT EXISTS {schema}anybroker_schema (
    part text PRIMARY KEY,
    version integer NOT NULL
)
CREATE TABLE IF NOT EXISTS {schema}anybroker_claim (
    hash uuid PRIMARY KEY,
    fence bigint GENERATED ALWAYS AS IDENTITY,
    done boolean NOT NULL DEFAULT false,
    since timestamptz NOT NULL,
    until timestamptz NOT NULL,
    expires timestamptz NOT NULL,
    owner text,
    consumer_group text NOT NULL,
    handler text NOT NULL,
    source text NOT NULL,
    id text NOT NULL
) WITH (
    fillfactor = 50,
    autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_vacuum_insert_scale_factor = 0.05,
    autovacuum_analyze_scale_factor = 0.05
)
CREATE INDEX IF NOT EXISTS anybroker_claim_expires ON {schema}anybroker_claim (expires)
COMMENT ON TABLE {schema}anybroker_claim IS
    'anybroker: events that are claimed or done. hash is of group, handler, source and id, which are there for people'
INSERT INTO {schema}anybroker_schema (part, version) VALUES ('{part}', {version}) ON CONFLICT (part) DO NOTHING
"""
_STARTS = ("CREATE ", "COMMENT ", "INSERT ")


def qualified(schema: str | None) -> str:
    """What stands before the name of a table: the quoted schema and a dot, or nothing for the search path's."""
    return "" if schema is None else f'"{schema.replace(chr(34), chr(34) * 2)}".'


def create_schema(schema: str) -> str:
    """What creates a schema for the tables, if it does not exist."""
    return f"CREATE SCHEMA IF NOT EXISTS {qualified(schema)[:-1]}"


def statements(schema: str | None = None) -> Sequence[str]:
    """What creates the tables of this version, each without its semicolon. Running them again changes nothing."""
    found: list[str] = []
    for line in _TABLES.format(schema=qualified(schema), part=PART, version=VERSION).splitlines():
        if line.startswith(_STARTS):
            found.append(line)
        else:
            found[-1] += f"\n{line}"
    return found


def privileges(role: str, schema: str | None = None) -> Sequence[str]:
    """What a role needs that did not create the tables."""
    before = qualified(schema)
    name = f'"{role.replace(chr(34), chr(34) * 2)}"'
    usage = [] if schema is None else [f"GRANT USAGE ON SCHEMA {before[:-1]} TO {name}"]
    return [
        *usage,
        f"GRANT SELECT ON {before}anybroker_schema TO {name}",
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON {before}anybroker_claim TO {name}",
    ]
