"""Flaws of adapters that are looked at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from time import time
from typing import Any

from anybroker.adapter import Adapter, Backlog, HistoryPage, Lane, Outbound, Peek, Report, Sender, SubscriptionSpec
from anybroker.testing import AdapterWrapper

from .breaking import Flaw
from .consuming import settlements

__all__ = [
    "CountsTheAgeFromTheNewest",
    "ForgetsTheAge",
    "HistoryIgnoresTheMoment",
    "HistoryReadsPastTheEnd",
    "PeekIgnoresTheGroup",
    "PeekIgnoresThePlace",
    "PeekLosesNotes",
    "PeekSettles",
]


class _Looking(AdapterWrapper):
    """Asks the flaw when it is looked at."""

    def __init__(self, inner: Adapter, flaw: _PeekFlaw) -> None:
        super().__init__(inner)
        self._flaw = flaw

    async def peek(self, topic: str, /, **options: Any) -> Peek:
        """Inspects.peek."""
        return await self._flaw.peek(self.inner, topic, **options)


class _PeekFlaw(Flaw):
    def of_adapter(self, adapter: Adapter) -> Adapter:
        """With a broken peek."""
        return _Looking(adapter, self)

    async def peek(self, adapter: Any, topic: str, **options: Any) -> Peek:
        """Inspects.peek."""
        page: Peek = await adapter.peek(topic, **options)
        return page


class PeekIgnoresTheGroup(_PeekFlaw):
    """A look at a group shows what the topic has, settled or not."""

    async def peek(self, adapter: Any, topic: str, **options: Any) -> Peek:
        """Inspects.peek."""
        whole: Peek = await adapter.peek(topic, **{**options, "group": None})
        return whole if options["group"] else await adapter.peek(topic, **options)


class PeekIgnoresThePlace(_PeekFlaw):
    """Every page is the first one."""

    async def peek(self, adapter: Any, topic: str, **options: Any) -> Peek:
        """Inspects.peek."""
        nowhere: Mapping[str, int] = {}
        page: Peek = await adapter.peek(topic, **{**options, "beyond": nowhere})
        return page


class PeekLosesNotes(_PeekFlaw):
    """A look at a group does not say what is finished beyond the committed position."""

    async def peek(self, adapter: Any, topic: str, **options: Any) -> Peek:
        """Inspects.peek."""
        return replace(await super().peek(adapter, topic, **options), notes={})


class _Ears:
    """A LaneListener that only listens."""

    def assigned(self, lane: Lane, note: str = "") -> None:
        """LaneListener."""

    async def revoked(self, lanes: object, /) -> None:
        """LaneListener."""

    def lost(self, lanes: object, /) -> None:
        """LaneListener."""


class PeekSettles(_PeekFlaw):
    """What was looked at in a group counts as settled."""

    async def peek(self, adapter: Any, topic: str, **options: Any) -> Peek:
        """Inspects.peek."""
        page = await super().peek(adapter, topic, **options)
        if options["group"]:
            spec = SubscriptionSpec(topic, options["group"], True, 4, "new", 100)
            receiver = await adapter.open_receiver(spec, _Ears())
            await receiver.settle(settlements(adapter, await receiver.receive(100, lanes=None, timeout=1.0)))
            await receiver.stop()
            await receiver.close()
        return page


class _Remembering(AdapterWrapper):
    """Asks the flaw what a topic keeps."""

    def __init__(self, inner: Adapter, flaw: _HistoryFlaw) -> None:
        super().__init__(inner)
        self._flaw = flaw

    async def history_extent(self, topic: str, /, **moments: Any) -> Mapping[str, tuple[int, int]]:
        """ReadsHistory.history_extent."""
        return await self._flaw.extent(self.inner, topic, **moments)

    async def read_history(self, topic: str, lane: str, begin: int, end: int, limit: int, /) -> HistoryPage:
        """ReadsHistory.read_history."""
        return await self._flaw.read(self.inner, topic, lane, begin, end, limit)


class _HistoryFlaw(Flaw):
    def of_adapter(self, adapter: Adapter) -> Adapter:
        """With a broken history."""
        return _Remembering(adapter, self)

    async def extent(self, adapter: Any, topic: str, **moments: Any) -> Mapping[str, tuple[int, int]]:
        """ReadsHistory.history_extent."""
        extent: Mapping[str, tuple[int, int]] = await adapter.history_extent(topic, **moments)
        return extent

    async def read(self, adapter: Any, topic: str, lane: str, begin: int, end: int, limit: int) -> HistoryPage:
        """ReadsHistory.read_history."""
        page: HistoryPage = await adapter.read_history(topic, lane, begin, end, limit)
        return page


class HistoryIgnoresTheMoment(_HistoryFlaw):
    """Everything that is kept was stored between any two moments."""

    async def extent(self, adapter: Any, topic: str, **moments: Any) -> Mapping[str, tuple[int, int]]:
        """ReadsHistory.history_extent."""
        return await super().extent(adapter, topic, since=None, until=None)


class HistoryReadsPastTheEnd(_HistoryFlaw):
    """A page has what was stored behind the end, too."""

    async def read(self, adapter: Any, topic: str, lane: str, begin: int, end: int, limit: int) -> HistoryPage:
        """ReadsHistory.read_history."""
        _, now = (await super().extent(adapter, topic, since=None, until=None))[lane]
        return await super().read(adapter, topic, lane, begin, now, limit)


class _Counting(AdapterWrapper):
    """Asks the flaw how old what waits is."""

    def __init__(self, inner: Adapter, flaw: ForgetsTheAge) -> None:
        super().__init__(inner)
        self._flaw = flaw

    async def backlog(self, topic: str, group: str, /) -> Backlog:
        """ReportsBacklog.backlog."""
        found: Backlog = await self.inner.backlog(topic, group)  # type: ignore[attr-defined]
        return replace(found, age=self._flaw.age(topic, found))


class ForgetsTheAge(Flaw):
    """What waits has always just been stored."""

    def of_adapter(self, adapter: Adapter) -> Adapter:
        """With a wrong age."""
        return _Counting(adapter, self)

    def age(self, topic: str, found: Backlog) -> float | None:
        """Backlog.age."""
        return 0.0


class CountsTheAgeFromTheNewest(ForgetsTheAge):
    """The age is that of the event that was published last, not of the oldest that waits."""

    def __init__(self) -> None:
        self._newest: dict[str, float] = {}

    async def submit(self, sender: Sender, batch: Sequence[Outbound], report: Report) -> None:
        """Sender.submit."""
        self._newest.update((outbound.topic, time()) for outbound in batch)
        await super().submit(sender, batch, report)

    def age(self, topic: str, found: Backlog) -> float | None:
        """Backlog.age."""
        return max(0.0, time() - self._newest[topic]) if found.lag and topic in self._newest else found.age
