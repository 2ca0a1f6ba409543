"""Three servers that are one cluster: what happens to publishing, and to a start, when some of them die."""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from typing import Any

import nats
import pytest
from nats.errors import Error

from anybroker import Bus
from anybroker.errors import BrokerError
from anybroker_contract.brokers import Cluster, start_cluster

Run = Callable[[Coroutine[Any, Any, Any]], Any]
Ask = Callable[[str], Coroutine[Any, Any, dict[str, Any]]]
TOPIC = "orders"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Required where tests may install what is missing, as in CI."""
    found = start_cluster("nats", 3)
    if not isinstance(found, Cluster):
        if os.environ.get("ANYBROKER_TEST_INSTALL") == "1":
            pytest.fail(f"{found.reason}: {found.remedy}")
        pytest.skip(f"{found.reason} ({found.remedy})")
    try:
        yield found
    finally:
        found.stop()


def a_bus(cluster: Cluster, **settings: Any) -> Bus:
    return Bus(f"{cluster.url}?replicas=3", source="shop", topics={TOPIC: {"groups": ["g"]}}, **settings)


async def kill(cluster: Cluster, *numbers: int) -> None:
    for each in numbers:
        await asyncio.to_thread(cluster.nodes[each].kill)


async def begin(cluster: Cluster, which: int) -> None:
    """Start this server; return when it takes connections, whatever it answers."""
    node = cluster.nodes[which]
    node.begin()
    host, _, port = node.url.removeprefix("nats://").partition(":")
    async with asyncio.timeout(20):
        while True:
            try:
                _, writer = await asyncio.open_connection(host, int(port))
            except OSError:
                await asyncio.sleep(0.02)
            else:
                writer.close()
                return


@asynccontextmanager
async def asking(cluster: Cluster) -> AsyncIterator[Ask]:
    """A client that is not ours. Gives a function that asks JetStream, and returns nothing where it does not answer."""

    async def failed(_: Exception) -> None:
        """It goes to the next server."""

    client = await nats.connect(
        [node.url for node in cluster.nodes],
        error_cb=failed,
        reconnect_time_wait=0.05,
        max_reconnect_attempts=-1,
    )

    async def ask(operation: str) -> dict[str, Any]:
        try:
            return dict(json.loads((await client.request(f"$JS.API.{operation}", b"", timeout=0.5)).data))
        except Error:
            return {}

    try:
        yield ask
    finally:
        await client.close()


async def leader(ask: Ask, but: str = "") -> str:
    """The server that leads the topic's stream, as soon as one other than ``but`` does."""
    async with asyncio.timeout(20):
        while True:
            found = str(((await ask(f"STREAM.INFO.{TOPIC}")).get("cluster") or {}).get("leader") or "")
            if found and found != but:
                return found
            await asyncio.sleep(0.02)


def number(server: str) -> int:
    """``anybroker-1`` is the first."""
    return int(server[-1]) - 1


async def _refusal(bus: Bus) -> str:
    """What publishing fails with; where the server of our own connection was killed, on the next one."""
    for _ in range(3):
        try:
            await bus.publish(TOPIC, {}, type="com.example.placed")
        except BrokerError as exc:
            if "connection to NATS was lost" not in str(exc):
                return str(exc)
    return "nothing failed"


def test_with_one_of_three_servers_publishing_says_so_and_a_start_waits(run: Run, cluster: Cluster) -> None:
    """First the server that is left still leads the stream, and answers everything but a publish. Then it is one that
    finds no leader, and answers nothing at first: a Bus that starts now does not give up before ``connect_timeout``,
    and has started when the others are back."""

    async def check() -> None:
        second = a_bus(cluster, connect_timeout=40.0)
        async with a_bus(cluster, publish_deadline=9.0) as bus, asking(cluster) as ask:
            led = number(await leader(ask))
            one, other = (led + 1) % 3, (led + 2) % 3
            await kill(cluster, one, other)
            alone = await _refusal(bus)
            await begin(cluster, one)
            await kill(cluster, led)
            leaderless = await _refusal(bus)
            starting = asyncio.create_task(second.start())
            ended, _ = await asyncio.wait({starting}, timeout=1.0)
            await asyncio.to_thread(cluster.start, led, other)
            await starting
            await second.publish(TOPIC, {}, type="com.example.placed")
            await second.close()
        assert "1 of 3 servers with its stream are up, too few to store it" in alone
        # For ten seconds a server answers nothing; then it says "no leader: 1 of 3 servers with it are up".
        assert re.search(r"does (it|JetStream) have a leader\?|1 of 3 servers", leaderless), leaderless
        assert not ended, "without a leader nothing can be asked for"
        for said in (alone, leaderless):
            assert "permission" not in said
            assert "may this user" not in said

    run(check())


async def _publish_on(bus: Bus, confirmed: asyncio.Queue[float]) -> None:
    """One event after the other; the moments of those that were confirmed."""
    loop = asyncio.get_running_loop()
    while True:
        try:
            await bus.publish(TOPIC, {}, type="com.example.placed")
        except BrokerError:
            continue
        confirmed.put_nowait(loop.time())


def test_publishing_resumes_within_a_second_and_a_half_of_a_new_leader(run: Run, cluster: Cluster) -> None:
    """Events without a receipt when the stream's leader dies do not hold up those that come after them."""

    async def check() -> None:
        confirmed: asyncio.Queue[float] = asyncio.Queue()
        async with a_bus(cluster) as bus, asking(cluster) as ask:
            ours = bus.adapter.native._server_info["server_name"]  # the connection lives on: what dies is the leader
            old = await leader(ask)
            while old == ours:
                await ask(f"STREAM.LEADER.STEPDOWN.{TOPIC}")
                old = await leader(ask)
            publishing = [asyncio.create_task(_publish_on(bus, confirmed)) for _ in range(8)]
            async with asyncio.timeout(20):
                for _ in range(100):
                    await confirmed.get()
            await kill(cluster, number(old))
            await leader(ask, but=old)
            there = asyncio.get_running_loop().time()
            async with asyncio.timeout(10):
                while (resumed := await confirmed.get()) < there:
                    pass
            for task in publishing:
                task.cancel()
            await asyncio.wait(publishing)
        await asyncio.to_thread(cluster.start, number(old))
        assert resumed - there <= 1.5

    run(check())
