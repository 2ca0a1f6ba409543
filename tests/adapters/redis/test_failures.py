"""A server that is down, slow, frozen, full, busy or a replica: calls end in time, say why, and work again by
themselves."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from time import monotonic
from typing import Any

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from anybroker import Bus, MemoryBroker
from anybroker.idempotency import DONE, Busy, Claim, Key, StoreUnavailable
from anybroker.middleware import idempotent
from anybroker_contract.brokers import Broker
from anybroker_redis import RedisStore, batches
from anybroker_redis.connecting import Link

Run = Callable[[Coroutine[Any, Any, None]], None]
LEASE, RETAIN = 20.0, 3_600.0
TIMEOUT = 0.5


def key(number: int) -> Key:
    return ("billing", "charge", "shop", str(number))


async def claimed(store: RedisStore, number: int, lease: float = LEASE) -> Claim:
    claim = await store.claim(key(number), "a", lease, RETAIN)
    assert isinstance(claim, Claim)
    return claim


async def all_fail(store: RedisStore, claim: Claim, text: str, *, within: float = 2 * TIMEOUT) -> None:
    """Each kind of call fails in time, and says why."""
    begun = monotonic()
    calls = (store.claim(key(999), "a", LEASE, RETAIN), store.done(claim), store.extend([claim]), store.release(claim))
    for result in await asyncio.gather(*calls, return_exceptions=True):
        assert isinstance(result, StoreUnavailable), result
        assert text in str(result)
    assert monotonic() - begun < within


async def back(store: RedisStore, number: int) -> Claim:
    """A claim, as soon as the store works again."""
    async with asyncio.timeout(15):
        while True:
            try:
                return await claimed(store, number)
            except StoreUnavailable:
                await asyncio.sleep(0.02)


def test_a_server_that_is_killed_and_started_again(own_server: Broker, opened: Any, run: Run) -> None:
    async def main() -> None:
        async with opened(own_server.url, timeout=TIMEOUT) as store:
            done, held = await claimed(store, 1), await claimed(store, 2)
            assert await store.done(done)
            own_server.kill()
            await all_fail(store, held, "onnect")
            own_server.start()
            third = await back(store, 3)
            assert third.fence > held.fence
            assert await store.claim(key(1), "b", LEASE, RETAIN) is DONE
            assert isinstance(await store.claim(key(2), "b", LEASE, RETAIN), Busy)
            assert await store.extend([held]) == [True]
            assert await store.done(held)

    run(main())


def test_a_frozen_server_and_the_claims_that_it_makes_when_it_goes_on(
    own_server: Broker, opened: Any, run: Run
) -> None:
    """Nobody knows of them by then: they are taken back, and not held for their lease."""

    async def main() -> None:
        async with opened(own_server.url, timeout=TIMEOUT) as store, opened(own_server.url) as other:
            held = await claimed(store, 1)
            own_server.freeze()
            lost = [asyncio.ensure_future(claimed(store, number)) for number in range(100, 150)]
            await asyncio.sleep(0)
            await all_fail(store, held, f"no answer in {TIMEOUT:g} s")
            assert all(
                isinstance(each, StoreUnavailable) for each in await asyncio.gather(*lost, return_exceptions=True)
            )
            await all_fail(
                store, held, f"no answer in {TIMEOUT:g} s"
            )  # on a new connection, which is not answered either
            own_server.thaw()
            await back(store, 3)
            for number in range(100, 150):
                await claimed(other, number)

    run(main())


def test_calls_that_wait_behind_a_frozen_server_end_in_time(own_server: Broker, opened: Any, run: Run) -> None:
    async def main() -> None:
        async with opened(own_server.url, timeout=TIMEOUT) as store:
            own_server.freeze()
            begun = monotonic()
            waiting = []
            for number in range(20):
                waiting.append(asyncio.ensure_future(claimed(store, number)))
                await asyncio.sleep(0.01)
            results = await asyncio.gather(*waiting, return_exceptions=True)
            assert all(isinstance(each, StoreUnavailable) for each in results)
            assert monotonic() - begun < 2 * TIMEOUT + 0.3
            begun = monotonic()
            last = asyncio.ensure_future(claimed(store, 20))
            await asyncio.sleep(0)
            await store.close()
            assert monotonic() - begun < 2 * TIMEOUT
            with pytest.raises(StoreUnavailable):
                await last
            own_server.thaw()
            await store.open()

    run(main())


def test_a_close_that_is_cancelled_leaves_nobody_waiting(own_server: Broker, opened: Any, run: Run) -> None:
    async def main() -> None:
        async with opened(own_server.url, timeout=30.0) as store:
            own_server.freeze()
            waiting = asyncio.ensure_future(claimed(store, 1))
            await asyncio.sleep(0.01)
            behind = asyncio.ensure_future(claimed(store, 2))
            await asyncio.sleep(0.01)
            closing = asyncio.ensure_future(store.close())
            await asyncio.sleep(0.01)
            closing.cancel()
            async with asyncio.timeout(5):
                for result in await asyncio.gather(waiting, behind, return_exceptions=True):
                    assert isinstance(result, StoreUnavailable)
                    assert "was closed" in str(result)
            own_server.thaw()
            await store.open()

    run(main())


def test_a_connection_that_was_closed_meanwhile_is_replaced_unnoticed(
    server: Broker, opened: Any, client: Any, run: Run
) -> None:
    async def main() -> None:
        async with opened(server.url) as store, client(server.url) as redis:
            first = await claimed(store, 1)
            for _ in range(3):
                await redis.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
                claims = await asyncio.gather(*(store.claim(key(n), "a", LEASE, RETAIN) for n in range(2, 5)))
                assert all(isinstance(claim, Claim) for claim in claims)
                await asyncio.gather(*map(store.release, claims))
            assert await store.done(first)

    run(main())


@pytest.mark.parametrize("times", [1, 2])
def test_an_answer_that_is_lost_is_had_by_asking_again(
    server: Broker, opened: Any, run: Run, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    """Lost twice, the claims are taken back before anything else."""
    lost = 0
    send = Link._send

    async def lossy(self: Link, commands: list[bytes]) -> Any:
        nonlocal lost
        answers = await send(self, commands)
        if lost < times:
            lost += 1
            await self.close()
            raise RedisConnectionError("the answer was lost")
        return answers

    async def main() -> None:
        async with opened(server.url) as store, opened(server.url) as other:
            held = await claimed(store, 1)
            monkeypatch.setattr(Link, "_send", lossy)
            calls = (store.claim(key(2), "a", LEASE, RETAIN), store.claim(key(2), "a", LEASE, RETAIN), store.done(held))
            first, second, done = await asyncio.gather(*calls, return_exceptions=True)
            if times == 1:
                assert isinstance(first, Claim)
                assert isinstance(second, Busy)
                assert done is True
                assert await store.extend([first]) == [True]
            else:
                assert all(isinstance(each, StoreUnavailable) for each in (first, second, done))
                assert await store.done(held) is True  # safe to repeat
                await claimed(other, 2)

    run(main())


def test_a_failure_within_a_batch_takes_no_claim_back_whose_owner_has_it(
    server: Broker, opened: Any, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls_of = batches.calls_of

    def spoiled(batch: Any, *rest: Any) -> Any:
        calls = [each for operation in batch for each in calls_of([operation], *rest)]
        (script, keys, arguments, _), operations = calls[1]
        calls[1] = (script, keys, arguments, int), operations  # it cannot read the answer
        return calls

    async def main() -> None:
        async with opened(server.url) as store, opened(server.url) as other:
            monkeypatch.setattr(batches, "calls_of", spoiled)
            first, second = await asyncio.gather(claimed(store, 1), claimed(store, 2), return_exceptions=True)
            monkeypatch.undo()
            assert isinstance(first, Claim)
            assert isinstance(second, StoreUnavailable)
            await store.release(await claimed(store, 3))  # what takes back goes with it
            assert isinstance(await other.claim(key(1), "b", LEASE, RETAIN), Busy)
            await claimed(other, 2)
            assert await store.done(first)

    run(main())


def test_a_server_that_becomes_a_replica(own_server: Broker, opened: Any, client: Any, run: Run) -> None:
    async def main() -> None:
        async with opened(own_server.url, timeout=TIMEOUT) as store, client(own_server.url) as redis:
            held = await claimed(store, 1)
            await redis.replicaof("127.0.0.1", 1)
            await all_fail(store, held, "the server is a read-only replica")
            await all_fail(store, held, "the server is a read-only replica")  # as a new connection sees it
            await redis.config_set("replica-serve-stale-data", "no")
            await all_fail(store, held, "replica")
            await redis.replicaof("NO", "ONE")
            await back(store, 2)
            assert await store.done(held)

    run(main())


def test_a_replica_that_has_lost_its_primary(own_server: Broker, opened: Any, client: Any, run: Run) -> None:
    async def main() -> None:
        async with opened(own_server.url, timeout=TIMEOUT) as store, client(own_server.url) as redis:
            held = await claimed(store, 1)
            await redis.config_set("replica-serve-stale-data", "no")
            await redis.replicaof("127.0.0.1", 1)
            await all_fail(store, held, "replica")
            await redis.replicaof("NO", "ONE")
            assert await store.done(held)

    run(main())


@pytest.mark.parametrize("primary", ["dies", "is made a replica"])
def test_a_replica_that_becomes_the_primary(
    own_server: Broker, run_server: Any, opened: Any, client: Any, run: Run, primary: str
) -> None:
    """It is one of the hosts of the URL, and has what the primary sent it."""

    async def main() -> None:
        port = own_server.url.rpartition(":")[2].partition("/")[0]
        replica = run_server("--replicaof", f"127.0.0.1 {port}")
        await replica.ready()
        async with (
            client(own_server.url) as first,
            client(replica.url) as second,
            opened(f"redis://127.0.0.1:{port},127.0.0.1:{replica.port}/0", timeout=TIMEOUT) as store,
        ):
            done, held = await claimed(store, 1), await claimed(store, 2)
            assert await store.done(done)
            async with asyncio.timeout(20):
                while not await first.wait(1, 100):
                    pass
            if primary == "dies":
                own_server.kill()
            else:
                await first.replicaof("127.0.0.1", 1)
            await all_fail(store, held, "replica")
            await second.replicaof("NO", "ONE")
            third = await back(store, 3)
            assert third.fence // 64 > held.fence // 64
            assert await store.claim(key(1), "b", LEASE, RETAIN) is DONE
            assert await store.done(held)

    run(main())


def test_full_memory_refuses_claims_and_takes_marks(own_server: Broker, opened: Any, client: Any, run: Run) -> None:
    async def main() -> None:
        async with opened(own_server.url) as store, client(own_server.url) as redis:
            one, two, three = [await claimed(store, number) for number in (1, 2, 3)]
            await redis.config_set("maxmemory", 1)
            with pytest.raises(StoreUnavailable, match=r"the server's memory is full \(maxmemory\)"):
                await claimed(store, 4)
            assert await store.extend([one, two, three]) == [True] * 3
            assert await store.done(one) is True
            await store.release(two)
            await redis.config_set("maxmemory", 0)
            assert await store.claim(key(1), "b", LEASE, RETAIN) is DONE
            await claimed(store, 2)
            await claimed(store, 4)

    run(main())


def test_a_server_that_is_busy_with_a_script(own_server: Broker, opened: Any, client: Any, run: Run) -> None:
    async def main() -> None:
        async with opened(own_server.url, timeout=5.0) as store, client(own_server.url) as redis:
            held = await claimed(store, 1)
            await redis.config_set("busy-reply-threshold", 20)
            async with client(own_server.url) as other:
                running = asyncio.ensure_future(other.eval("while true do end", 0))
                text = "the server is busy with somebody's script"
                async with asyncio.timeout(5):
                    while True:  # the script may begin after the first calls
                        try:
                            await store.extend([held])
                        except StoreUnavailable:
                            break
                await all_fail(store, held, text, within=4.0)
                await redis.execute_command("SCRIPT", "KILL")
                await asyncio.wait([running])
                assert running.exception() is not None
            await back(store, 2)
            assert await store.done(held)

    run(main())


def test_too_few_replicas(own_server: Broker, opened: Any, client: Any, run: Run) -> None:
    async def main() -> None:
        async with opened(own_server.url) as store, client(own_server.url) as redis:
            held = await claimed(store, 1)
            await redis.config_set("min-replicas-to-write", 1)
            await all_fail(store, held, "too few replicas follow it")
            await redis.config_set("min-replicas-to-write", 0)
            assert await store.done(held)

    run(main())


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"requirepass": "secret"}, "the server refused the user or the password"),
        ({"maxmemory-policy": "allkeys-lru"}, "evicts keys when its memory is full (maxmemory-policy allkeys-lru)"),
    ],
)
def test_what_is_checked_at_the_start_is_an_outage_later(
    own_server: Broker, opened: Any, client: Any, run: Run, settings: dict[str, str], text: str
) -> None:
    async def main() -> None:
        async with opened(own_server.url) as store, client(own_server.url) as redis:
            held = await claimed(store, 1)
            before = {name: (await redis.config_get(name))[name] for name in settings}
            for name, value in settings.items():
                await redis.config_set(name, value)
            await redis.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            await all_fail(store, held, text)
            for name, value in before.items():
                await redis.config_set(name, value)
            await back(store, 2)
            assert await store.done(held)

    run(main())


def test_a_policy_that_is_changed_is_noticed_within_a_minute(
    own_server: Broker, opened: Any, client: Any, run: Run
) -> None:
    """A Bus purges its store once a minute."""

    async def main() -> None:
        async with opened(own_server.url) as store, client(own_server.url) as redis:
            held = await claimed(store, 1)
            assert await store.purge() == 0
            await redis.config_set("maxmemory-policy", "volatile-lru")
            with pytest.raises(StoreUnavailable, match="evicts keys"):
                await store.purge()
            await all_fail(store, held, "evicts keys when its memory is full (maxmemory-policy volatile-lru)")
            await redis.config_set("maxmemory-policy", "noeviction")
            assert await store.done(held)
            assert await store.purge() == 0

    run(main())


def test_a_server_that_lost_its_data_gives_higher_fences(
    own_server: Broker, opened: Any, client: Any, run: Run
) -> None:
    async def main() -> None:
        async with opened(own_server.url) as store, client(own_server.url) as redis:
            lost = [await claimed(store, number) for number in range(20)]
            await redis.flushall()
            again = [await claimed(store, number) for number in range(20)]
            assert all(new.fence > old.fence for new, old in zip(again, lost, strict=True))
            assert [await store.done(claim) for claim in lost] == [False] * 20

    run(main())


def test_under_a_bus_nothing_is_acknowledged_while_the_store_is_down(
    own_server: Broker, prefix: str, run: Run, until: Any
) -> None:
    seen: list[int] = []

    async def main() -> None:
        store = RedisStore(own_server.url, prefix=prefix, timeout=TIMEOUT)
        bus = Bus(MemoryBroker(), source="shop", idempotency=store)

        @bus.subscribe("orders", group="billing")
        @idempotent()
        async def charge(number: int) -> None:
            seen.append(number)

        async with bus:
            await bus.publish("orders", 1, type="com.example.placed")
            await until(lambda: seen == [1])
            own_server.kill()
            await bus.publish("orders", 2, type="com.example.placed")
            await until(lambda: any("the idempotency store" in problem for problem in bus.problems.values()))
            assert seen == [1]
            own_server.start()
            await until(lambda: seen == [1, 2])
            await until(lambda: not bus.problems)

    run(main())
