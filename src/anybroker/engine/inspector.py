"""Looking at what the broker has, without receiving or settling any of it."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping

from ..adapter import Inspects, ListsGroups, Peek, Peeked
from ..errors import CapabilityError, MissingGroup
from ..names import check_stored
from .calls import as_failure
from .core import Core
from .ledger import parse_note

__all__ = ["Inspector"]

_REMEDY = "Use the broker's own tools, or subscribe another group."


class Inspector:
    """``bus.inspect``: topics, groups, members and stored events. Looking moves nothing: no group is joined, nothing is
    settled, and no position, lease or delivery count changes.

    Every call raises ``StateError`` before the start, ``CapabilityError`` where the broker cannot, ``MissingGroup``
    for a topic or group that is not there, and ``Unavailable``.
    """

    def __init__(self, core: Core) -> None:
        self._core = core

    async def topics(self) -> Mapping[str, Collection[str]]:
        """The broker's topics, each with its groups; dead-letter topics are topics like others."""
        self._core.check_started("inspect")
        adapter = self._core.adapter
        if not isinstance(adapter, ListsGroups):
            raise CapabilityError(adapter.capabilities.adapter, "inspect", "bus.inspect.topics()", _REMEDY)
        return await as_failure("listing topics", adapter.groups())

    async def members(self, topic: str, group: str) -> int | None:
        """How many members the group has now, in all processes; None where the broker cannot tell."""
        check_stored(topic, group)
        adapter = self._adapter("bus.inspect.members()")
        try:
            return await as_failure("counting members", adapter.members(topic, group))
        except MissingGroup as exc:
            raise await self._core.no_group(topic, group) from exc

    async def peek(
        self,
        topic: str,
        *,
        group: str | None = None,
        limit: int = 100,
        newest: bool = False,
        beyond: Mapping[str, int] | None = None,
    ) -> Peek:
        """Up to ``limit`` stored events of a topic, oldest or newest first; in order within each lane.

        With ``group`` only those that the group has not settled, waiting or in flight; ``exact`` of the result is False
        where the broker cannot tell which of them are settled by now. Without, all that the topic keeps (a broker that
        keeps nothing once it is consumed shows what some group has not settled). Events that are held back until a
        later time may be left out. ``beyond`` goes on behind an earlier result: by lane, the position of the last event
        that was seen.
        """
        check_stored(topic, group)
        adapter = self._adapter("bus.inspect.peek()")
        last_seen = dict(beyond or {})
        await asyncio.sleep(0)  # an adapter in memory never waits, and a caller that polls must let others run
        events: list[Peeked] = []
        exact = True
        while len(events) < limit:
            looking = adapter.peek(topic, group=group, limit=limit - len(events), newest=newest, beyond=last_seen)
            try:
                page = await as_failure("peeking", looking)
            except MissingGroup as exc:
                if group is None:
                    raise
                raise await self._core.no_group(topic, group) from exc
            exact = exact and page.exact
            notes = {lane: parse_note(note) for lane, note in page.notes.items() if note}
            kept = [
                event for event in page.events if event.lane not in notes or not notes[event.lane].names(event.position)
            ]
            events += kept
            if len(kept) == len(page.events):
                break
            last_seen.update((event.lane, event.position) for event in page.events)
        return Peek(events, exact)

    def _adapter(self, setting: str) -> Inspects:
        self._core.check_started("inspect")
        adapter = self._core.adapter
        adapter.capabilities.require("inspect", setting=setting, remedy=_REMEDY)
        assert isinstance(adapter, Inspects)
        return adapter
