"""Listing, replaying and discarding the dead letters of one group, on any broker."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from typing import TYPE_CHECKING

from ._ledger import LaneLedger
from .adapter import Ack, Commit, Inbound, Lane, Receiver, Release, Settlement, SubscriptionSpec
from .capabilities import Acknowledgement
from .deadletters import DEAD_LETTER_GROUP, DeadLetter
from .errors import Unavailable

if TYPE_CHECKING:
    from .bus import Bus

__all__ = ["DeadLetterQueue"]


class _Reader:
    """A member of the dead-letter group that reads without a pump, and settles one by one."""

    def __init__(self, cumulative: bool) -> None:
        self._cumulative = cumulative
        self.ledgers: dict[Lane, LaneLedger] = {}
        self.receiver: Receiver | None = None

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
        """Up to ``limit`` messages; ends when none came for ``patience`` seconds, or soon after the last one.

        Patience begins when this member has got its part of the topic; ``Unavailable`` if it gets none.
        """
        assert self.receiver is not None
        found: list[Inbound] = []
        loop = asyncio.get_running_loop()
        joined_by = loop.time() + _JOIN
        end: float | None = None
        while len(found) < limit:
            now = loop.time()
            if end is None and self.ledgers:
                end = now + patience
            if end is None and now >= joined_by:
                raise Unavailable(
                    f"no part of the dead-letter topic came to this reader within {_JOIN:g} s: another member of its "
                    f"group {DEAD_LETTER_GROUP!r} has all of it. Stop that one meanwhile"
                )
            if end is not None and now >= end:
                break
            left = (end or joined_by) - now
            batch = await self.receiver.receive(limit - len(found), lanes=None, timeout=min(left, 0.5))
            if batch and self.ledgers:
                end = loop.time() + min(patience, 0.5)
            for inbound in batch:
                ledger = self.ledgers.get(inbound.lane)
                if ledger is None or (self._cumulative and ledger.receive(inbound.position) < 0):
                    continue
                found.append(inbound)
        return found

    async def settle(self, done: Iterable[Inbound], back: Iterable[Inbound]) -> None:
        """Finish some and give back the others. Raises the first BrokerError."""
        assert self.receiver is not None
        batch: list[Settlement] = []
        if self._cumulative:
            lanes: dict[Lane, LaneLedger] = {}
            for inbound in done:
                ledger = self.ledgers.get(inbound.lane)
                if ledger is not None:
                    ledger.finish(inbound.position)
                    lanes[inbound.lane] = ledger
            for lane, ledger in lanes.items():
                note = ledger.note()
                if ledger.position is not None:
                    batch.append(Commit(lane, ledger.position, note))
        else:
            batch += [Ack(inbound) for inbound in done]
            batch += [Release(inbound, inbound.attempts) for inbound in back]
        if batch:
            for result in await self.receiver.settle(batch):
                if result is not None:
                    raise result


_Letters = list[DeadLetter]  # inside the class below, `list` is its method
_JOIN = 20.0
"""Seconds within which a member of the group gets its part of the topic."""
_CHUNK = 100
"""Replayed together and then settled together: so much is replayed twice after a crash."""

Progress = Callable[[int], None]
"""Told how many more were replayed or discarded."""


class DeadLetterQueue:
    """The dead letters of one group. Each call joins the group ``dlq`` of the dead-letter topic for its duration.

    ``patience``: seconds without a message after which the queue counts as read.
    """

    def __init__(self, bus: Bus, topic: str, group: str, dead_letter_topic: str, patience: float = 3.0) -> None:
        self._bus = bus
        self.topic = topic
        self.group = group
        self.dead_letter_topic = dead_letter_topic
        self.patience = patience

    async def list(self, limit: int = 100) -> Sequence[DeadLetter]:
        """Up to ``limit`` dead letters, oldest first in each lane; they stay where they are."""
        reader = await self._join(limit)
        try:
            found = await reader.read(limit, self.patience)
            await reader.settle((), found)
        finally:
            await self._leave(reader)
        return self._oldest_first(found)

    def _oldest_first(self, found: Iterable[Inbound]) -> _Letters:
        """This group's own: a configured topic, or names that meet (``a`` with ``b.c``, ``a.b`` with ``c``), may have
        several groups' dead letters."""
        read = (DeadLetter.read(inbound, self.topic, self.group) for inbound in found)
        letters = [letter for letter in read if (letter.topic, letter.group) == (self.topic, self.group)]
        if self._bus.adapter.capabilities.acknowledgement is Acknowledgement.PER_MESSAGE:
            letters.sort(key=lambda letter: letter.died)  # several members, or several queues, may have written them
        return letters

    async def replay(
        self, ids: Sequence[str] | None = None, limit: int = 100, *, progress: Progress | None = None
    ) -> Sequence[DeadLetter]:
        """Send dead letters back to the group that failed, and to no other; all, or those with one of these ids.

        ``limit``: how many dead letters are looked at. Each is settled only after its replay was confirmed: a crash in
        between replays up to 100 of them twice, and never loses one. ``progress`` is told, as they go, how many more
        were replayed. Returns those replayed. Raises BrokerError; what was replayed before is settled then.
        """
        return await self._take(ids, limit, self._send_back, progress)

    async def discard(
        self, ids: Sequence[str], limit: int = 100, *, progress: Progress | None = None
    ) -> Sequence[DeadLetter]:
        """Drop the dead letters with one of these ids, of the first ``limit``, for good. Returns them."""
        return await self._take(ids, limit, None, progress)

    async def _send_back(self, letter: DeadLetter) -> None:
        await self._bus.replay(letter.event, letter.topic, letter.group, letter.replay_headers())

    async def _take(
        self,
        ids: Sequence[str] | None,
        limit: int,
        action: Callable[[DeadLetter], Awaitable[None]] | None,
        progress: Progress | None,
    ) -> Sequence[DeadLetter]:
        wanted = None if ids is None else set(ids)
        reader = await self._join(limit)
        done = _Letters()
        left: list[Inbound] = []
        try:
            left = await reader.read(limit, self.patience)
            letters = [letter for letter in self._oldest_first(left) if wanted is None or letter.id in wanted]
            for at in range(0, len(letters), _CHUNK):
                chunk = letters[at : at + _CHUNK]
                failures: list[BaseException | None] = [None] * len(chunk)
                if action is not None:
                    failures = await asyncio.gather(*map(action, chunk), return_exceptions=True)
                ended = [letter for letter, failure in zip(chunk, failures, strict=True) if failure is None]
                settled = {letter.inbound for letter in ended}
                left = [inbound for inbound in left if inbound not in settled]
                await reader.settle(settled, ())
                done += ended
                if progress is not None:
                    progress(len(ended))
                for failure in filter(None, failures):
                    raise failure
        finally:
            try:
                await reader.settle((), left)
            finally:
                await self._leave(reader)
        return done

    async def _join(self, limit: int) -> _Reader:
        adapter = self._bus.adapter
        reader = _Reader(adapter.capabilities.acknowledgement is Acknowledgement.CUMULATIVE)
        spec = SubscriptionSpec(self.dead_letter_topic, DEAD_LETTER_GROUP, True, 1, "new", limit)
        reader.receiver = await adapter.open_receiver(spec, reader)
        return reader

    async def _leave(self, reader: _Reader) -> None:
        if reader.receiver is not None:
            try:
                await reader.receiver.stop()
            finally:
                await reader.receiver.close()
