"""Ending channels: a connection that is lost meanwhile ends them too, and is nobody's cancellation."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from anybroker_rabbitmq.link import end_channel


class Channel:
    """Its close ends as it is told to."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error
        self.closing = asyncio.Event()

    async def close(self, timeout: float) -> None:
        self.closing.set()
        if self.error is None:
            await asyncio.get_running_loop().create_future()
        else:
            raise self.error


@pytest.mark.parametrize(
    "error", [asyncio.CancelledError(), TimeoutError(), ConnectionError(), RuntimeError()], ids=repr
)
def test_a_lost_connection_ends_a_channel_and_not_its_task(error: BaseException) -> None:
    """aiormq cancels what waits on a connection whose heartbeats end: a receiver that is closed then must go on."""

    async def go() -> str:
        channel: Any = Channel(error)
        await end_channel(channel)
        return "went on"

    assert asyncio.run(go()) == "went on"


def test_a_cancellation_of_ours_is_kept() -> None:
    async def go() -> None:
        channel: Any = Channel(None)
        task = asyncio.create_task(end_channel(channel))
        await channel.closing.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(go())
