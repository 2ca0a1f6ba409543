"""Which connections and sessions a handler may ask for: what it cannot have is an error when it is subscribed, or when
the Bus starts. No server is needed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from sqlalchemy.orm import Session

from anybroker import Bus, ConfigError, MemoryBroker
from anybroker.idempotency import MemoryStore, SqliteStore
from anybroker.middleware import idempotent
from anybroker_postgres import PostgresTransaction


class OwnConnection(psycopg.Connection[Any]):
    pass


class OwnSession(AsyncSession):
    pass


class OwnSqlalchemyConnection(sqlalchemy.Connection):
    pass


def asynchronous() -> Any:
    async def charge(number: int, given: Any) -> None: ...

    return charge


def plain() -> Any:
    def charge(number: int, given: Any) -> None: ...

    return charge


def subscribe(made: Any, kind: Any, store: Any = None) -> Bus:
    """Of what this function makes: layers are attached to the handler itself."""
    bus = Bus(MemoryBroker(), source="shop")
    function = made()
    function.__annotations__["given"] = kind
    bus.subscribe("orders", group="billing", name="charge")(idempotent(store)(function))
    return bus


def problem(function: Any, kind: Any) -> str:
    with pytest.raises(ConfigError) as error:
        subscribe(function, kind)
    text = str(error.value)
    assert text.startswith("handler charge, parameter 'given': ")
    return text


@pytest.mark.parametrize(
    ("kind", "other"),
    [
        (psycopg.Connection, "psycopg's AsyncConnection"),
        (psycopg.Connection[Any], "psycopg's AsyncConnection"),
        (Session, "sqlalchemy's AsyncSession"),
        (sqlalchemy.Connection, "sqlalchemy's AsyncConnection"),
    ],
)
def test_what_blocks_is_refused_on_the_event_loop(kind: Any, other: str) -> None:
    text = problem(asynchronous, kind)
    assert "would block the event loop, and the handler is 'async def'" in text
    assert f"Ask for {other}, or write a plain 'def' handler" in text
    subscribe(plain, kind)


@pytest.mark.parametrize(
    ("kind", "other"),
    [
        (psycopg.AsyncConnection, "psycopg's Connection"),
        (AsyncSession, "sqlalchemy's Session"),
        (OwnSession, "sqlalchemy's Session"),
        (AsyncConnection, "sqlalchemy's Connection"),
    ],
)
def test_what_is_awaited_is_refused_in_a_thread(kind: Any, other: str) -> None:
    text = problem(plain, kind)
    assert "has to be awaited, and the handler is a plain 'def'" in text
    assert f"Ask for {other}, or write an 'async def' handler" in text
    subscribe(asynchronous, kind)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (OwnConnection, "OwnConnection derives from psycopg's Connection. Ask for psycopg.Connection"),
        (OwnSqlalchemyConnection, "derives from SQLAlchemy's Connection. Ask for Connection."),
    ],
)
def test_a_connection_of_ones_own_is_refused(kind: Any, text: str) -> None:
    assert text in problem(plain, kind)


def test_without_greenlet_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("anybroker_postgres.lending.find_spec", lambda name: None)
    assert "AsyncSession needs the package 'greenlet'. Install it: pip install 'anybroker[sqlalchemy]'" in problem(
        asynchronous, AsyncSession
    )
    subscribe(plain, Session)


def test_one_parameter_is_enough() -> None:
    async def charge(number: int, transaction: PostgresTransaction, *, session: AsyncSession) -> None: ...

    with pytest.raises(ConfigError, match="'session': asks for the transaction a second time, beside 'transaction'"):
        Bus(MemoryBroker(), source="shop").subscribe("orders", group="billing")(idempotent()(charge))


@pytest.mark.parametrize(
    ("function", "kind"), [(asynchronous, AsyncSession), (asynchronous, OwnSession), (plain, Session)]
)
def test_on_sqlite_a_transaction_is_a_step(run: Any, tmp_path: Path, function: Any, kind: Any) -> None:
    bus = subscribe(function, kind, SqliteStore(tmp_path / "shop.db"))
    text = (
        f"parameter 'given': asks for the {kind.__name__} of a PostgresTransaction, and the handler's SqliteStore has "
        "a SqliteTransaction. Ask for 'transaction: SqliteTransaction' instead, or give"
    )
    with pytest.raises(ConfigError) as error:
        run(bus.start())
    assert text in str(error.value)


def test_a_store_without_transactions_says_so(run: Any) -> None:
    with pytest.raises(ConfigError, match=r"asks for the Session of a PostgresTransaction, .* MemoryStore has none"):
        run(subscribe(plain, Session, MemoryStore()).start())


def test_sqlalchemy_is_imported_only_where_it_is_asked_for() -> None:
    program = (
        "import sys; sys.modules['sqlalchemy'] = None; sys.modules['greenlet'] = None\n"
        "import anybroker_postgres as package\n"
        "store = package.PostgresStore('postgresql://nobody@127.0.0.1/nothing')\n"
        "print(store.transaction_type.__name__)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=50, check=True)
    assert done.stdout.strip() == "PostgresTransaction"
