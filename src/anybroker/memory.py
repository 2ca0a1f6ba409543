"""The memory adapter: the reference, and what users test with.

Buses in one process share it by being given the same :class:`MemoryBroker`; ``memory://`` makes one of its own. All of
them live in one event loop. Nothing survives the process, and nothing is copied: an event is immutable.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from heapq import heappop, heappush
from time import time
from typing import Any, ClassVar, Literal

from .adapter import (
    Ack,
    AdapterContext,
    AdapterSettings,
    Backlog,
    BrokerUrl,
    Foreign,
    GroupSpec,
    Inbound,
    Lane,
    LaneListener,
    Outbound,
    Receipt,
    Release,
    Report,
    Settlement,
    SubscriptionSpec,
    TopicSpec,
    Topology,
)
from .capabilities import Acknowledgement, Capabilities, Support
from .errors import BrokerError, ConfigError, LeaseLost, MissingGroup, Rejected

__all__ = ["MemoryAdapter", "MemoryBroker"]

_NO_HEADERS: Mapping[str, str] = {}


class _Group:
    """What waits for one group, and who has what."""

    def __init__(self, topic: str, spec: GroupSpec) -> None:
        self.topic = topic
        self.spec = spec
        self.fresh: deque[Outbound] = deque()
        """Never received, in publish order; behind everything that was."""
        self.returned: list[tuple[int, int, Outbound]] = []
        """Given back: position, starts, message; a heap, served first."""
        self.members: list[MemoryReceiver] = []
        self.waiting: deque[asyncio.Future[None]] = deque()
        self.position = 0
        self.owners: dict[str, tuple[MemoryReceiver, int]] = {}
        """With several members, for each key in flight: who has it, and how many of it. Empty with one member."""
        self.aside: dict[str, deque[tuple[int, int, Outbound]]] = {}
        """Taken out of the queue while another member had the key."""
        self.delayed = 0

    @property
    def shared(self) -> bool:
        return len(self.members) > 1 and self.spec.ordered

    def wake(self) -> None:
        waiting = self.waiting
        while waiting:
            future = waiting.popleft()
            if not future.done():
                future.set_result(None)
                return

    def wake_all(self) -> None:
        while self.waiting:
            self.wake()

    def put(self, outbound: Outbound) -> None:
        self.fresh.append(outbound)
        if self.waiting:
            self.wake()

    def put_later(self, delay: float, outbound: Outbound) -> None:
        self.delayed += 1

        def due() -> None:
            self.delayed -= 1
            self.put(outbound)

        asyncio.get_running_loop().call_later(delay, due)

    def put_back_later(self, delay: float, entry: tuple[int, int, Outbound]) -> None:
        self.delayed += 1

        def due() -> None:
            self.delayed -= 1
            heappush(self.returned, entry)
            self.wake()

        asyncio.get_running_loop().call_later(delay, due)

    def begin_sharing(self) -> None:
        """A second member comes: from now on it is known who has which key."""
        self.owners.clear()
        for member in self.members:
            for inbound in member.unsettled:
                self.own(inbound, member)

    def own(self, inbound: Inbound, member: MemoryReceiver) -> None:
        if inbound.key is not None:
            _, count = self.owners.get(inbound.key, (member, 0))
            self.owners[inbound.key] = (member, count + 1)

    def disown(self, inbound: Inbound) -> None:
        key = inbound.key
        if key is None or key not in self.owners:
            return
        member, count = self.owners[key]
        if count > 1:
            self.owners[key] = (member, count - 1)
            return
        del self.owners[key]
        for entry in self.aside.pop(key, ()):
            heappush(self.returned, entry)
        self.wake()

    def end_sharing(self) -> None:
        for entries in self.aside.values():
            for entry in entries:
                heappush(self.returned, entry)
        self.aside.clear()
        self.owners.clear()
        self.wake_all()

    def take(self, member: MemoryReceiver, limit: int) -> list[Inbound]:
        """What this member may have now, in order."""
        batch: list[Inbound] = []
        fresh, returned, lane = self.fresh, self.returned, member.lane
        shared = self.shared
        while (returned or fresh) and len(batch) < limit:
            if returned:
                position, starts, outbound = heappop(returned)
            else:
                position = self.position = self.position + 1
                starts, outbound = 0, fresh.popleft()
            key = outbound.event.key
            if shared and key is not None:
                owner = self.owners.get(key)
                if owner is not None and (owner[0] is not member or key in self.aside):
                    # Also what its owner could have, if something older of the key was put aside before it.
                    self.aside.setdefault(key, deque()).append((position, starts, outbound))
                    continue
                if key in self.aside:  # another member put earlier ones of it aside: they come first
                    for entry in (*self.aside.pop(key), (position, starts, outbound)):
                        heappush(returned, entry)
                    continue
            event = outbound.event
            if not isinstance(event, Foreign):
                event = event._without_data()  # as from any broker: the bytes, not the publisher's own object
            headers = outbound.headers or _NO_HEADERS
            inlet = outbound.group is not None
            inbound = Inbound(event, lane, position, key, headers, outbound, None, starts, inlet=inlet)
            if shared:
                self.own(inbound, member)
            batch.append(inbound)
        member.unsettled.update(batch)
        if self.waiting and (fresh or returned):
            self.wake()
        return batch


class MemoryBroker:
    """Topics and groups in memory. Give the same one to several Buses of one event loop."""

    def __init__(self) -> None:
        self.topics: dict[str, dict[str, _Group]] = {}
        self.count = itertools.count(1)
        """What receipts are numbered with."""

    def make_adapter(self, context: AdapterContext) -> MemoryAdapter:
        """What a Bus calls when it is given the broker instead of a URL."""
        return MemoryAdapter(BrokerUrl("memory", ()), MemoryAdapter.Settings(), context, self)

    def declare(self, topology: Topology, create: bool) -> None:
        """Make topics and groups, or raise ConfigError for the first that is missing."""
        for topic in topology.topics:
            groups = self.topics.get(topic.name)
            if groups is None:
                if not create:
                    raise ConfigError(f"topic {topic.name!r}", "does not exist", "Start with provision='create'.")
                groups = self.topics[topic.name] = {}
            for group in topic.groups:
                self._declare_group(topic, group, groups, create)

    def _declare_group(self, topic: TopicSpec, group: GroupSpec, groups: dict[str, _Group], create: bool) -> None:
        there = groups.get(group.name)
        if there is None:
            if not create:
                raise ConfigError(
                    f"group {group.name!r} of topic {topic.name!r}", "does not exist", "Start with provision='create'."
                )
            groups[group.name] = _Group(topic.name, group)
        elif there.spec.ordered != group.ordered:
            raise ConfigError(
                f"group {group.name!r} of topic {topic.name!r}",
                f"exists with ordered={there.spec.ordered}, and is asked for with ordered={group.ordered}",
                "Use the same setting for all members, or another group name.",
            )

    def group(self, topic: str, group: str) -> _Group:
        """The group, or ConfigError."""
        try:
            return self.topics[topic][group]
        except KeyError:
            raise MissingGroup(
                f"group {group!r} of topic {topic!r}", "does not exist", "Declare it, or start with provision='create'."
            ) from None

    def purge(self, topic: str, group: str) -> int:
        """Forget what waits for the group and is not out; returns how many events that was."""
        found = self.group(topic, group)
        count = len(found.fresh) + len(found.returned)
        found.fresh.clear()
        found.returned.clear()
        return count


class MemoryAdapter:
    """``memory://``."""

    capabilities = Capabilities(
        adapter="memory",
        acknowledgement=Acknowledgement.PER_MESSAGE,
        durable=Support.ABSENT,
        processes=Support.ABSENT,
        release=Support.NATIVE,
        delay=Support.NATIVE,
        backlog=Support.NATIVE,
    )
    Settings: ClassVar[type[AdapterSettings]] = AdapterSettings

    def __init__(
        self, url: BrokerUrl, settings: AdapterSettings, context: AdapterContext, broker: MemoryBroker | None = None
    ) -> None:
        if url.hosts or url.path:
            raise ConfigError("url", f"{url} names a server or a path", "Write memory:// and nothing behind it.")
        self.native = broker or MemoryBroker()

    async def connect(self) -> None:
        """Nothing to reach."""

    async def declare(self, topology: Topology, mode: Literal["create", "verify"], /) -> None:
        """Make or verify."""
        self.native.declare(topology, mode == "create")

    async def open_sender(self) -> MemorySender:
        """A sender."""
        return MemorySender(self.native)

    async def open_receiver(self, subscription: SubscriptionSpec, listener: LaneListener, /) -> MemoryReceiver:
        """A member of the group."""
        return MemoryReceiver(self.native.group(subscription.topic, subscription.group), listener)

    async def backlog(self, topic: str, group: str, /) -> Backlog:
        """What waits, and what is out."""
        found = self.native.group(topic, group)
        aside = sum(len(entries) for entries in found.aside.values())
        waiting = len(found.fresh) + len(found.returned) + found.delayed + aside
        return Backlog(waiting, sum(len(member.unsettled) for member in found.members))

    async def groups(self) -> Mapping[str, Collection[str]]:
        """All of them."""
        return {topic: list(groups) for topic, groups in self.native.topics.items()}

    async def close(self) -> None:
        """Nothing to close."""


class MemorySender:
    """Puts events into the queues of the groups; accepted at once."""

    def __init__(self, broker: MemoryBroker) -> None:
        self._broker = broker

    async def submit(self, batch: Sequence[Outbound], report: Report, /) -> None:
        """Sender.submit."""
        topics, count = self._broker.topics, self._broker.count
        for outbound in batch:
            name = outbound.topic
            groups = topics.get(name)
            if groups is None:
                report(outbound, Rejected(f"topic {name!r} does not exist: declare it, or use provision='create'"))
                continue
            chosen: Iterable[_Group] = groups.values()
            if outbound.group is not None:
                if outbound.group not in groups:
                    report(outbound, Rejected(f"group {outbound.group!r} of topic {name!r} does not exist"))
                    continue
                chosen = (groups[outbound.group],)
            if outbound.headers is not None:
                try:
                    outbound.headers = dict(outbound.headers)  # read here as by any broker, not when it is received
                except Exception as exc:  # noqa: BLE001 - whatever it is, it fails this event alone
                    report(outbound, Rejected(f"an event for topic {name!r} has headers that cannot be read: {exc!r}"))
                    continue
            if outbound.not_before is not None and (delay := outbound.not_before - time()) > 0:
                for group in chosen:
                    group.put_later(delay, outbound)
            else:
                for group in chosen:
                    group.fresh.append(outbound)
                    if group.waiting:
                        group.wake()
            report(outbound, Receipt(name, str(next(count))))

    async def close(self) -> None:
        """Nothing is buffered."""


class MemoryReceiver:
    """A member of a group."""

    def __init__(self, group: _Group, listener: LaneListener) -> None:
        self._group = group
        self._stopped = False
        self.lane = Lane(group.topic, len(group.members))
        self.unsettled: set[Inbound] = set()
        self._future: asyncio.Future[None] | None = None
        group.members.append(self)
        if len(group.members) == 2 and group.spec.ordered:
            group.begin_sharing()
        listener.assigned(self.lane)

    async def receive(self, limit: int, /, *, lanes: Collection[Lane] | None, timeout: float) -> Sequence[Inbound]:
        """Receiver.receive."""
        if self._stopped:
            return ()
        group = self._group
        batch = group.take(self, limit)
        if batch:
            return batch
        loop = asyncio.get_running_loop()
        self._future = future = loop.create_future()
        group.waiting.append(future)
        timer = loop.call_later(timeout, _wake, future)
        try:
            await future
        finally:
            timer.cancel()
            self._future = None
            if group.waiting and future in group.waiting:  # nobody woke it
                group.waiting.remove(future)
        if self._stopped:
            group.wake()  # it was woken for an event that another member has to take now
            return ()
        return group.take(self, limit)

    async def settle(self, batch: Sequence[Settlement], /) -> Sequence[BrokerError | None]:
        """Receiver.settle."""
        group, unsettled = self._group, self.unsettled
        shared = bool(group.owners)
        results: list[BrokerError | None] = []
        for settlement in batch:
            if not isinstance(settlement, Ack | Release):
                raise TypeError("the memory adapter settles each message by itself")
            inbound = settlement.inbound
            if inbound not in unsettled:
                results.append(LeaseLost("settled already"))
                continue
            unsettled.discard(inbound)
            if isinstance(settlement, Release):
                entry = (inbound.position, settlement.attempts, inbound.raw)
                if settlement.delay > 0:
                    group.put_back_later(settlement.delay, entry)
                else:
                    heappush(group.returned, entry)
                    group.wake()
            if shared:
                group.disown(inbound)
            results.append(None)
        return results

    async def give_back(self, lane: Lane, /) -> None:
        """Keys are shared out by the broker as they come."""

    async def stop(self) -> None:
        """Receiver.stop."""
        self._stopped = True
        if self._future is not None and not self._future.done():
            self._future.set_result(None)

    async def close(self) -> None:
        """Receiver.close."""
        await self.stop()
        group = self._group
        if self not in group.members:
            return
        group.members.remove(self)
        for inbound in self.unsettled:
            heappush(group.returned, (inbound.position, inbound.attempts, inbound.raw))
        if len(group.members) < 2:
            group.end_sharing()
        else:
            for inbound in self.unsettled:
                group.disown(inbound)
        self.unsettled.clear()
        group.wake_all()


def _wake(future: asyncio.Future[Any]) -> None:
    if not future.done():
        future.set_result(None)
