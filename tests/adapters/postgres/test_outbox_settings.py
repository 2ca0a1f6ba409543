"""Settings of the outbox that are wrong: the error names the outbox's, and nothing is ignored."""

from __future__ import annotations

import pytest
from sqlalchemy import create_engine
from sqlalchemy.orm import Session

from anybroker.errors import ConfigError
from anybroker.outbox.choosing import make_outbox
from anybroker_postgres import PostgresOutbox


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("postgresql://h/d?retain=5", "outbox option 'retain': there is no such option"),
        ("postgresql://h/d?pool=5", "outbox option 'pool': there is no such option"),
        ("postgresql://h/d?shema=x", "Did you mean 'schema'? The outbox's own are schema, timeout;"),
        ("postgresql://h/d?timeout=soon", "outbox option 'timeout': 'soon' is not a number"),
        ("postgresql://h/d?timeout=601", "PostgresOutbox(timeout=): 601.0 is not a number of seconds"),
        ("postgresql://h/d?schema=", "PostgresOutbox(schema=): '' is not the name of a schema"),
    ],
)
def test_a_url(url: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make_outbox(url)
    assert said in str(caught.value)


def test_a_conninfo_that_cannot_be_read() -> None:
    with pytest.raises(ConfigError, match=r"PostgresOutbox\(conninfo\).*The outbox's own \(timeout, schema\)"):
        PostgresOutbox("postgresql://h:secret/d")


def test_a_session_of_another_database_is_not_taken() -> None:
    """Beside an SqliteOutbox the first sink that takes it would get it."""
    outbox = PostgresOutbox("postgresql://h/d")
    assert outbox.takes(Session(create_engine("postgresql+psycopg://h/d")))
    assert outbox.takes(Session()), "it is bound to several, or to none"
    assert not outbox.takes(Session(create_engine("sqlite://")))
