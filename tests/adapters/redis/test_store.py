"""Claims, marks and releases on a real server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from anybroker.idempotency import DONE, Busy, Claim, Key, StoreUnavailable
from anybroker_contract.brokers import Broker
from anybroker_redis import RedisStore
from anybroker_redis.keys import Names
from anybroker_redis.operations import ClaimOperation

Run = Callable[[Coroutine[Any, Any, None]], None]
KEY: Key = ("billing", "charge", "shop", "1")
LEASE, RETAIN = 20.0, 3_600.0


def key(number: int) -> Key:
    return ("billing", "charge", "shop", str(number))


async def claimed(store: RedisStore, key: Key = KEY, owner: str = "a", lease: float = LEASE) -> Claim:
    claim = await store.claim(key, owner, lease, RETAIN)
    assert isinstance(claim, Claim)
    return claim


async def busy(store: RedisStore, key: Key = KEY) -> Busy:
    there = await store.claim(key, "b", LEASE, RETAIN)
    assert isinstance(there, Busy)
    return there


async def ended(store: RedisStore, key: Key) -> Claim:
    """The claim of another owner, as soon as the lease before it has ended: the store says how long that is."""
    async with asyncio.timeout(10):
        while True:
            there = await store.claim(key, "b", LEASE, RETAIN)
            if isinstance(there, Claim):
                return there
            assert isinstance(there, Busy)
            await asyncio.sleep(there.left)


def test_a_claim_is_held_then_done(server: Broker, opened: Any, run: Run) -> None:
    async def main() -> None:
        async with opened(server.url) as store, opened(server.url) as other:
            claim = await claimed(store)
            assert claim.until - claim.since == pytest.approx(LEASE)
            there = await busy(other)
            assert 0 <= there.age < 5
            assert LEASE - 5 < there.left <= LEASE
            assert await store.done(claim) is True
            assert await store.done(claim) is True  # the first answer may have been lost
            assert await other.claim(KEY, "b", LEASE, RETAIN) is DONE
            await store.release(claim)
            assert await store.extend([claim]) == [True]
            assert await other.claim(KEY, "b", LEASE, RETAIN) is DONE

    run(main())


def test_each_of_many_calls_in_one_tick_gets_its_own_answer(server: Broker, opened: Any, run: Run) -> None:
    async def main() -> None:
        async with opened(server.url) as store, opened(server.url) as other:
            keys = [key(number) for number in range(1_500)]
            for number in (3, 700):
                assert await store.done(await claimed(store, keys[number]))
            await claimed(other, keys[5])
            answers = await asyncio.gather(*(store.claim(each, "a", LEASE, RETAIN) for each in keys for _ in range(2)))
            first, second = answers[::2], answers[1::2]
            for number, (one, two) in enumerate(zip(first, second, strict=True)):
                if number in (3, 700):
                    assert one is two is DONE
                elif number == 5:
                    assert isinstance(one, Busy)
                else:
                    assert isinstance(one, Claim)
                    assert one.key == keys[number]
                    assert isinstance(two, Busy)
            made = [one for one in first if isinstance(one, Claim)]
            lost = made[::100]
            await asyncio.gather(*map(store.release, lost))
            again = await asyncio.gather(*(claimed(other, each.key) for each in lost))
            assert all(new.fence > old.fence for new, old in zip(again, lost, strict=True))
            expected = [each not in lost for each in made]
            assert await store.extend(made) == expected
            assert await asyncio.gather(*map(store.done, made)) == expected
            assert await other.extend(again) == [True] * len(again)

    run(main())


def test_a_batch_is_one_round_trip(server: Broker, opened: Any, client: Any, run: Run) -> None:
    async def main() -> None:
        async with opened(server.url) as store, client(server.url) as redis:
            before = (await redis.info("commandstats"))["cmdstat_evalsha"]["calls"]
            claims = await asyncio.gather(*(claimed(store, key(number)) for number in range(300)))
            await asyncio.gather(*map(store.done, claims))
            assert (await redis.info("commandstats"))["cmdstat_evalsha"]["calls"] - before == 2

    run(main())


def test_a_lease_that_ran_out_is_taken_over_and_fenced(server: Broker, opened: Any, run: Run) -> None:
    async def main() -> None:
        async with opened(server.url) as store, opened(server.url) as other:
            late = await claimed(store, lease=0.05)
            second = await ended(other, KEY)
            assert second.fence > late.fence
            assert await store.extend([late, second]) == [False, True]
            assert await store.done(late) is False
            await store.release(late)
            await busy(store)
            assert await other.done(second) is True
            assert await store.done(late) is False
            assert await store.extend([late]) == [False]

    run(main())


def test_a_late_owner_marks_what_nobody_took_over(server: Broker, opened: Any, client: Any, run: Run) -> None:
    async def main() -> None:
        async with opened(server.url) as store, client(server.url) as redis:
            late = await claimed(store, lease=0.001)
            name = late.name  # type: ignore[attr-defined]
            assert RETAIN * 1_000 - 10_000 < await redis.pttl(name) <= RETAIN * 1_000 + 1_000
            await asyncio.sleep(0.002)  # past its lease, which nobody else can see
            assert await store.done(late) is True
            assert await store.claim(KEY, "b", LEASE, RETAIN) is DONE

    run(main())


def test_extending_lets_each_claim_last_its_own_lease(server: Broker, opened: Any, run: Run) -> None:
    async def main() -> None:
        async with opened(server.url) as store:
            short = await claimed(store, key(1), lease=5.0)
            long = await claimed(store, key(2), lease=50.0)
            before = short.until, long.until
            assert await store.extend([short, long]) == [True, True]
            assert short.until > before[0]
            assert long.until > before[1]
            assert 4.0 < (await busy(store, key(1))).left <= 5.0
            assert 49.0 < (await busy(store, key(2))).left <= 50.0

    run(main())


def test_marks_are_forgotten_by_the_server_after_retain(
    server: Broker, opened: Any, client: Any, run: Run, until: Any
) -> None:
    async def main() -> None:
        async with opened(server.url) as store, client(server.url) as redis:
            claim = await store.claim(KEY, "a", LEASE, 0.1)
            assert isinstance(claim, Claim)
            assert await store.done(claim)
            assert 0 < await redis.pttl(claim.name) <= 101  # type: ignore[attr-defined]
            await asyncio.sleep(0.11)  # the server says that no key is left after that
            again = await claimed(store)
            assert again.fence > claim.fence
            assert await store.purge() == 0

    run(main())


def test_nothing_is_kept_for_ever_but_a_counter_for_each_tag(
    server: Broker, opened: Any, client: Any, run: Run, prefix: str
) -> None:
    async def main() -> None:
        async with opened(server.url) as store, client(server.url) as redis:
            claims = await asyncio.gather(*(claimed(store, key(number)) for number in range(500)))
            await asyncio.gather(*map(store.done, claims[:200]), *map(store.release, claims[200:400]))
            await store.extend(claims[400:450])
            names = await redis.keys(f"{prefix}:*")
            stay = [name for name in names if await redis.pttl(name) == -1]
            assert sorted(stay) == sorted(Names(prefix).counters)
            assert len(names) == 64 + 300

    run(main())


def test_the_fence_goes_up_when_the_clock_goes_back(
    server: Broker, opened: Any, client: Any, run: Run, prefix: str
) -> None:
    """The counter is ahead of the clock, as if the clock had been set back by a year."""

    async def main() -> None:
        async with opened(server.url) as store, client(server.url) as redis:
            first = await claimed(store)
            ahead = first.fence // 64 + 365 * 86_400 * 1_000_000
            for counter in Names(prefix).counters:
                await redis.set(counter, ahead)
            await store.release(first)
            second = await claimed(store)
            assert second.fence // 64 == ahead + 1
            assert await store.done(first) is False
            await store.release(second)
            assert (await claimed(store)).fence // 64 == ahead + 2

    run(main())


def test_a_lease_from_before_the_clock_went_back_ends_in_its_own_time(
    server: Broker, opened: Any, client: Any, run: Run
) -> None:
    async def main() -> None:
        async with opened(server.url) as store, client(server.url) as redis:
            claim = await claimed(store, lease=0.2)
            name = claim.name  # type: ignore[attr-defined]
            state, since, until, lease, token = (await redis.get(name)).split(b" ")
            year = 365 * 86_400 * 1_000_000
            moved = b"%b %d %d %b %b" % (state, int(since) + year, int(until) + year, lease, token)
            await redis.set(name, moved, keepttl=True)
            there = await busy(store)
            assert there.age == 0
            assert there.left == pytest.approx(0.2)
            assert await redis.pttl(name) > 0
            second = await ended(store, KEY)
            assert second.fence > claim.fence

    run(main())


@pytest.mark.parametrize(
    "keys",
    [
        [("a", "b\0c", "d", "e"), ("a\0b", "c", "d", "e"), ("a", "b", "c\0d", "e"), ("a", "b", "c", "d\0e")],
        [("a", "b", "", "c"), ("a", "", "b", "c"), ("", "a", "b", "c"), ("a", "b", "c", "")],
        [("1", "2,3", "4", ""), ("1,2", "3", "4", ""), ("g", "h", "s", "\U0001f600" * 128), ("g", "h", "s", "\ud800")],
        [
            ("g", "h", "s", "it's \"\n\r\x00"),
            ("g", "h", "s", "it's \"\n\r"),
            ("g", "h", " s", ""),
            ("g", "h ", "s", ""),
        ],
    ],
)
def test_any_text_can_be_a_key_and_no_two_are_the_same(server: Broker, opened: Any, run: Run, keys: list[Key]) -> None:
    async def main() -> None:
        async with opened(server.url) as store:
            for each in keys:
                assert await store.done(await claimed(store, each, owner="ö w\n\ud800"))
            assert [await store.claim(each, "b", LEASE, RETAIN) for each in keys] == [DONE] * len(keys)

    run(main())


@pytest.mark.parametrize(("lease", "retain"), [(1e-9, 1e-9), (1e12, 1e300), (0.5, 1e18)])
def test_no_lease_is_too_short_or_too_long(server: Broker, opened: Any, run: Run, lease: float, retain: float) -> None:
    async def main() -> None:
        async with opened(server.url) as store:
            claim = await store.claim(KEY, "a", lease, retain)
            assert isinstance(claim, Claim)
            assert await store.extend([claim]) in ([True], [False])
            if retain > 1:
                assert await store.done(claim) is True

    run(main())


def test_what_another_program_wrote_is_left_alone(server: Broker, opened: Any, client: Any, run: Run) -> None:
    async def main() -> None:
        async with opened(server.url) as store, client(server.url) as redis:
            claim = await claimed(store, key(1))
            name = claim.name  # type: ignore[attr-defined]
            await redis.delete(name)
            await redis.rpush(name, "a list")
            text = rf"the key {name.decode()[:8]}.* holds what this store did not write. Give the store a prefix"
            there, beside = await asyncio.gather(
                store.claim(key(1), "a", LEASE, RETAIN), store.claim(key(2), "a", LEASE, RETAIN), return_exceptions=True
            )
            with pytest.raises(StoreUnavailable, match=text.replace("{", r"\{").replace("}", r"\}")):
                raise there
            assert isinstance(beside, Claim)
            assert await store.done(claim) is False
            assert await redis.lrange(name, 0, -1) == [b"a list"]

    run(main())


def test_a_cancelled_claim_is_released(server: Broker, opened: Any, run: Run) -> None:
    async def main() -> None:
        async with opened(server.url) as store, opened(server.url) as other:
            loop = asyncio.get_running_loop()
            for steps in range(9):  # before it is sent, while it is under way, when the answer is there
                task = loop.create_task(store.claim(key(steps), "a", LEASE, RETAIN))
                for _ in range(steps):
                    await asyncio.sleep(0)
                task.cancel()
                await asyncio.wait([task])
                if not task.cancelled():
                    await store.release(task.result())  # type: ignore[arg-type] # it was a claim
            await store.extend([await claimed(store, key(99))])  # round trips, which what is queued goes before
            for steps in range(9):
                await claimed(other, key(steps))

    run(main())


def test_a_claim_that_is_cancelled_when_its_answer_has_come_is_released(
    server: Broker, opened: Any, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks: list[asyncio.Task[Any]] = []
    understand = ClaimOperation.understand

    def and_cancel(self: ClaimOperation, answer: bytes, now: int) -> bool:
        unwanted = understand(self, answer, now)
        assert self.future.done()
        tasks.pop().cancel()
        return unwanted

    async def main() -> None:
        async with opened(server.url) as store, opened(server.url) as other:
            monkeypatch.setattr(ClaimOperation, "understand", and_cancel)
            task = asyncio.ensure_future(store.claim(KEY, "a", LEASE, RETAIN))
            tasks.append(task)
            await asyncio.wait([task])
            assert task.cancelled()
            monkeypatch.undo()
            await store.release(await claimed(store, key(99)))
            await claimed(other)

    run(main())


def test_closing_completes_what_was_called_before(server: Broker, opened: Any, run: Run) -> None:
    async def main() -> None:
        async with opened(server.url) as other:
            async with opened(server.url) as store:
                claims = await asyncio.gather(*(claimed(store, key(number)) for number in range(600)))
                marks = [asyncio.ensure_future(store.done(claim)) for claim in claims]
                await asyncio.sleep(0)
            assert await asyncio.gather(*marks) == [True] * 600
            assert await other.claim(key(599), "b", LEASE, RETAIN) is DONE
            with pytest.raises(StoreUnavailable, match="is not open"):
                await store.claim(KEY, "a", LEASE, RETAIN)

    run(main())


def test_a_store_is_open_until_the_last_one_has_closed_it(server: Broker, opened: Any, run: Run) -> None:
    async def main() -> None:
        async with opened(server.url) as store:
            await asyncio.gather(store.open(), store.open())
            await store.close()
            claim = await claimed(store)
            await store.close()
            assert await store.done(claim)
        await store.open()
        assert await store.claim(KEY, "b", LEASE, RETAIN) is DONE
        await store.close()
        await store.close()  # one too many does nothing

    run(main())


def test_copies_at_the_same_moment_are_claimed_once(server: Broker, opened: Any, run: Run) -> None:
    async def main() -> None:
        async with opened(server.url) as one, opened(server.url) as two, opened(server.url) as three:
            keys = [key(number) for number in range(200)]
            results = await asyncio.gather(
                *(store.claim(each, "a", LEASE, RETAIN) for each in keys for store in (one, two, three))
            )
            made = [result for result in results if isinstance(result, Claim)]
            assert sorted(claim.key for claim in made) == sorted(keys)
            assert len({claim.fence for claim in made}) == len(keys)
            assert sum(isinstance(result, Busy) for result in results) == 400

    run(main())
