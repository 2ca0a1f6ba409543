"""A flood of lines becomes a burst and a count, and the sum is right."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from anybroker.observe.flood import Flood, HeldBack

Run = Callable[..., Any]
Until = Callable[[Callable[[], object]], Coroutine[Any, Any, None]]


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def _flood(every: float = 10.0) -> tuple[Flood, list[HeldBack], Clock]:
    told: list[HeldBack] = []
    clock = Clock()
    return Flood(told.append, every=every, clock=clock), told, clock


def test_a_burst_passes_and_the_rest_is_counted_by_name(run: Run) -> None:
    async def main() -> None:
        flood, told, clock = _flood()
        flood.lets("retry", "t", "g", "KeyError")
        passed = sum(flood.lets("retry", "t", "g", "ValueError") for _ in range(11))
        clock.now += 4
        passed += sum(flood.lets("retry", "t", "g", "KeyError") for _ in range(3))
        assert passed == 9
        assert flood.lets("retry", "t", "other", "ValueError")
        assert flood.lets("slow", "t", "g", "handle")
        flood.flush()
        assert told == [HeldBack("retry", "t", "g", 5, 4.0, {"ValueError": 2, "KeyError": 3})]
        flood.flush()
        assert len(told) == 1

    run(main())


def test_the_summary_comes_also_when_nothing_more_does(run: Run, until: Until) -> None:
    async def main() -> None:
        flood, told, _ = _flood(every=0.05)
        for _ in range(11):
            flood.lets("retry", "t", "g", "E")
        await until(lambda: told)
        assert told[0].lines == 1
        flood.lets("retry", "t", "g", "E")
        await until(lambda: len(told) == 2)
        assert told[1].lines == 1

    run(main())


def test_a_flood_that_goes_on_has_no_second_burst_and_one_that_is_over_has(run: Run) -> None:
    async def main() -> None:
        flood, told, clock = _flood()
        passed = 0
        for _ in range(30):  # 10 a second
            for _ in range(10):
                passed += flood.lets("retry", "t", "g", "E")
            clock.now += 1
            if clock.now % 10 == 0:
                flood.flush()
        assert passed == 10
        assert [each.lines for each in told] == [90, 100, 100]
        clock.now += 10
        assert all(flood.lets("retry", "t", "g", "E") for _ in range(10))
        assert not flood.lets("retry", "t", "g", "E")
        flood.flush()

    run(main())


def test_the_first_line_of_another_problem_passes_in_a_flood(run: Run) -> None:
    async def main() -> None:
        flood, told, clock = _flood()
        for _ in range(100):
            flood.lets("dead letter", "t", "g", "TimeoutError")
        clock.now += 10
        flood.flush()
        flood.lets("dead letter", "t", "g", "TimeoutError")
        assert flood.lets("dead letter", "t", "g", "KeyError"), "it has never been seen"
        assert not flood.lets("dead letter", "t", "g", "KeyError")
        assert sum(flood.lets("dead letter", "t", "g", f"Error{number}") for number in range(1000)) == 18
        flood.flush()
        assert told[1].lines == 1 + 1 + 982

    run(main())


def test_what_the_end_of_a_loop_left_is_told_in_the_next_one(run: Run, until: Until) -> None:
    flood, told, _ = _flood(every=0.05)

    async def main() -> None:
        for _ in range(12):
            flood.lets("retry", "t", "g", "E")

    asyncio.run(main())
    assert told == []

    async def later() -> None:
        flood.lets("retry", "t", "g", "E")
        await until(lambda: told)

    asyncio.run(later())
    assert told[0].lines == 3


def test_names_are_bounded(run: Run) -> None:
    async def main() -> None:
        flood, told, _ = _flood()
        for number in range(100):
            flood.hold("unhandled", "t", "g", f"type-{number}")
        flood.flush()
        assert (told[0].lines, len(told[0].names), sum(told[0].names.values())) == (100, 9, 100)

    run(main())
