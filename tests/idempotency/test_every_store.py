"""What each store promises."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest

from anybroker.idempotency import DONE, Busy, Claim, Key, Store

Run = Callable[[Coroutine[Any, Any, None]], None]
KEY: Key = ("billing", "charge", "shop", "1")
LEASE, RETAIN = 20.0, 3_600.0


@asynccontextmanager
async def opened(store: Store) -> Any:
    await store.open()
    try:
        yield store
    finally:
        await store.close()


async def claimed(store: Store, key: Key = KEY, owner: str = "a", lease: float = LEASE) -> Claim:
    claim = await store.claim(key, owner, lease, RETAIN)
    assert isinstance(claim, Claim)
    return claim


async def busy(store: Store, key: Key = KEY, owner: str = "b") -> Busy:
    there = await store.claim(key, owner, LEASE, RETAIN)
    assert isinstance(there, Busy)
    return there


def test_what_is_done_stays_done(store: Store, run: Run) -> None:
    async def main() -> None:
        async with opened(store):
            claim = await claimed(store)
            assert await store.done(claim) is True
            assert await store.claim(KEY, "a", LEASE, RETAIN) is DONE
            assert await store.claim(KEY, "b", LEASE, RETAIN) is DONE
            await store.release(claim)
            assert await store.claim(KEY, "b", LEASE, RETAIN) is DONE

    run(main())


def test_a_live_claim_keeps_others_out_and_its_own_owner_too(store: Store, clock: Any, run: Run) -> None:
    async def main() -> None:
        async with opened(store):
            await claimed(store)
            clock.pass_(3.0)
            for owner in ("a", "b"):
                there = await busy(store, owner=owner)
                assert there.age == pytest.approx(3.0)
                assert there.left == pytest.approx(17.0)

    run(main())


def test_what_is_released_can_be_had_at_once(store: Store, run: Run) -> None:
    async def main() -> None:
        async with opened(store):
            first = await claimed(store)
            await store.release(first)
            second = await claimed(store, owner="b")
            assert second.fence > first.fence
            await store.release(first)  # late: it is not the first owner's any more
            await busy(store)

    run(main())


def test_a_lease_that_ran_out_is_taken_over_and_fenced(store: Store, clock: Any, run: Run) -> None:
    async def main() -> None:
        async with opened(store):
            late = await claimed(store)
            clock.pass_(LEASE + 0.001)
            second = await claimed(store, owner="b")
            assert second.fence > late.fence
            assert await store.extend([late, second]) == [False, True]
            assert await store.done(late) is False
            await store.release(late)
            await busy(store)
            assert await store.done(second) is True
            assert await store.done(late) is False
            assert await store.claim(KEY, "a", LEASE, RETAIN) is DONE

    run(main())


def test_a_late_owner_marks_what_nobody_took_over(store: Store, clock: Any, run: Run) -> None:
    async def main() -> None:
        async with opened(store):
            late = await claimed(store)
            clock.pass_(10 * LEASE)
            await store.purge()
            assert await store.done(late) is True
            assert await store.claim(KEY, "b", LEASE, RETAIN) is DONE

    run(main())


def test_extending_lets_each_claim_last_its_own_lease(store: Store, clock: Any, run: Run) -> None:
    async def main() -> None:
        async with opened(store):
            short = await claimed(store, lease=2.0)
            long = await claimed(store, ("billing", "charge", "shop", "2"), lease=20.0)
            clock.pass_(1.5)
            assert await store.extend([short, long]) == [True, True]
            clock.pass_(1.0)
            assert (await busy(store)).left == pytest.approx(1.0)
            assert (await busy(store, long.key)).left == pytest.approx(19.0)
            clock.pass_(1.5)
            await claimed(store, owner="b")

    run(main())


@pytest.mark.parametrize("part", range(4))
def test_each_part_of_the_key_counts(store: Store, run: Run, part: int) -> None:
    async def main() -> None:
        async with opened(store):
            await claimed(store)
            other = list(KEY)
            other[part] += "é\n|"
            first = await claimed(store, tuple(other))  # type: ignore[arg-type] # still four strings
            await store.done(first)
            await busy(store)

    run(main())


def test_copies_at_the_same_moment_are_claimed_once(store: Store, run: Run) -> None:
    async def main() -> None:
        async with opened(store):
            keys = [("g", "h", "s", str(n)) for n in range(50)]
            results = await asyncio.gather(
                *(store.claim(key, owner, LEASE, RETAIN) for owner in ("a", "b", "c") for key in keys)
            )
            claims = [result for result in results if isinstance(result, Claim)]
            assert sorted(claim.key for claim in claims) == sorted(keys)
            assert len({claim.fence for claim in claims}) == 50
            assert sum(isinstance(result, Busy) for result in results) == 100
            assert await asyncio.gather(*(store.done(claim) for claim in claims)) == [True] * 50

    run(main())


def test_what_is_too_old_is_forgotten_and_the_rest_is_not(store: Store, clock: Any, run: Run) -> None:
    async def main() -> None:
        async with opened(store):
            keys = [("g", "h", "s", str(n)) for n in range(20)]
            for key in keys:
                claim = await store.claim(key, "a", LEASE, 10 * 86_400.0)
                assert isinstance(claim, Claim)
                assert await store.done(claim)
            clock.pass_(9 * 86_400.0)
            assert await store.purge() == 0
            assert [await store.claim(key, "a", LEASE, RETAIN) for key in keys] == [DONE] * 20
            held = await claimed(store)
            for _ in range(3):  # a store may take two rounds
                clock.pass_(10 * 86_400.0)
                assert await store.extend([held]) == [True]
                await store.purge()
            assert await store.done(held) is True
            again = [await store.claim(key, "a", LEASE, RETAIN) for key in keys]
            assert all(isinstance(claim, Claim) for claim in again)

    run(main())


def test_a_store_is_open_until_the_last_one_has_closed_it(store: Store, run: Run) -> None:
    async def main() -> None:
        async with opened(store):
            async with opened(store):
                claim = await claimed(store)
            assert await store.done(claim)
        async with opened(store):
            assert await store.claim(KEY, "b", LEASE, RETAIN) is DONE

    run(main())
