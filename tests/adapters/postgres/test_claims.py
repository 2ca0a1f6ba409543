"""Claiming, extending, marking and releasing, on a real server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import psycopg
import pytest

from anybroker.idempotency import DONE, Busy, Claim, Key, StoreUnavailable
from anybroker_postgres import PostgresStore

Run = Callable[[Coroutine[Any, Any, None]], None]
KEY: Key = ("billing", "charge", "shop", "1")
LEASE, RETAIN = 20.0, 3_600.0


@asynccontextmanager
async def opened(*stores: PostgresStore) -> AsyncIterator[None]:
    for store in stores:
        await store.open()
    try:
        yield
    finally:
        for store in stores:
            await store.close()


async def claimed(store: PostgresStore, key: Key = KEY, owner: str = "a", lease: float = LEASE) -> Claim:
    claim = await store.claim(key, owner, lease, RETAIN)
    assert isinstance(claim, Claim)
    return claim


async def busy(store: PostgresStore, key: Key = KEY, owner: str = "b") -> Busy:
    there = await store.claim(key, owner, LEASE, RETAIN)
    assert isinstance(there, Busy)
    return there


def test_what_is_done_stays_done(server: Any, run: Run) -> None:
    async def main() -> None:
        async with opened(store := server.store()):
            claim = await claimed(store)
            assert await store.done(claim) is True
            assert await store.done(claim) is True
            assert await store.claim(KEY, "a", LEASE, RETAIN) is DONE
            await store.release(claim)
            assert await store.claim(KEY, "b", LEASE, RETAIN) is DONE
            assert await store.extend([claim]) == [False]
        async with opened(store):
            assert await store.claim(KEY, "b", LEASE, RETAIN) is DONE

    run(main())


def test_a_live_claim_keeps_others_out_and_its_own_owner_too(server: Any, run: Run) -> None:
    async def main() -> None:
        async with opened(store := server.store(), other := server.store()):
            await claimed(store)
            server.pass_(3.0)
            for each in (store, other):
                for owner in ("a", "b"):
                    there = await busy(each, owner=owner)
                    assert 3.0 <= there.age < 5.0
                    assert 15.0 < there.left <= 17.0

    run(main())


def test_what_is_released_can_be_had_at_once_with_a_higher_fence(server: Any, run: Run) -> None:
    async def main() -> None:
        async with opened(store := server.store()):
            first = await claimed(store)
            await store.release(first)
            assert await store.done(first) is False
            second = await claimed(store, owner="b")
            assert second.fence > first.fence
            await store.release(first)  # late: it is not the first owner's any more
            await busy(store)

    run(main())


def test_a_lease_that_ran_out_is_taken_over_and_fenced(server: Any, run: Run) -> None:
    async def main() -> None:
        async with opened(store := server.store(), other := server.store()):
            late = await claimed(store)
            server.pass_(LEASE)
            second = await claimed(other, owner="b")
            assert second.fence > late.fence
            assert await store.extend([late, second]) == [False, True]
            assert await store.done(late) is False
            await store.release(late)
            await busy(store)
            assert await other.done(second) is True
            assert await store.done(late) is False
            assert await store.claim(KEY, "a", LEASE, RETAIN) is DONE

    run(main())


def test_the_same_number_of_another_owner_is_not_ours(server: Any, run: Run) -> None:
    """After a fail-over to a standby that lacked the last numbers, two claims may have the same."""

    async def main() -> None:
        async with opened(store := server.store()):
            claim = await claimed(store)
            server.sql("UPDATE anybroker_claim SET owner = 'b'")
            assert await store.done(claim) is False
            assert await store.extend([claim]) == [False]
            await store.release(claim)
            await busy(store)

    run(main())


def test_a_late_owner_marks_what_nobody_took_over(server: Any, run: Run) -> None:
    async def main() -> None:
        async with opened(store := server.store()):
            late = await claimed(store)
            server.pass_(10 * LEASE)
            assert await store.purge() == 0
            assert await store.done(late) is True
            assert await store.claim(KEY, "b", LEASE, RETAIN) is DONE

    run(main())


def test_extending_lets_each_claim_last_its_own_lease(server: Any, run: Run) -> None:
    async def main() -> None:
        async with opened(store := server.store()):
            short = await claimed(store, lease=30.0)
            long = await claimed(store, ("billing", "charge", "shop", "2"), lease=300.0)
            server.pass_(25.0)
            before = long.until
            assert await store.extend([short, long]) == [True, True]
            assert long.until >= before
            server.pass_(10.0)
            assert 15.0 < (await busy(store)).left <= 20.0
            assert 285.0 < (await busy(store, long.key)).left <= 290.0
            server.pass_(20.0)
            await claimed(store, owner="b")
            assert await store.extend([]) == []

    run(main())


@pytest.mark.parametrize("part", range(4))
@pytest.mark.parametrize("more", ["é\n|", "\0", "\\\"'{}%s,NULL", "𝄞" * 32])
def test_each_part_of_the_key_counts_whatever_is_in_it(server: Any, run: Run, part: int, more: str) -> None:
    async def main() -> None:
        async with opened(store := server.store()):
            await claimed(store)
            other = list(KEY)
            other[part] += more
            first = await claimed(store, tuple(other))  # type: ignore[arg-type] # still four strings
            assert await store.done(first)
            assert await store.claim(first.key, "b", LEASE, RETAIN) is DONE
            await busy(store)
            shown = server.sql("SELECT consumer_group, handler, source, id FROM anybroker_claim WHERE done")
            assert shown == [tuple(text.replace("\0", "␀") for text in other)]

    run(main())


def test_a_key_that_no_encoding_has_fails_alone(server: Any, run: Run) -> None:
    """Not as an outage: this event would come again for ever, and every batch with it would fail."""

    async def main() -> None:
        async with opened(store := server.store()):
            wrong, right = await asyncio.gather(
                store.claim(("g", "h", "s", "\ud800"), "a", LEASE, RETAIN),
                store.claim(KEY, "a", LEASE, RETAIN),
                return_exceptions=True,
            )
            assert isinstance(wrong, UnicodeEncodeError)
            assert isinstance(right, Claim)

    run(main())


@pytest.mark.parametrize(
    ("owner", "lease", "retain"), [("\ud800\0", LEASE, RETAIN), ("a", 1e300, RETAIN), ("a", 9.0, 1e300)]
)
def test_what_no_column_holds_fails_no_batch(server: Any, run: Run, owner: str, lease: float, retain: float) -> None:
    async def main() -> None:
        async with opened(store := server.store()):
            odd, _ = await asyncio.gather(
                store.claim(("g", "h", "s", "odd"), owner, lease, retain), store.claim(KEY, "a", LEASE, RETAIN)
            )
            assert isinstance(odd, Claim)
            assert await store.extend([odd]) == [True]
            assert await store.done(odd) is True

    run(main())


def test_copies_at_the_same_moment_are_claimed_once(server: Any, run: Run) -> None:
    async def main() -> None:
        async with opened(*(stores := [server.store() for _ in range(3)])):
            keys = [("g", "h", "s", str(n)) for n in range(200)]
            results = await asyncio.gather(
                *(store.claim(key, owner, LEASE, RETAIN) for store in stores for owner in ("a", "b") for key in keys)
            )
            claims = [result for result in results if isinstance(result, Claim)]
            assert sorted(claim.key for claim in claims) == sorted(keys)
            assert len({claim.fence for claim in claims}) == 200
            assert sum(isinstance(result, Busy) for result in results) == 1000
            assert await asyncio.gather(*(stores[0].done(claim) for claim in claims)) == [True] * 200

    run(main())


def test_a_second_copy_in_one_batch_is_busy_and_one_of_what_is_done_is_done(server: Any, run: Run) -> None:
    async def main() -> None:
        async with opened(store := server.store()):
            first, second = await asyncio.gather(*(store.claim(KEY, "a", 7.0, RETAIN) for _ in range(2)))
            assert isinstance(first, Claim)
            assert isinstance(second, Busy)
            assert (second.age, second.left) == (0.0, 7.0)
            await store.done(first)
            assert await asyncio.gather(*(store.claim(KEY, "a", 7.0, RETAIN) for _ in range(2))) == [DONE, DONE]

    run(main())


def test_processes_that_claim_mark_release_and_take_over_the_same_never_deadlock(server: Any, run: Run) -> None:
    """Each key is done once, though leases run out at random under the owners."""

    async def main() -> None:
        stores = [server.store() for _ in range(4)]
        async with opened(*stores):
            before = server.sql("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
            done: list[Key] = []

            async def work(store: PostgresStore, number: int, key: Key) -> None:
                while True:
                    claim = await store.claim(key, f"owner-{number}", 0.02, RETAIN)
                    if claim is DONE:
                        return
                    if isinstance(claim, Claim):
                        await asyncio.sleep(0.03 * ((claim.fence + number) % 2))
                        if claim.fence % 5 == 0:
                            await store.release(claim)
                        elif (await store.extend([claim]))[0] and await store.done(claim):
                            done.append(key)
                    await asyncio.sleep(0.002)

            keys = [("g", "h", "s", str(n)) for n in range(60)]
            await asyncio.gather(*(work(store, n, key) for n, store in enumerate(stores) for key in keys))
            assert sorted(done) == sorted(keys)
            after = server.sql("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
            assert after == before

    run(main())


def test_calls_of_one_moment_are_one_statement(server: Any, run: Run) -> None:
    async def main() -> None:
        async with opened(store := server.store()):
            statements: list[bytes] = []
            claims_of = store._claims
            run_batch = claims_of._run

            async def counted(connection: Any, jobs: Any) -> None:
                execute = connection.execute

                async def spy(query: bytes, *args: Any, **options: Any) -> Any:
                    statements.append(query)
                    return await execute(query, *args, **options)

                connection.execute = spy
                try:
                    await run_batch(connection, jobs)
                finally:
                    connection.execute = execute

            claims_of._run = counted
            keys = [("g", "h", "s", str(n)) for n in range(500)]
            claims = await asyncio.gather(*(store.claim(key, "a", LEASE, RETAIN) for key in keys))
            assert all(isinstance(claim, Claim) for claim in claims)
            assert len(statements) == 1

    run(main())


# ---------------------------------------------------------------------------------------------------- purge


def test_what_is_too_old_is_forgotten_and_the_rest_is_not(server: Any, run: Run) -> None:
    async def main() -> None:
        async with opened(store := server.store()):
            keys = [("g", "h", "s", str(n)) for n in range(20)]
            for claim in await asyncio.gather(*(store.claim(key, "a", LEASE, 10 * 86_400.0) for key in keys)):
                assert isinstance(claim, Claim)
                assert await store.done(claim)
            server.pass_(9 * 86_400.0)
            assert await store.purge() == 0
            assert await asyncio.gather(*(store.claim(key, "a", LEASE, RETAIN) for key in keys)) == [DONE] * 20
            held = await claimed(store)
            server.pass_(2 * 86_400.0)
            assert await store.extend([held]) == [True]
            assert await store.purge() == 20
            assert await store.purge() == 0
            assert await store.done(held) is True
            again = await asyncio.gather(*(store.claim(key, "a", LEASE, RETAIN) for key in keys))
            assert all(isinstance(claim, Claim) and claim.fence > held.fence for claim in again)

    run(main())


def test_purging_takes_bounded_portions_and_waits_for_nobody(
    server: Any, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("anybroker_postgres.marking._PURGE", 7)

    async def main() -> None:
        async with opened(store := server.store(timeout=5.0)):
            for claim in await asyncio.gather(
                *(store.claim(("g", "h", "s", str(n)), "a", 1.0, 1.0) for n in range(20))
            ):
                assert isinstance(claim, Claim)
                assert await store.done(claim)
            server.pass_(10.0)

            with psycopg.connect(server.url) as holder:
                holder.execute(f"SELECT FROM {server.schema}.anybroker_claim WHERE id < '11' FOR UPDATE".encode())
                locked = len(server.sql("SELECT id FROM anybroker_claim WHERE id < '11'"))
                taken = [await store.purge() for _ in range(4)]
                assert taken[0] == 7
                assert sum(taken) == 20 - locked
            assert await store.purge() == locked

    run(main())


# ------------------------------------------------------------------------------------- cancelled, closed, shared


def test_a_claim_that_was_cancelled_is_released(server: Any, run: Run) -> None:
    async def main() -> None:
        async with opened(store := server.store()):
            asking = asyncio.create_task(store.claim(KEY, "a", LEASE, RETAIN))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
            for _ in range(1000):
                there = await store.claim(KEY, "b", LEASE, RETAIN)
                if isinstance(there, Claim):
                    return
                await asyncio.sleep(0.001)
            pytest.fail("it was not released")

    run(main())


def test_closing_completes_what_was_called_before(server: Any, run: Run) -> None:
    async def main() -> None:
        store = server.store()
        await store.open()
        claims = await asyncio.gather(*(store.claim(("g", "h", "s", str(n)), "a", LEASE, RETAIN) for n in range(50)))
        marks = [asyncio.create_task(store.done(claim)) for claim in claims]
        late = asyncio.create_task(store.claim(KEY, "a", LEASE, RETAIN))
        await asyncio.sleep(0)
        await store.close()
        assert await asyncio.gather(*marks) == [True] * 50
        assert isinstance(await late, Claim)
        with pytest.raises(StoreUnavailable, match="is not open"):
            await store.claim(KEY, "a", LEASE, RETAIN)
        assert server.sql("SELECT count(*) FROM anybroker_claim WHERE done") == [(50,)]

    run(main())


def test_a_claim_that_was_cancelled_while_the_store_closes_is_released(server: Any, run: Run) -> None:
    async def main() -> None:
        async with opened(store := server.store(), other := server.store()):
            await store.claim(("g", "h", "s", "first"), "a", LEASE, RETAIN)
            asking = asyncio.create_task(store.claim(KEY, "a", LEASE, RETAIN))
            await asyncio.sleep(0)
            closing = asyncio.create_task(store.close())
            await asyncio.sleep(0)
            asking.cancel()
            await asyncio.gather(asking, closing, return_exceptions=True)
            assert server.sql("SELECT until = '-infinity' FROM anybroker_claim WHERE id = '1'") == [(True,)]
            await claimed(other)
            await store.open()

    run(main())


def test_opening_and_closing_at_once_end_in_order(server: Any, run: Run) -> None:
    async def main() -> None:
        store = server.store()

        async def once(number: int) -> None:
            await store.open()
            claim = await store.claim(("g", "h", "s", str(number)), "a", LEASE, RETAIN)
            assert isinstance(claim, Claim)
            assert await store.done(claim)
            await store.close()

        for start in (0, 10, 20):
            await asyncio.gather(*(once(start + number) for number in range(10)))
        assert server.sql("SELECT count(*) FROM anybroker_claim WHERE done") == [(30,)]

    run(main())


def test_a_store_is_open_until_the_last_one_has_closed_it(server: Any, run: Run) -> None:
    async def main() -> None:
        store = server.store()
        async with opened(store):
            async with opened(store):
                claim = await claimed(store)
            assert await store.done(claim)
        async with opened(store):
            assert await store.claim(KEY, "b", LEASE, RETAIN) is DONE

    run(main())


def test_a_store_may_be_used_in_another_loop_after_it_was_closed(server: Any) -> None:
    store = server.store()

    async def main() -> None:
        async with opened(store):
            await store.claim(KEY, "a", LEASE, RETAIN)

    asyncio.run(main())
    asyncio.run(main())
