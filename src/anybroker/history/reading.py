"""Reading all lanes of a topic up to their ends, in the order of time between lanes."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from heapq import heapify, heappop, heapreplace

from ..adapter import Peeked, ReadsHistory
from ..engine.calls import as_failure
from ..errors import Unavailable

__all__ = ["Reading"]

_PAGE = 1_000
_PATIENCE = 5
"""Times that a broker may give nothing and not move, such as after its retention has deleted what was asked for."""


class Reading:
    """One pass over the lanes. In order within each; between them by when the broker stored what comes next."""

    def __init__(self, adapter: ReadsHistory, topic: str, lanes: Mapping[str, tuple[int, int]]) -> None:
        self._adapter = adapter
        self._topic = topic
        self._next = {lane: begin for lane, (begin, end) in lanes.items() if begin < end}
        self._ends = {lane: end for lane, (_, end) in lanes.items()}
        self._read: dict[str, deque[Peeked]] = {lane: deque() for lane in self._next}

    async def take(self, limit: int) -> list[Peeked]:
        """The next ones, at most ``limit``; empty at the end. Raises BrokerError."""
        taken: list[Peeked] = []
        while len(taken) < limit:
            for lane in list(self._next):
                if not self._read[lane]:
                    await self._fill(lane)
            heads = [(read[0].stored or 0.0, lane) for lane, read in self._read.items() if read]
            if not heads:
                break
            heapify(heads)
            while heads and len(taken) < limit:
                _, lane = heads[0]
                read = self._read[lane]
                taken.append(read.popleft())
                if read:
                    heapreplace(heads, (read[0].stored or 0.0, lane))
                elif lane in self._next:
                    break  # what comes next in this lane may be older than the other heads
                else:
                    heappop(heads)
        return taken

    async def _fill(self, lane: str) -> None:
        at, end = self._next[lane], self._ends[lane]
        tries = 0
        while at < end:
            reading = self._adapter.read_history(self._topic, lane, at, end, _PAGE)
            page = await as_failure("reading what a topic keeps", reading)
            tries = tries + 1 if page.following <= at and not page.events else 0
            if tries >= _PATIENCE:
                raise Unavailable(
                    f"the broker gives nothing of {lane} from {at} on, although it has {end}: try again later"
                )
            at = max(at, page.following)
            if page.events:
                self._read[lane].extend(page.events)
                break
        if at < end:
            self._next[lane] = at
        else:
            del self._next[lane]
