"""A Bus with normal traffic, and hostile messages between its events."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from anybroker import Bus, Delivery, Event, Subscription, event_type
from anybroker.middleware import retry

from .._kit import TYPE, Kit, counted
from .._waiting import Signal, wait_until
from ..raw.api import RawClient, RawMessage
from .messages import KEY

__all__ = ["Attack", "Outcome"]

GROUPS = ("g", "typed")
"""The groups of the topic: the handler of one takes the event, that of the other a payload."""
COPIED = 16 * 1024
"""Most bytes of attributes on what a handler publishes."""


@event_type(TYPE)
class Counted(BaseModel):
    """What good events carry."""

    n: int


@dataclass(frozen=True)
class Outcome:
    """The outcome of one hostile message."""

    name: str
    became: str
    """``handled``, ``dead letter``, ``dropped`` (with a log line and a count), or what the client or the broker said
    when it did not take it."""
    good: int
    """Good events around it that were handled by both groups: all of them."""
    before: int
    """Resident bytes before it came."""
    after: int
    """Resident bytes after it, and after a collection."""

    @property
    def taken(self) -> bool:
        """Whether it was in the topic."""
        return not self.became.startswith("not taken")


def resident() -> int:
    """Bytes of this process in memory, after freed memory was returned to the system; 0 if unknown."""
    gc.collect()
    statm = Path("/proc/self/statm")
    if not statm.exists():
        return 0
    ctypes.CDLL(None).malloc_trim(0)
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Attack:
    """Both groups consume, and their handlers publish, while :meth:`send` puts hostile messages between good ones."""

    def __init__(self, kit: Kit, *, measured: bool = False) -> None:
        """``measured``: memory before and after each message, which takes a tenth of a second in a large process."""
        self._kit = kit
        self._resident = resident if measured else int
        self._topic, self._onward = kit.topic(), kit.topic()
        self._bus: Bus = kit.bus(lease=20.0)
        self._client: RawClient | None = None
        self.publisher = self._bus
        """Of the good events."""
        self._changed = Signal()
        self._good: dict[str, set[str]] = {group: set() for group in GROUPS}
        self._handled: Counter[str] = Counter()
        self._published = self._arrived = self._number = 0
        self.too_large: list[str] = []
        """Events that a handler published with more attributes than they should have."""
        self._subscriptions: dict[str, Subscription] = {}

    @property
    def bus(self) -> Bus:
        """The Bus under attack."""
        return self._bus

    @property
    def topic(self) -> str:
        """Where the messages go."""
        return self._topic

    def subscription(self, group: str) -> Subscription:
        """Of one of the two groups."""
        return self._subscriptions[group]

    async def __aenter__(self) -> Attack:
        """Make the topics and subscribe; the Bus is not started."""
        await self._kit.declared(self._topic, *GROUPS)
        quickly = [retry(attempts=2, first=0.01)]
        handlers: dict[str, Callable[..., Any]] = {"g": self._plain, "typed": self._typed}
        for group, handler in handlers.items():
            subscription = self._bus.subscription(self._topic, group=group, middleware=quickly)
            subscription.on(handler, name=group)
            self._subscriptions[group] = subscription
        self._bus.subscription(self._onward, group="o").on(self._onwards, name="onward")
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._leave()

    async def _plain(self, delivery: Delivery) -> None:
        self._saw("g", delivery.event)
        if delivery.event.source != "contract":
            self._published += 1
            await self._bus.publish(self._onward, Counted(n=1), key=KEY, id=f"o-{self._published}")

    async def _typed(self, payload: Counted, event: Event[Any]) -> None:
        self._saw("typed", event)

    async def _onwards(self, event: Event[Any]) -> None:
        size = sum(len(name) + len(str(value)) for name, value in event.attributes.items())
        if size > COPIED:
            self.too_large.append(f"{size} bytes of attributes")
        self._arrived += 1
        self._changed.fire()

    def _saw(self, group: str, event: Event[Any]) -> None:
        if event.source == "contract":
            self._good[group].add(event.id)
        else:
            self._handled[group] += 1
        self._changed.fire()

    # ------------------------------------------------------------------------------------------------- good events

    async def publish_good(self, count: int = 2) -> list[str]:
        """Good events, every second one under the key that hostile events have; their ids."""
        events = []
        for _ in range(count):
            self._number += 1
            events.append(counted(self._number, key=KEY if self._number % 2 else "other"))
        await asyncio.gather(*(self.publisher.publish(self._topic, event) for event in events))
        return [event.id for event in events]

    async def wait_good(self, ids: list[str], what: str) -> None:
        """Return when both groups have handled them."""
        for group in GROUPS:
            await self._wait_good(group, set(ids), what)

    async def _wait_good(self, group: str, ids: set[str], what: str) -> None:
        found = self._good[group]
        await self._until(
            lambda: ids <= found,
            lambda: f"{what}: {len(ids - found)} good events not handled by {group}: {self._state()}",
        )

    # ---------------------------------------------------------------------------------------------- hostile messages

    async def send(self, name: str, message: RawMessage, times: int = 1) -> Outcome:
        """The message, with good ones around it; returns when the good ones are handled and it is dealt with.

        AssertionError where that does not happen.
        """
        groups = GROUPS[:1] if message.past_the_topic else GROUPS
        before, memory = self._counts(groups), self._resident()
        ids = await self.publish_good()
        refused = ""
        for _ in range(times):
            if refused := await self.put(message):
                break
            ids += await self.publish_good()
        await self.wait_good(ids, name)
        if refused:
            return Outcome(name, refused, len(ids), memory, self._resident())
        became = [await self._became(group, before[group], times, name) for group in groups]
        await self._until(
            lambda: self._arrived >= self._published,
            lambda: f"{name}: {self._published - self._arrived} events that a handler published did not arrive",
        )
        said = became[0] if len(set(became)) == 1 else f"{became[0]} ({GROUPS[1]}: {became[1]})"
        return Outcome(name, said, len(ids), memory, self._resident())

    async def put(self, message: RawMessage) -> str:
        """The message alone; empty, or why it did not get there. The next one comes by another connection then."""
        if self._client is None:
            self._client = self._kit.harness.raw()
            await self._client.__aenter__()
        try:
            async with asyncio.timeout(20):
                await self._client.send(self._topic, GROUPS[0], message)
        except Exception as exc:  # noqa: BLE001 - the client or the broker may refuse such a message with any error
            await self._leave()
            return f"not taken: {type(exc).__name__}"
        return ""

    async def _leave(self) -> None:
        if self._client is not None:
            client, self._client = self._client, None
            await client.__aexit__(None, None, None)

    async def dealt_with(self, group: str, count: int) -> None:
        """Return when that many hostile messages have come to an end in a group."""
        await self._until(
            lambda: sum(self._count(group).values()) >= count,
            lambda: f"{group}: {self._count(group)} of {count} messages, {self._state()}",
        )

    def _counts(self, groups: tuple[str, ...]) -> dict[str, dict[str, int]]:
        return {group: self._count(group) for group in groups}

    def _count(self, group: str) -> dict[str, int]:
        stats = self._subscriptions[group].stats
        return {
            "handled": self._handled[group],
            "dead letter": stats.dead_lettered,
            "of no type here": stats.unhandled,
        }

    async def _became(self, group: str, before: dict[str, int], times: int, name: str) -> str:
        """What happened to it, and how often, in a group."""

        def new() -> dict[str, int]:
            now = self._count(group)
            return {what: now[what] - count for what, count in before.items() if now[what] > count}

        await self._until(
            lambda: sum(new().values()) >= times,
            lambda: f"{name}: {group} did nothing with it: {new()}, {self._state()}",
        )
        found = new()
        assert sum(found.values()) == times, f"{name}: {times} came to {group}, and became {found}"
        return " and ".join(found)

    async def _until(self, condition: Callable[[], object], what: Callable[[], str]) -> None:
        """Counts of the Bus change without a signal, so the condition is polled."""
        loop = asyncio.get_running_loop()
        end = loop.time() + self._kit.patience
        while not condition() and loop.time() < end:
            await self._changed.wait(0.01)
        await wait_until(condition, 0.0, self._changed, what)

    def _state(self) -> str:
        reconnects = {group: each.stats.reconnects for group, each in self._subscriptions.items()}
        return f"problems {self._bus.problems}, reconnects {reconnects}"
