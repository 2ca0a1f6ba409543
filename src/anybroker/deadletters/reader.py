"""A member of the dead-letter group: reads without a pump, and settles one by one."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable

from ..adapter import Ack, Commit, ExtendsLease, Inbound, Lane, Receiver, Release, Settlement
from ..engine.calls import as_failure
from ..engine.lease import LeaseKeeper
from ..engine.ledger import LaneLedger
from ..errors import BrokerError, LeaseLost, Unavailable
from ..names import DEAD_LETTER_GROUP

__all__ = ["Reader"]

_JOIN = 20.0
"""Seconds within which a new member must get its part of the topic."""


class Reader:
    """A member of the dead-letter group that reads without a pump, settles one by one, and extends the leases of what
    it holds."""

    def __init__(self, cumulative: bool) -> None:
        self._cumulative = cumulative
        self.ledgers: dict[Lane, LaneLedger] = {}
        self.receiver: Receiver | None = None
        self.not_ours: set[Inbound] = set()
        """Deliveries whose lease was lost: another member may have them by now."""
        self._lease: LeaseKeeper | None = None
        self._extending: asyncio.Task[None] | None = None

    def begin(self, receiver: Receiver, lease: float | None) -> None:
        """Read from this receiver. ``lease``: seconds, where the broker has leases."""
        self.receiver = receiver
        if lease is not None and isinstance(receiver, ExtendsLease):
            self._lease = LeaseKeeper(receiver, lease, self.not_ours.add)
            self._extending = asyncio.create_task(self._lease.run(), name="anybroker dead letters lease")

    async def leave(self) -> None:
        """Leave the group. Idempotent."""
        extending, self._extending = self._extending, None
        if extending is not None:
            extending.cancel()
            await asyncio.wait((extending,))
        receiver, self.receiver = self.receiver, None
        if receiver is not None:
            try:
                await as_failure("leaving the dead letters", receiver.stop())
            finally:
                await as_failure("leaving the dead letters", receiver.close())

    def assigned(self, lane: Lane, note: str = "") -> None:
        """LaneListener."""
        self.ledgers[lane] = LaneLedger(note)

    async def revoked(self, lanes: Collection[Lane], /) -> None:
        """LaneListener."""
        self.lost(lanes)

    def lost(self, lanes: Collection[Lane], /) -> None:
        """LaneListener."""
        for lane in lanes:
            self.ledgers.pop(lane, None)

    async def read(self, limit: int, patience: float) -> list[Inbound]:
        """Up to ``limit`` messages; ends when none arrived for ``patience`` seconds, or soon after the last one.

        The patience starts when this member has its part of the topic; ``Unavailable`` if it gets none.
        """
        assert self.receiver is not None
        received: list[Inbound] = []
        loop = asyncio.get_running_loop()
        joined_by = loop.time() + _JOIN
        end: float | None = None
        while len(received) < limit:
            now = loop.time()
            if end is None and self.ledgers:
                end = now + patience
            if end is None and now >= joined_by:
                raise Unavailable(
                    f"this reader got no part of the dead-letter topic within {_JOIN:g} s: another member of its group "
                    f"{DEAD_LETTER_GROUP!r} has all of it. Stop that member first"
                )
            if end is not None and now >= end:
                break
            left = (end or joined_by) - now
            receiving = self.receiver.receive(limit - len(received), lanes=None, timeout=min(left, 0.5))
            batch = await as_failure("reading dead letters", receiving)
            if batch and self.ledgers:
                end = loop.time() + min(patience, 0.5)
            for inbound in batch:
                ledger = self.ledgers.get(inbound.lane)
                if ledger is None or (self._cumulative and ledger.receive(inbound.position) < 0):
                    continue
                received.append(inbound)
                if self._lease is not None:
                    self._lease.received((inbound,))
        return received

    async def settle(self, done: Iterable[Inbound], back: Iterable[Inbound]) -> None:
        """Finish some and give back the others. Raises the first BrokerError."""
        assert self.receiver is not None
        done, back = list(done), list(back)
        if self._lease is not None:
            self._lease.settled((*done, *back))
        batch: list[Settlement] = []
        failure: BrokerError | None = None
        if self._cumulative:
            lanes: dict[Lane, LaneLedger] = {}
            for inbound in done:
                ledger = self.ledgers.get(inbound.lane)
                if ledger is None:
                    failure = LeaseLost(f"{inbound.lane.name} went to another member of {DEAD_LETTER_GROUP!r}")
                else:
                    ledger.finish(inbound.position)
                    lanes[inbound.lane] = ledger
            for lane, ledger in lanes.items():
                note = ledger.note()
                if ledger.position is not None:
                    batch.append(Commit(lane, ledger.position, note))
        else:
            batch += [Ack(inbound) for inbound in done]
            batch += [Release(inbound, inbound.attempts) for inbound in back if inbound not in self.not_ours]
        if batch:
            for result in await as_failure("settling dead letters", self.receiver.settle(batch)):
                failure = failure or result
        if failure is not None:
            raise failure
