"""A real server, started once; each test has a schema of its own."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from anybroker_contract.brokers import Broker, start_brokers
from anybroker_postgres import PostgresStore

from .shop import Shop


class Server:
    """The server, and what tests do on it beside the store."""

    def __init__(self, broker: Broker, schema: str) -> None:
        self.broker = broker
        self.url = broker.url
        self.schema = schema

    def store(self, **options: Any) -> PostgresStore:
        """A store in the test's schema."""
        return PostgresStore(self.url, **{"schema": self.schema, **options})

    def sql(self, statement: str, parameters: Any = None) -> list[tuple[Any, ...]]:
        """Execute it in the test's schema. Returns its rows."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(f"SET search_path TO {self.schema}".encode())
            cursor = connection.execute(statement.encode(), parameters)
            return cursor.fetchall() if cursor.description else []

    def pass_(self, seconds: float) -> None:
        """For the rows, this time passes."""
        self.sql(
            "UPDATE anybroker_claim SET since = since - %(s)s::interval, until = until - %(s)s::interval, "
            "expires = expires - %(s)s::interval",
            {"s": f"{seconds} seconds"},
        )


@pytest.fixture(scope="session")
def broker() -> Iterator[Broker]:
    """PostgreSQL: by URL, a container, or this machine's. Required where it may be installed."""
    found = start_brokers(["postgres"])["postgres"]
    if not isinstance(found, Broker):
        if os.environ.get("ANYBROKER_TEST_INSTALL"):
            pytest.fail(f"required, and not available: {found}", pytrace=False)
        pytest.skip(str(found))
    try:
        yield found
    finally:
        found.stop()


@pytest.fixture
def server(broker: Broker) -> Iterator[Server]:
    """The server, with a schema for this test that the store creates."""
    this = Server(broker, f"test_{uuid4().hex[:12]}")
    yield this
    # What a test that failed has left open would keep the schema from going.
    this.sql(
        "SELECT pg_terminate_backend(pid) FROM pg_locks JOIN pg_class ON pg_class.oid = relation "
        "WHERE relnamespace = to_regnamespace(%s) AND pid <> pg_backend_pid()",
        (this.schema,),
    )
    this.sql(f"DROP SCHEMA IF EXISTS {this.schema} CASCADE")


@pytest.fixture
def shop(server: Server) -> Shop:
    """A service with one handler."""
    return Shop(server)


@pytest.fixture
def role(server: Server) -> Iterator[Callable[[], str]]:
    """Makes a role that has no rights but to connect: its name, which is its password as well."""
    made: list[str] = []

    def make() -> str:
        name = f"role_{uuid4().hex[:8]}"
        server.sql(f"CREATE ROLE {name} LOGIN PASSWORD '{name}'")
        made.append(name)
        return name

    yield make
    for name in made:
        server.sql(f"DROP OWNED BY {name} CASCADE")
        server.sql(f"DROP ROLE {name}")


@pytest.fixture
def unused_port() -> Iterator[int]:
    """A port on which nothing answers."""
    with socket.socket() as taken:  # bound, and not listening: refused
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]
