"""The memory store's bounds."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from anybroker.errors import ConfigError
from anybroker.idempotency import DONE, Claim, Key, MemoryStore

Run = Callable[[Coroutine[Any, Any, None]], None]


def key(number: int) -> Key:
    return ("g", "h", "s", str(number))


async def claim(store: MemoryStore, number: int) -> Any:
    return await store.claim(key(number), "a", 20.0, 60.0)


def test_it_remembers_the_last_ones_and_never_twice_as_many(run: Run) -> None:
    async def main() -> None:
        store = MemoryStore(size=10)
        for number in range(1_000):
            await store.done(await claim(store, number))
            assert len(store) <= 20
        assert [await claim(store, number) for number in range(990, 1_000)] == [DONE] * 10
        assert isinstance(await claim(store, 900), Claim)

    run(main())


def test_what_is_seen_again_stays(run: Run) -> None:
    async def main() -> None:
        store = MemoryStore(size=10)
        await store.done(await claim(store, 0))
        for number in range(1, 500):
            await store.done(await claim(store, number))
            if number % 5 == 0:
                assert await claim(store, 0) is DONE

    run(main())


def test_more_in_flight_than_its_size(run: Run) -> None:
    async def main() -> None:
        store = MemoryStore(size=3)
        held = [await claim(store, number) for number in range(100)]
        assert all([await store.done(item) for item in held])
        assert [await claim(store, number) for number in (97, 98, 99)] == [DONE] * 3

    run(main())


def test_abandoned_claims_are_forgotten_in_the_end(run: Run, clock: Any) -> None:
    async def main() -> None:
        store = MemoryStore(retain=60.0)
        for number in range(100):
            await claim(store, number)
        clock.pass_(59.0)
        await store.purge()
        assert len(store) == 100
        for _ in range(3):
            clock.pass_(60.0)
            await store.purge()
        assert len(store) == 0

    run(main())


@pytest.mark.parametrize("size", [0, -1, 1.5, True])
def test_a_senseless_size_is_refused(size: Any) -> None:
    with pytest.raises(ConfigError, match=r"MemoryStore\(size=\): .* is not a number of events"):
        MemoryStore(size)


@pytest.mark.parametrize("retain", [0, -1.0, float("inf"), float("nan")])
def test_a_senseless_time_is_refused(retain: float) -> None:
    with pytest.raises(ConfigError, match=r"MemoryStore\(retain=\)"):
        MemoryStore(retain=retain)
