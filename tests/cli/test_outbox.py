"""``anybroker outbox``."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from anybroker import Bus, Event, MemoryBroker
from anybroker.errors import Rejected
from anybroker.outbox import SqliteOutbox
from anybroker.testing import FaultyBroker, fail


@pytest.fixture
def outbox(folder: Path) -> str:
    """The URL of an outbox with one event that waits and two that were set aside."""
    url = f"sqlite:///{folder}/shop.db"

    async def main() -> None:
        broker = FaultyBroker(MemoryBroker(), fail("publish", Rejected("it is too large")))
        async with Bus(broker, source="shop", outbox=url) as bus:
            shop = sqlite3.connect(folder / "shop.db")
            with shop:
                for key in ("a", "b"):
                    await bus.publish("orders", {}, type="order.v1", id=f"o-{key}", key=key, within=shop)
            outbox = SqliteOutbox(folder / "shop.db")
            await outbox.open()
            async with asyncio.timeout(20):
                while (await outbox.waiting()).parked < 2:  # noqa: ASYNC110 - the table tells nobody
                    await asyncio.sleep(0.01)
            await outbox.close()
        async with Bus(MemoryBroker(), source="shop", outbox=url, consume=False, relay=False) as bus:
            with shop:
                await bus.publish("orders", {}, type="order.v1", id="o-c", within=shop)
        shop.close()

    asyncio.run(main())
    return url


def test_what_waits_and_what_was_set_aside_is_listed(anybroker: Any, outbox: str) -> None:
    ended = anybroker("outbox", "list", "--outbox", outbox)
    assert ended.code == 0
    assert re.match(r"1 waiting, the oldest for \d+ s; 2 set aside\n", ended.out)
    assert re.search(r"^1 +orders +a +o-a +order.v1 .*Rejected: it is too large", ended.out, re.MULTILINE)
    found = anybroker("outbox", "list", "--outbox", outbox, "--json", "--limit", "1").json
    assert found["waiting"] == 1
    assert found["age"] >= 0
    (parked,) = found["parked"]
    assert (parked["position"], parked["topic"], parked["key"], parked["id"]) == (1, "orders", "a", "o-a")


def test_one_is_put_back_and_the_other_dropped(anybroker: Any, outbox: str) -> None:
    assert anybroker("outbox", "retry", "2", "--outbox", outbox).out.startswith("1 put back")
    assert anybroker("outbox", "discard", "1", "--outbox", outbox).out == "1 discarded\n"
    assert anybroker("outbox", "list", "--outbox", outbox).out.startswith("2 waiting")
    assert anybroker("outbox", "retry", "2", "--outbox", outbox).code == 1, "it is not there any more"
    assert anybroker("outbox", "discard", "--all", "--outbox", outbox).code == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["list"], "none is set"),
        (["list", "--outbox", "sqlite:///missing.db"], "there is no file missing.db"),
        (["list", "--outbox", "oracle://host/db"], "no outbox for 'oracle'://"),
        (["retry", "--outbox", "sqlite:///shop.db"], "name positions, or --all"),
        (["discard", "1", "--all"], "name positions, or --all"),
        (["relay"], "none is set"),
    ],
)
def test_wrong_usage_is_2(anybroker: Any, outbox: str, arguments: list[str], said: str) -> None:
    ended = anybroker("outbox", *arguments)
    assert (ended.code, ended.out) == (2, "")
    assert said in ended.err


def test_a_file_without_the_tables_is_left_as_it_is(anybroker: Any, folder: Path) -> None:
    with closing(sqlite3.connect(folder / "other.db")) as other:
        other.execute("CREATE TABLE mine (n)")
    ended = anybroker("outbox", "list", "--outbox", "sqlite:///other.db")
    assert ended.code == 2
    assert "no table anybroker_outbox" in ended.err
    with closing(sqlite3.connect(folder / "other.db")) as other:
        assert other.execute("SELECT name FROM sqlite_master").fetchall() == [("mine",)]


def test_a_relay_of_its_own_brings_it_to_the_broker_and_ends_cleanly(outbox: str, folder: Path) -> None:
    command = [sys.executable, "-m", "anybroker.cli", "outbox", "relay", "--outbox", outbox]
    relaying = subprocess.Popen(
        [*command, "--url", f"sqlite:///{folder}/broker.db"], stderr=subprocess.PIPE, text=True, env=os.environ
    )
    try:

        async def main() -> list[str]:
            seen: list[str] = []
            came = asyncio.Event()
            bus = Bus(f"sqlite:///{folder}/broker.db", source="test")

            @bus.subscribe("orders", group="g", start="earliest")
            async def see(event: Event[Any]) -> None:
                seen.append(event.id)
                came.set()

            async with bus, asyncio.timeout(20):
                await came.wait()
            return seen

        assert asyncio.run(main()) == ["o-c"]
        relaying.send_signal(signal.SIGTERM)
        assert relaying.wait(20) == 0
    finally:
        relaying.kill()
        relaying.communicate()
