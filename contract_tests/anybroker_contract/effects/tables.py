"""The tables of the services in a run's database, and what they say at the end."""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg import sql

__all__ = ["CHARGES", "ORDERS", "counts", "create", "create_database", "truth"]

ORDERS = "orders"
CHARGES = "charges"

_TABLES = """\
CREATE TABLE sale (id text PRIMARY KEY, key text NOT NULL, n bigint NOT NULL);
CREATE TABLE effect (
    seq bigint GENERATED ALWAYS AS IDENTITY, consumer text NOT NULL, source text NOT NULL, id text NOT NULL,
    key text NOT NULL, n bigint NOT NULL
);
CREATE TABLE row_written (
    position bigint NOT NULL, topic text NOT NULL, id text NOT NULL, key text, of_id text
);
CREATE FUNCTION note_row() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO row_written VALUES (
        NEW.position, NEW.aggregatetype, NEW.id, NEW.aggregateid, NEW.payload::json -> 'data' ->> 'of'
    );
    RETURN NEW;
END $$;
CREATE TRIGGER note_row AFTER INSERT ON anybroker_outbox FOR EACH ROW EXECUTE FUNCTION note_row();
"""
"""No constraint forbids a second effect or a second row: they are counted. The trigger is part of each transaction."""

_CHUNK = 1000
_READ = {
    "sales": "SELECT id, key, n FROM sale ORDER BY n, id",
    "effects": "SELECT consumer, source, id, key, n FROM effect ORDER BY seq",
    "rows": "SELECT topic, id, key, of_id FROM row_written ORDER BY position",
    "left": "SELECT aggregatetype, id FROM anybroker_outbox ORDER BY position",
}


def create_database(url: str, name: str) -> str:
    """A new database on the server; its URL."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    return f"{url.rpartition('/')[0]}/{name}"


def create(url: str) -> None:
    """The tables. The outbox must have its own."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(_TABLES.encode())


def counts(url: str) -> tuple[int, int, int]:
    """Sales, effects of the workers, effects of the last service. Raises what psycopg raises."""
    with psycopg.connect(url, autocommit=True, connect_timeout=3) as connection:
        row = connection.execute(
            "SELECT (SELECT count(*) FROM sale), (SELECT count(*) FROM effect WHERE consumer = 'billing'), "
            "(SELECT count(*) FROM effect WHERE consumer = 'ledger')"
        ).fetchone()
    assert row is not None
    return int(row[0]), int(row[1]), int(row[2])


def truth(url: str) -> list[tuple[str, list[Any]]]:
    """Every table, as (name, rows), in pieces that fit on a line of a history."""
    found: list[tuple[str, list[Any]]] = []
    with psycopg.connect(url, autocommit=True) as connection:
        for name, statement in _READ.items():
            rows = connection.execute(statement.encode()).fetchall()
            found += [(name, rows[at : at + _CHUNK]) for at in range(0, len(rows), _CHUNK)]
    return found
