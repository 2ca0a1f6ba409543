"""The table of parked keys, as statements that people can read, run themselves, or put into a migration."""

from __future__ import annotations

from collections.abc import Sequence

from .ddl import qualified

__all__ = ["PART", "TABLES", "VERSION", "privileges", "statements"]

PART = "parking"
"""The row of ``anybroker_schema`` that says which version of this table there is."""
VERSION = 1
TABLES = ("anybroker_parked",)

_STATEMENTS = (
    """\
CREATE TABLE IF NOT EXISTS {schema}anybroker_schema (
    part text PRIMARY KEY,
    version integer NOT NULL
)""",
    """\
CREATE TABLE IF NOT EXISTS {schema}anybroker_parked (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    place text NOT NULL,
    key text NOT NULL,
    event text NOT NULL,
    finished boolean NOT NULL DEFAULT false
)""",
    """\
CREATE UNIQUE INDEX IF NOT EXISTS anybroker_parked_event ON {schema}anybroker_parked (place, key, event)""",
    """\
COMMENT ON TABLE {schema}anybroker_parked IS
    'anybroker: events that are set aside behind an earlier dead letter of their key, in the order of number'""",
    """\
INSERT INTO {schema}anybroker_schema (part, version) VALUES ('{part}', {version}) ON CONFLICT (part) DO NOTHING""",
)


def statements(schema: str | None = None) -> Sequence[str]:
    """What creates the table, each without its semicolon. Running them again changes nothing."""
    return [text.format(schema=qualified(schema), part=PART, version=VERSION) for text in _STATEMENTS]


def privileges(role: str, schema: str | None = None) -> Sequence[str]:
    """What a role needs that did not create the table."""
    before = qualified(schema)
    name = f'"{role.replace(chr(34), chr(34) * 2)}"'
    usage = [] if schema is None else [f"GRANT USAGE ON SCHEMA {before[:-1]} TO {name}"]
    return [
        *usage,
        f"GRANT SELECT ON {before}anybroker_schema TO {name}",
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON {before}anybroker_parked TO {name}",
    ]
