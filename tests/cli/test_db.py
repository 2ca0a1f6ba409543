"""``anybroker db``: the tables of a database, on SQLite."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from anybroker.errors import ConfigError
from anybroker.idempotency import SqliteStore
from anybroker.kit.tables import Database, Migrated
from anybroker.outbox import SqliteOutbox
from anybroker.outbox.sqlite_database import PARTS, SqliteDatabase

URL = "sqlite:///shop.db"


def run(statement: str, path: str = "shop.db") -> list[Any]:
    with closing(sqlite3.connect(path)) as file:
        found = file.execute(statement).fetchall()
        file.commit()
        return found


def objects() -> list[Any]:
    return run("SELECT type, name, sql FROM sqlite_master ORDER BY name")


def test_the_statements_of_sqlite_make_what_the_outbox_needs(anybroker: Any, folder: Path) -> None:
    shop = sqlite3.connect(folder / "new.db")
    shop.executescript(anybroker("db", "sql", "sqlite").out)
    shop.close()
    assert anybroker("outbox", "list", "--outbox", "sqlite:///new.db").out == "0 waiting; 0 set aside\n"
    assert anybroker("db", "check", "sqlite:///new.db", "--part", "outbox").code == 0


@pytest.mark.parametrize("arguments", [["oracle"], ["sqlite", "--schema", "x"], []])
def test_wrong_usage_of_db_sql_is_2(anybroker: Any, arguments: list[str]) -> None:
    assert anybroker("db", "sql", *arguments).code == 2


def test_a_new_file_is_made_and_fits_and_is_left_alone_the_next_time(anybroker: Any, folder: Path) -> None:
    made = anybroker("db", "migrate", URL)
    assert (made.code, made.out) == (0, "store: made, version 1\noutbox: made, version 1\n")
    before = objects()
    again = anybroker("db", "migrate", URL)
    assert (again.code, again.out) == (0, "store: nothing to do, version 1\noutbox: nothing to do, version 1\n")
    checked = anybroker("db", "check", URL)
    assert (checked.code, checked.out) == (0, "store: version 1, as needed\noutbox: version 1, as needed\n")
    assert objects() == before

    async def main() -> None:
        for made in (SqliteStore("shop.db"), SqliteOutbox("shop.db", create=False)):
            await made.open()
            await made.close()

    asyncio.run(main())
    assert objects() == before


def test_what_the_outbox_and_the_store_have_made_themselves_fits(anybroker: Any, folder: Path) -> None:
    async def main() -> None:
        for made in (SqliteStore("shop.db"), SqliteOutbox("shop.db")):
            await made.open()
            await made.close()

    asyncio.run(main())
    assert anybroker("db", "check", URL).code == 0


def test_a_check_says_what_is_missing_and_changes_nothing(anybroker: Any, folder: Path) -> None:
    anybroker("db", "migrate", URL, "--part", "outbox")
    run("DROP TABLE anybroker_outbox_parked")
    run("DROP INDEX anybroker_outbox_due")
    before = objects()
    found = anybroker("db", "check", URL, "--json")
    assert found.code == 1
    assert found.json["fits"] is False
    store, outbox = found.json["parts"]
    assert (store["found"], store["needed"], store["fits"]) == (None, 1, False)
    assert "table anybroker_claim" in store["missing"]
    assert outbox["missing"] == ["table anybroker_outbox_parked", "index anybroker_outbox_due"]
    assert outbox["remedy"] == "anybroker db migrate"
    text = anybroker("db", "check", URL, "--part", "outbox")
    assert text.code == 1
    assert text.out == (
        "outbox: version 1, as needed; missing: table anybroker_outbox_parked, index anybroker_outbox_due\n"
        "outbox: to do: anybroker db migrate\n"
    )
    assert objects() == before
    repaired = anybroker("db", "migrate", URL, "--part", "outbox")
    assert "made what was missing: table anybroker_outbox_parked, index anybroker_outbox_due" in repaired.out
    assert anybroker("db", "check", URL, "--part", "outbox").code == 0


def test_a_newer_version_is_refused_with_the_remedy(anybroker: Any, folder: Path) -> None:
    anybroker("db", "migrate", URL)
    run("UPDATE anybroker_schema SET version = 9")
    run("DROP INDEX anybroker_claim_expires")
    checked = anybroker("db", "check", URL, "--part", "outbox")
    assert checked.code == 1
    assert "version 9, and 1 is needed" in checked.out
    assert "update anybroker here" in checked.out
    before = objects()
    refused = anybroker("db", "migrate", URL)
    assert (refused.code, refused.out) == (2, "")
    assert "version 9" in refused.err
    assert "Update anybroker here" in refused.err
    assert objects() == before, "nothing of the store's either"


def test_a_table_that_was_changed_by_hand_is_left_as_it_is(anybroker: Any, folder: Path) -> None:
    anybroker("db", "migrate", URL)
    run("ALTER TABLE anybroker_outbox DROP COLUMN headers")
    run("DROP TABLE anybroker_outbox_parked")
    before = objects()
    assert "column anybroker_outbox.headers" in anybroker("db", "check", URL).out
    refused = anybroker("db", "migrate", URL)
    assert refused.code == 2
    assert "column anybroker_outbox.headers cannot be made" in refused.err
    assert objects() == before


OLD = replace(
    PARTS["outbox"],
    version=3,
    script=PARTS["outbox"].script.replace(
        "    headers TEXT,\n", "    headers TEXT,\n    tenant TEXT,\n    note TEXT,\n", 1
    ),
    steps={
        1: ("ALTER TABLE anybroker_outbox ADD COLUMN tenant TEXT", "UPDATE anybroker_outbox SET tenant = 'old'"),
        2: ("ALTER TABLE anybroker_outbox ADD COLUMN note TEXT",),
    },
)
"""A release to come, whose outbox has two columns more, in two steps."""
ROW = "INSERT INTO anybroker_outbox (id, aggregatetype, type, payload, shard) VALUES ('1', 'orders', 't', '{}', 0)"


def migrated(database: Database, parts: Sequence[str] = ("outbox",)) -> Sequence[Migrated]:
    return asyncio.run(database.migrate(parts))


def test_an_older_version_is_brought_to_the_current_one_step_by_step(anybroker: Any, folder: Path) -> None:
    anybroker("db", "migrate", URL)
    run(ROW)
    database = SqliteDatabase(Path("shop.db"), {**PARTS, "outbox": OLD})
    (state,) = asyncio.run(database.check(["outbox"]))
    assert (state.found, state.needed, state.missing) == (
        1,
        3,
        ("column anybroker_outbox.tenant", "column anybroker_outbox.note"),
    )
    assert state.remedy == "anybroker db migrate"
    (done,) = migrated(database)
    assert (done.before, done.after, done.said) == (1, 3, "brought from version 1 to 3")
    assert run("SELECT id, tenant, note FROM anybroker_outbox") == [("1", "old", None)]
    assert run("SELECT version FROM anybroker_schema WHERE part = 'outbox'") == [(3,)]
    assert [each.said for each in migrated(database)] == ["nothing to do, version 3"]
    with pytest.raises(ConfigError, match="version 3, and this release of anybroker knows 1"):
        migrated(SqliteDatabase(Path("shop.db")))


def test_a_step_that_fails_leaves_everything_as_it_was(anybroker: Any, folder: Path) -> None:
    anybroker("db", "migrate", URL)
    before = objects()
    broken = replace(OLD, steps={1: OLD.steps[1], 2: ("ALTER TABLE nowhere ADD COLUMN note TEXT",)})
    with pytest.raises(Exception, match="nowhere"):
        migrated(SqliteDatabase(Path("shop.db"), {**PARTS, "outbox": broken}))
    with pytest.raises(ConfigError, match="nothing leads from version 2 to 3"):
        migrated(SqliteDatabase(Path("shop.db"), {**PARTS, "outbox": replace(OLD, steps={1: OLD.steps[1]})}))
    assert objects() == before
    assert run("SELECT version FROM anybroker_schema WHERE part = 'outbox'") == [(1,)]


def test_of_several_at_once_one_does_it(anybroker: Any, folder: Path) -> None:
    anybroker("db", "migrate", URL)
    database = SqliteDatabase(Path("shop.db"), {**PARTS, "outbox": OLD})
    said: list[str] = []
    together = threading.Barrier(4)

    def work() -> None:
        together.wait()
        said.extend(each.said for each in migrated(database))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(said) == ["brought from version 1 to 3", *["nothing to do, version 3"] * 3]


@pytest.mark.parametrize("command", ["check", "migrate"])
@pytest.mark.parametrize(
    ("url", "said"),
    [
        ([], "none is given"),
        (["no-url"], "URL"),
        (["oracle://host/db"], "no database with tables of ours for 'oracle'://"),
        (["sqlite://"], "names no file"),
        (["sqlite:///shop.db?schema=x"], "there is no such option"),
        (["sqlite:///missing/shop.db"], "there is no folder missing"),
        (["sqlite:///text.db"], "text.db"),
        ([URL, "--part", "queue"], "invalid choice"),
    ],
)
def test_wrong_usage_is_2(anybroker: Any, folder: Path, command: str, url: list[str], said: str) -> None:
    (folder / "text.db").write_text("this is a text, and no database at all " * 100)
    ended = anybroker("db", command, *url)
    assert (ended.code, ended.out) == (2, "")
    assert said in ended.err


def test_the_url_of_the_outbox_is_the_default(anybroker: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert anybroker("db", "check", URL).code == 2, "there is no file, and none is made"
    assert not (folder / "shop.db").exists()
    monkeypatch.setenv("ANYBROKER_OUTBOX", URL)
    assert anybroker("db", "migrate", "--json").json["parts"][1]["after"] == 1
    assert anybroker("db", "check").code == 0


def test_a_file_that_somebody_writes_is_waited_for_and_then_left(
    anybroker: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("anybroker.outbox.sqlite_database._BUSY", 0.05)
    anybroker("db", "migrate", URL)
    with closing(sqlite3.connect("shop.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        ended = anybroker("db", "migrate", URL)
    assert ended.code == 1
    assert "locked" in ended.err
    assert "nothing was changed" in ended.err
