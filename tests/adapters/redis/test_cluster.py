"""A cluster of three primaries and one replica: each event's key is in one slot, and its slot may move."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.crc import key_slot
from redis.exceptions import RedisError

from anybroker.errors import ConfigError
from anybroker.idempotency import DONE, Busy, Claim, Key, StoreUnavailable
from anybroker_redis import RedisStore
from anybroker_redis.keys import Names

Run = Callable[[Coroutine[Any, Any, None]], None]
LEASE, RETAIN = 20.0, 3_600.0
SLOTS = 16_384
KEYS: list[Key] = [("billing", "charge", "shop", str(number)) for number in range(300)]


class Cluster:
    def __init__(self, servers: list[Any], clients: list[Redis]) -> None:
        self.servers = servers
        self.clients = clients
        self.url = f"redis://{','.join(f'127.0.0.1:{server.port}' for server in servers)}/0"

    async def settled(self, *clients: Redis) -> None:
        """Returns when these nodes say that every slot is served, and know all nodes."""
        async with asyncio.timeout(30):
            for client in clients or self.clients:
                while True:
                    info = await client.execute_command("CLUSTER INFO")
                    nodes = await client.execute_command("CLUSTER NODES")
                    if info["cluster_state"] == "ok" and len(nodes) == len(self.servers):
                        break
                    await asyncio.sleep(0.05)

    async def id(self, number: int) -> str:
        return (await self.clients[number].execute_command("CLUSTER MYID")).decode()  # type: ignore[no-any-return]

    async def move(self, slot: int, source: int, target: int) -> None:
        """Give a slot, with its keys, to another node, as ``redis-cli --cluster reshard`` does."""
        origin, goal = self.clients[source], self.clients[target]
        await goal.execute_command("CLUSTER SETSLOT", slot, "IMPORTING", await self.id(source))
        await origin.execute_command("CLUSTER SETSLOT", slot, "MIGRATING", await self.id(target))
        while keys := await origin.execute_command("CLUSTER GETKEYSINSLOT", slot, 100):
            port = self.servers[target].port
            await origin.execute_command("MIGRATE", "127.0.0.1", port, "", 0, 5_000, "KEYS", *keys)
        for client in (goal, origin):
            await client.execute_command("CLUSTER SETSLOT", slot, "NODE", await self.id(target))


@asynccontextmanager
async def running(run_server: Any) -> AsyncIterator[Cluster]:
    servers = [run_server("--cluster-enabled", "yes", "--cluster-node-timeout", "1000") for _ in range(4)]
    async with AsyncExitStack() as stack:
        clients = []
        for server in servers:
            await server.ready()
            clients.append(Redis.from_url(server.url))
            stack.push_async_callback(clients[-1].aclose)
        cluster = Cluster(servers, clients)
        for number, first in enumerate((0, SLOTS // 3, 2 * SLOTS // 3)):
            last = (SLOTS // 3, 2 * SLOTS // 3, SLOTS)[number] - 1
            await clients[number].execute_command("CLUSTER ADDSLOTSRANGE", first, last)
            await clients[number].execute_command("CLUSTER SET-CONFIG-EPOCH", number + 1)
        for server in servers[1:]:
            await clients[0].execute_command("CLUSTER MEET", "127.0.0.1", server.port)
        await cluster.settled()
        await clients[3].execute_command("CLUSTER REPLICATE", await cluster.id(0))
        async with asyncio.timeout(30):
            while True:
                if (await clients[3].info("replication")).get("master_link_status") == "up":
                    break
                await asyncio.sleep(0.05)
        yield cluster


async def claim_all(store: RedisStore) -> list[Claim | Busy | Any]:
    return await asyncio.gather(*(store.claim(key, "a", LEASE, RETAIN) for key in KEYS))


async def back(store: RedisStore) -> list[Claim | Busy | Any]:
    """Claims of all keys, as soon as every node has answered."""
    async with asyncio.timeout(30):
        while True:
            answers = await asyncio.gather(
                *(store.claim(key, "a", LEASE, RETAIN) for key in KEYS), return_exceptions=True
            )
            failures = [each for each in answers if isinstance(each, BaseException)]
            if not failures:
                return answers  # type: ignore[return-value]
            assert all(isinstance(each, StoreUnavailable) for each in failures), failures
            await asyncio.gather(*(store.release(each) for each in answers if isinstance(each, Claim)))
            await asyncio.sleep(0.05)


@pytest.mark.timeout(120)
def test_a_cluster_its_moving_slots_and_its_failover(
    run_server: Any, opened: Any, run: Run, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    """One test, because a cluster takes seconds to start."""
    caplog.set_level(logging.WARNING)

    async def main() -> None:
        async with running(run_server) as cluster:
            replica = cluster.url.rpartition(",")[2]  # it names the others
            async with opened(f"redis://{replica}") as store:
                await asyncio.gather(*map(store.release, await claim_all(store)))
            with pytest.raises(ConfigError, match="there is no such database"):
                await RedisStore(f"{cluster.url.removesuffix('/0')}/1").open()
            async with opened(cluster.url, timeout=3.0) as store, opened(cluster.servers[1].url) as other:
                await transitions(store, other, cluster)
                await moving_slots(store, other, cluster, prefix)
                await failover(store, cluster)

    run(main())


async def transitions(store: RedisStore, other: RedisStore, cluster: Cluster) -> None:
    claims = await claim_all(store)
    assert all(isinstance(each, Claim) for each in claims)
    sizes = [await client.dbsize() for client in cluster.clients[:3]]
    assert min(sizes) > 20, sizes
    assert all(isinstance(each, Busy) for each in await claim_all(other))
    assert await asyncio.gather(*map(store.done, claims[:100])) == [True] * 100
    await asyncio.gather(*map(store.release, claims[100:200]))
    assert await store.extend(claims[200:]) == [True] * 100
    answers = await claim_all(other)
    assert answers[:100] == [DONE] * 100
    for mine, theirs in zip(claims[100:200], answers[100:200], strict=True):
        assert isinstance(theirs, Claim)
        assert theirs.fence > mine.fence
    assert all(isinstance(each, Busy) for each in answers[200:])
    assert await store.extend(claims[100:200]) == [False] * 100
    await asyncio.gather(*map(other.release, answers[100:200]))
    await asyncio.gather(*map(store.release, claims[200:]))


async def moving_slots(store: RedisStore, other: RedisStore, cluster: Cluster, prefix: str) -> None:
    """All slots of the tags that the second node has go to the third, while claims are made."""
    slots = {key_slot(counter) for counter in Names(prefix).counters}
    claims = await claim_all(store)
    assert claims[:100] == [DONE] * 100

    failures: list[str] = []

    async def go_on() -> int:
        rounds = 0
        while not moved.done():
            ours = [claim for claim in claims[100:] if isinstance(claim, Claim)]
            try:
                assert await store.extend(ours) == [True] * 200
                rounds += 1
            except StoreUnavailable as exc:
                failures.append(str(exc))
        return rounds

    async def move() -> None:
        for slot in sorted(slots):
            if SLOTS // 3 <= slot < 2 * SLOTS // 3:
                await cluster.move(slot, 1, 2)
                await asyncio.sleep(0)

    moved = asyncio.ensure_future(move())
    rounds = await go_on()
    await moved
    assert rounds > 0
    assert all("the cluster is moving its slots" in failure for failure in failures)
    assert await store.extend(claims[100:]) == [True] * 200
    assert all(isinstance(each, Busy) for each in (await back(other))[100:])
    await asyncio.gather(*map(store.release, claims[100:]))
    assert (await back(other))[:100] == [DONE] * 100


async def failover(store: RedisStore, cluster: Cluster) -> None:
    """A primary dies, and its replica takes over with what it had."""
    async with asyncio.timeout(30):
        info = await cluster.clients[0].info("replication")
        while info["slave0"]["offset"] != info["master_repl_offset"]:
            await asyncio.sleep(0.05)
            info = await cluster.clients[0].info("replication")
    cluster.servers[0].kill()
    answers = await back(store)
    assert answers[:100] == [DONE] * 100
    with pytest.raises((RedisError, OSError)):
        await cluster.clients[0].ping()
