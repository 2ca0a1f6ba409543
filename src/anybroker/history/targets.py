"""Where replayed events go: copies to one group or to another topic."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from time import time
from typing import NamedTuple, Protocol

from ..adapter import ListsGroups, Peeked, Receipt
from ..engine.calls import as_failure
from ..engine.core import Core
from ..errors import BrokerError, ConfigError, EventError, MissingGroup, Rejected
from ..names import check_names, check_topic, is_owned
from .cursor import Cursor

__all__ = ["Copying", "Sent", "Target", "to_group", "to_topic"]


class Sent(NamedTuple):
    """What became of one event."""

    item: Peeked
    error: Exception | None = None
    """Why it is not there."""
    duplicate: bool = False
    """Whether the target had it already."""
    ends: bool = False
    """Whether the error ends the replay: the broker may take the event later."""


class Target(Protocol):
    """Takes events in order."""

    batch: int
    """The most events at once: as many may come again when a replay that was killed goes on."""

    def takes(self, item: Peeked) -> bool:
        """Whether this event is for it."""
        ...

    def send(self, items: Sequence[Peeked], cursor: Cursor) -> AsyncGenerator[Sent, None]:
        """Send these; each result in order, as soon as it is known."""
        ...

    async def close(self) -> None:
        """Nothing more comes."""
        ...


class Copying:
    """Publishes copies, confirmed: the same event, under the same id, with its transport headers."""

    batch = 500

    def __init__(self, core: Core, topic: str, group: str | None) -> None:
        self._core = core
        self._topic = topic
        self._group = group

    def takes(self, item: Peeked) -> bool:
        """All, foreign messages too."""
        return True

    async def send(self, items: Sequence[Peeked], cursor: Cursor) -> AsyncGenerator[Sent, None]:
        """All at once, in order; the results when all are known."""
        name = f"replay|{self._group or self._topic}|{cursor.run}.{cursor.tries}"
        sending = [self._copy(item, f"{name}|{item.lane}|{item.position}") for item in items]
        for item, result in zip(items, await asyncio.gather(*sending, return_exceptions=True), strict=True):
            if isinstance(result, Receipt):
                yield Sent(item, None, result.duplicate)
            elif isinstance(result, BrokerError | EventError):
                yield Sent(item, result, ends=not isinstance(result, Rejected | EventError))
            else:
                raise result

    async def _copy(self, item: Peeked, hop: str) -> Receipt:
        headers = {name: value for name, value in item.headers.items() if not is_owned(name)}
        if self._group is not None:
            headers |= {"anybroker-replays": "1", "anybroker-replayed-at": f"{time():.3f}"}
        return await self._core.copies.send_as(item.event, self._topic, self._group, headers, hop)

    async def close(self) -> None:
        """Nothing to close."""


async def to_group(core: Core, topic: str, group: str) -> Copying:
    """To one group, through its inlet. MissingGroup if it is not there."""
    check_names(topic, group)
    await core.check_group(topic, group)
    return Copying(core, topic, group)


async def to_topic(core: Core, topic: str, into: str) -> Copying:
    """To all groups of another topic. Raises ConfigError for the topic itself, and for one that is not there and is not
    to be made."""
    check_topic(into)
    if into == topic:
        raise ConfigError(
            "replay(into=)",
            f"{into!r} is the topic itself: every group would get the events again",
            "Replay into one group (group=), or into another topic.",
        )
    adapter = core.adapter
    there = await as_failure("listing topics", adapter.groups()) if isinstance(adapter, ListsGroups) else None
    if there is None or (into not in there and core.settings.provision == "create"):
        await core.topics.first_publish(into, 0)
    elif into not in there:
        raise MissingGroup("replay(into=)", f"there is no topic {into!r}", "Declare it first, with its groups.")
    return Copying(core, into, None)
