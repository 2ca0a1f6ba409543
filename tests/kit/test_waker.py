"""Waiting until a moment, or until somebody calls."""

from __future__ import annotations

import asyncio

import pytest

from anybroker.kit.waker import Waker

HOUR = 3600.0


def test_a_call_ends_the_wait() -> None:
    async def main() -> None:
        waker = Waker()
        waiting = asyncio.create_task(waker.wait(asyncio.get_running_loop().time() + HOUR))
        await asyncio.sleep(0)
        waker.wake()
        waker.wake()  # twice is once
        await asyncio.wait_for(waiting, 10)

    asyncio.run(main())


def test_the_moment_ends_the_wait() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        until = loop.time() + 0.01
        await asyncio.wait_for(Waker().wait(until), 10)
        assert loop.time() >= until - 0.001

    asyncio.run(main())


def test_a_call_before_the_wait_is_not_kept() -> None:
    async def main() -> None:
        waker = Waker()
        waker.wake()
        waiting = asyncio.create_task(waker.wait(asyncio.get_running_loop().time() + HOUR))
        await asyncio.sleep(0)
        assert not waiting.done()
        waker.wake()
        await asyncio.wait_for(waiting, 10)

    asyncio.run(main())


def test_cancellation_leaves_nothing_behind() -> None:
    async def main() -> None:
        waker = Waker()
        waiting = asyncio.create_task(waker.wait(asyncio.get_running_loop().time() + HOUR))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        waker.wake()  # of a future that is cancelled: nothing happens

    asyncio.run(main())
