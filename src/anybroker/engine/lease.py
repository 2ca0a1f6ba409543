"""Extending leases: every third of the lease, from receipt to settlement, also of queued deliveries."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Sequence

from ..adapter import ExtendsLease, Inbound, Lane
from ..errors import BrokerError, LeaseLost
from ..printable import logger

__all__ = ["LeaseKeeper"]

_log = logger("anybroker.broker")


class LeaseKeeper:
    """Tracks what was received and not settled, and extends its leases in one call at a time."""

    def __init__(self, receiver: ExtendsLease, lease: float, lost: Callable[[Inbound], None]) -> None:
        self._receiver = receiver
        self._lease = lease
        self._lost = lost
        self._held: dict[Inbound, None] = {}

    def received(self, batch: Iterable[Inbound]) -> None:
        """This member has these now."""
        for inbound in batch:
            self._held[inbound] = None

    def settled(self, batch: Iterable[Inbound]) -> None:
        """This member no longer has these."""
        for inbound in batch:
            self._held.pop(inbound, None)

    def gone(self, lanes: Collection[Lane]) -> None:
        """This member no longer has anything of these lanes."""
        self._held = {inbound: None for inbound in self._held if inbound.lane not in lanes}

    async def run(self) -> None:
        """Extend until cancelled."""
        while True:
            await asyncio.sleep(self._lease / 3)
            batch: Sequence[Inbound] = list(self._held)
            if not batch:
                continue
            try:
                results = await self._receiver.extend(batch)
            except BrokerError as exc:
                _log.warning("extending %d leases failed, next try in %.1f s: %s", len(batch), self._lease / 3, exc)
                continue
            for inbound, result in zip(batch, results, strict=True):
                if isinstance(result, LeaseLost) and inbound in self._held:
                    del self._held[inbound]
                    self._lost(inbound)
