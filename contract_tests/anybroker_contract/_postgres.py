"""What the harnesses do to a PostgreSQL server. Its client is imported when it is needed."""

from __future__ import annotations

import time
from importlib import import_module
from typing import Any

__all__ = ["run", "set_read_only"]


def run(url: str, statement: str) -> list[tuple[Any, ...]]:
    """Execute one statement, committed, on a connection of its own: its rows, if any. Blocks."""
    with import_module("psycopg").connect(url, autocommit=True, connect_timeout=10) as connection:
        cursor = connection.execute(statement)
        return [] if cursor.description is None else cursor.fetchall()


def set_read_only(url: str, value: str) -> None:
    """Whether new transactions, also of the sessions that are open, may only read (``on``): what a standby says
    (25006). Returns when the server does so. Blocks."""
    run(url, f"ALTER SYSTEM SET default_transaction_read_only = {value}")
    run(url, "SELECT pg_reload_conf()")
    end = time.monotonic() + 10.0
    while run(url, "SHOW default_transaction_read_only") != [(value,)]:
        if time.monotonic() > end:
            raise TimeoutError(f"the server does not set default_transaction_read_only to {value}")
        time.sleep(0.01)
