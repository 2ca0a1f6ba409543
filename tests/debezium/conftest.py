"""PostgreSQL with logical decoding, a new server for each test, and Debezium: only where they are asked for."""

from __future__ import annotations

import os
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import ExitStack
from typing import NoReturn

import psycopg
import pytest
from tests.debezium.documented import configuration, statements
from tests.debezium.programs import Connect, Embedded, Jars, find_jars

from anybroker_contract.brokers import postgres
from anybroker_contract.brokers.context import Context
from anybroker_contract.brokers.errors import Missing
from anybroker_contract.brokers.native import NativeBroker
from anybroker_postgres import PostgresOutbox

Run = Callable[[Coroutine[object, object, None]], None]


def _without(missing: Missing) -> NoReturn:
    text = f"Debezium cannot run: {missing.reason}; get it with: {missing.remedy}"
    if os.environ.get("ANYBROKER_TEST_INSTALL"):
        pytest.fail(f"required, and not available: {text}", pytrace=False)
    pytest.skip(text)


@pytest.fixture(scope="session", autouse=True)
def asked_for() -> None:
    """They take Java, 53 MB of Maven Central and a minute."""
    if not os.environ.get("ANYBROKER_TEST_DEBEZIUM"):
        pytest.skip("make debezium runs these: they take Java, 53 MB of Maven Central and a minute")


@pytest.fixture(scope="session")
def jars(asked_for: None) -> Jars:
    """Java with Debezium and Kafka Connect, downloaded by Maven once."""
    try:
        return find_jars(Context("debezium", environ=dict(os.environ)))
    except Missing as missing:
        _without(missing)


@pytest.fixture
def url(run: Run) -> Iterator[str]:
    """A new server, with the outbox's tables and what the documentation says to execute there."""
    context = Context("postgres", environ=dict(os.environ))
    try:
        install, detail = postgres.find(context, {"wal_level": "logical"})
    except Missing as missing:
        _without(missing)
    server = NativeBroker.launch(context, install, detail)
    try:
        run(_tables(server.url))
        with psycopg.connect(server.url, autocommit=True) as connection:
            for statement in statements():
                connection.execute(statement.encode())
        yield server.url
    finally:
        server.stop()


async def _tables(url: str) -> None:
    outbox = PostgresOutbox(url)
    await outbox.open()
    await outbox.close()


class Debezium:
    """Starts Debezium with the documented configuration; it ends after the test."""

    def __init__(self, jars: Jars, url: str, ends: ExitStack) -> None:
        self._jars = jars
        self._configuration = configuration(url)
        self._context = Context("debezium", environ=dict(os.environ))
        self._ends = ends

    def embedded(self, changes: Mapping[str, str] | None = None) -> Embedded:
        """Its embedded engine."""
        started = Embedded(self._jars, self._context, {**self._configuration, **(changes or {})})
        self._ends.callback(started.end)
        return started

    def connect(self, bootstrap: str) -> Connect:
        """Kafka Connect."""
        started = Connect(self._jars, self._context, self._configuration, bootstrap)
        self._ends.callback(started.end)
        return started


@pytest.fixture
def debezium(jars: Jars, url: str) -> Iterator[Debezium]:
    """How to start it."""
    with ExitStack() as ends:
        yield Debezium(jars, url, ends)
