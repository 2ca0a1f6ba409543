"""Waiting ends at the change, or at the deadline with a sentence that says what was missing."""

from __future__ import annotations

import asyncio

import pytest

from anybroker_contract._waiting import Signal, eventually, quiet, wait_until


def test_wait_until_ends_with_the_change() -> None:
    async def main() -> float:
        changed, there = Signal(), False

        def change() -> None:
            nonlocal there
            there = True
            changed.fire()

        loop = asyncio.get_running_loop()
        began = loop.time()
        loop.call_later(0.02, change)
        await wait_until(lambda: there, 5.0, changed, lambda: "never")
        return loop.time() - began

    assert asyncio.run(main()) < 1.0


def test_wait_until_says_what_is_missing() -> None:
    async def main() -> None:
        await wait_until(lambda: False, 0.02, Signal(), lambda: "two of three")

    with pytest.raises(AssertionError, match=r"not within 0\.02 s: two of three"):
        asyncio.run(main())


def test_eventually_asks_again() -> None:
    answers = iter([0, 0, 3])

    async def ask() -> int:
        return next(answers)

    async def main() -> None:
        await eventually(ask, 5.0, "three")
        with pytest.raises(AssertionError, match="nothing"):
            await eventually(lambda: asyncio.sleep(0, False), 0.03, "nothing")

    asyncio.run(main())
    assert next(answers, None) is None


def test_quiet_waits_for_the_last_change() -> None:
    async def main() -> int:
        changed, count = Signal(), 0

        def change() -> None:
            nonlocal count
            count += 1
            changed.fire()

        for number in range(5):
            asyncio.get_running_loop().call_later(0.01 * number, change)
        await quiet(changed, 0.2)
        return count

    assert asyncio.run(main()) == 5
