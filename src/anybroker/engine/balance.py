"""Sharing lanes where the broker leaves them all with the first member: each member gives its surplus back."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from ..adapter import BalancesLanes, Lane
from ..errors import BrokerError
from ..printable import logger

__all__ = ["Balancer"]

_log = logger("anybroker.broker")

_INTERVAL = 1.0


class Balancer:
    """Every second, a member that holds more than its share gives a lane back.

    Its share is the number of lanes divided by the number of members, rounded up. The broker guarantees safety (one
    member per lane). This is only about balance, so members may disagree for a moment without harm.
    """

    def __init__(
        self,
        counter: BalancesLanes,
        held: Callable[[], Sequence[Lane]],
        let_go: Callable[[Lane], Awaitable[None]],
    ) -> None:
        self._counter = counter
        self._held = held
        self._let_go = let_go
        self._stopping = False
        self._idle = asyncio.Event()
        self._idle.set()

    async def run(self) -> None:
        """Balance until cancelled or stopped."""
        while not self._stopping:
            await asyncio.sleep(_INTERVAL)
            try:
                members = await self._counter.members()
            except BrokerError:
                continue  # the receiver tells the core itself when it is dead
            if members < 2 or self._stopping:
                continue
            held = list(self._held())
            share = -(-self._counter.lanes // members)
            self._idle.clear()
            try:
                for lane in held[share:]:
                    await self._let_go(lane)
            except BrokerError as exc:
                _log.warning("a lane could not be given back: %s", exc)
            finally:
                self._idle.set()

    async def stop(self) -> None:
        """Stop giving lanes back; waits for the lane that is being given back."""
        self._stopping = True
        await self._idle.wait()
