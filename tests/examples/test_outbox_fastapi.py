"""The order and its event are there together, or not at all, on SQLite and on PostgreSQL."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from examples.outbox_fastapi.app import make_app

from anybroker import MemoryBroker
from anybroker.testing import Recorder
from anybroker_contract.brokers import Broker, start_brokers
from anybroker_contract.brokers.ports import free_port

ROOT = Path(__file__).parents[2]
Run = Callable[[Coroutine[Any, Any, None]], None]


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of an empty database. PostgreSQL is required where it may be installed."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/shop.db"
        return
    found = start_brokers(["postgres"])["postgres"]
    if not isinstance(found, Broker):
        if os.environ.get("ANYBROKER_TEST_INSTALL"):
            pytest.fail(f"required, and not available: {found}", pytrace=False)
        pytest.skip(str(found))
    try:
        yield found.url
    finally:
        found.stop()


@asynccontextmanager
async def shop(database: str) -> AsyncIterator[tuple[httpx.AsyncClient, Recorder]]:
    app = make_app(database, MemoryBroker())
    seen = Recorder(app.state.bus, "orders")
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://shop") as client,
    ):
        yield client, seen


def order(number: int, customer: str = "c-1") -> dict[str, Any]:
    return {"id": f"o-{number}", "customer": customer, "cents": 100 + number}


def test_an_order_is_published_once_and_only_if_it_was_stored(database: str, run: Run) -> None:
    async def main() -> None:
        async with shop(database) as (client, seen):
            for number in range(3):
                assert (await client.post("/orders", json=order(number))).status_code == 201
            refused = await client.post("/orders", json=order(1, "c-2"))
            assert refused.status_code == 409
            assert "'o-1'" in refused.json()["detail"]
            assert (await client.post("/orders", json={**order(9), "cents": 0})).status_code == 422
            answers = await asyncio.gather(*(client.post("/orders", json=order(7, f"c-{n}")) for n in range(5)))
            assert sorted(answer.status_code for answer in answers) == [201, *4 * [409]]
            assert (await client.post("/orders", json=order(8))).status_code == 201
            events = await seen.wait(5)
            orders = [event.data["order"] for event in events if event.key == "c-1"]
            assert [each for each in orders if each != "o-7"] == ["o-0", "o-1", "o-2", "o-8"]
            assert [event.data["cents"] for event in events if event.data["order"] == "o-7"] == [107]
        async with shop(database) as (client, seen):  # nothing is left for the next start
            assert (await client.post("/orders", json=order(10))).status_code == 201
            assert [event.data["order"] for event in await seen.wait(1)] == ["o-10"]

    run(main())


def test_the_command_serves_it(tmp_path: Path) -> None:
    port = free_port()
    command = [sys.executable, "-W", "error", "-m", "examples.outbox_fastapi", "--port", str(port)]
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environ = {name: value for name, value in os.environ.items() if not name.startswith("ANYBROKER_")}
    with subprocess.Popen(
        command, cwd=tmp_path, env={**environ, "PYTHONPATH": paths}, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            transport = httpx.HTTPTransport(retries=8)  # connecting again, later each time, until it listens
            with httpx.Client(transport=transport, base_url=f"http://127.0.0.1:{port}") as client:
                assert client.post("/orders", json=order(1)).status_code == 201
            assert process.stdout is not None
            assert re.fullmatch(r"charging c-1 for o-1: 101 cents\n", process.stdout.readline())
            process.send_signal(signal.SIGINT)
            assert process.wait(20) in (0, -signal.SIGINT)
        finally:
            process.kill()
