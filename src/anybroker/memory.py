"""The memory adapter: the reference, and what users test with.

``memory://`` makes a new :class:`MemoryBroker`. To share one, give the same object to several Buses of one event loop.
Nothing survives the process, and nothing is copied: an event is immutable.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from heapq import heappop, heappush
from operator import itemgetter
from time import monotonic, time
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
    Peek,
    Peeked,
    Receipt,
    Release,
    Report,
    Settlement,
    SubscriptionSpec,
    TopicSpec,
    Topology,
    age_since,
)
from .capabilities import Acknowledgement, Capabilities, Support
from .errors import BrokerError, ConfigError, LeaseLost, MissingGroup, Rejected

__all__ = ["MemoryAdapter", "MemoryBroker"]

_NO_HEADERS: Mapping[str, str] = {}


_numbers = itertools.count()


class _Group:
    """What waits for one group, and which member has what."""

    def __init__(self, topic: str, spec: GroupSpec) -> None:
        self.topic = topic
        self.spec = spec
        self.fresh: deque[Outbound] = deque()
        """Events that were never received, in publish order. They come after all that were returned."""
        self.returned: list[tuple[int, int, Outbound]] = []
        """A heap of events that were given back (position, starts, message). They are served first."""
        self.members: list[MemoryReceiver] = []
        self.waiting: deque[asyncio.Future[None]] = deque()
        self.position = 0
        self.owners: dict[str, tuple[MemoryReceiver, int]] = {}
        """With several members, the owner and the number of events of each key in flight. Empty with one member."""
        self.aside: dict[str, deque[tuple[int, int, Outbound]]] = {}
        """Events that were taken out of the queue while another member had their key."""
        self._later: dict[int, tuple[float, Callable[[], None], Outbound]] = {}
        """What happens at a moment of the monotonic clock, and to which event."""
        self._loop: asyncio.AbstractEventLoop | None = None
        """The event loop whose timers these are."""

    @property
    def delayed(self) -> int:
        """How many events wait for their time."""
        return len(self._later)

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
        self._at(monotonic() + delay, lambda: self.put(outbound), outbound)

    def put_back_later(self, delay: float, entry: tuple[int, int, Outbound]) -> None:
        def due() -> None:
            heappush(self.returned, entry)
            self.wake()

        self._at(monotonic() + delay, due, entry[2])

    def _at(self, moment: float, due: Callable[[], None], outbound: Outbound) -> None:
        self.follow_loop()
        number = next(_numbers)
        self._later[number] = moment, due, outbound
        self._arm(number, moment)

    def _arm(self, number: int, moment: float) -> None:
        asyncio.get_running_loop().call_later(max(moment - monotonic(), 0.0), self._due, number)

    def _due(self, number: int) -> None:
        _, due, _ = self._later.pop(number)
        due()

    def follow_loop(self) -> None:
        """Wait in this event loop for what waited in another one, which has ended."""
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._loop = loop
            for number, (moment, _, _) in self._later.items():
                self._arm(number, moment)

    def begin_sharing(self) -> None:
        """A second member joins: from now on track who has which key."""
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

    def unfinished(self) -> list[tuple[int, Outbound]]:
        """What is not settled, by position; what is held back until its time is left out."""
        put_aside = itertools.chain(self.returned, *self.aside.values())
        out = ((inbound.position, inbound.raw) for member in self.members for inbound in member.unsettled)
        known = [*out, *((position, outbound) for position, _, outbound in put_aside)]
        known.sort(key=itemgetter(0))
        return [*known, *enumerate(self.fresh, self.position + 1)]

    def oldest(self) -> float | None:
        """Since when the oldest event that is not settled waits: since it was stored, or since its delay ended."""
        put_aside = itertools.chain(self.returned, *self.aside.values())
        known: Iterable[Outbound] = itertools.chain(
            itertools.islice(self.fresh, 1),  # they are in this order
            (outbound for _, _, outbound in put_aside),
            (inbound.raw for member in self.members for inbound in member.unsettled),
            (outbound for _, _, outbound in self._later.values()),
        )
        return min((max(each.stored, each.not_before or 0.0) for each in known), default=None)

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
                    # Also an event that its own member could take, if an older one of the key was put aside before.
                    self.aside.setdefault(key, deque()).append((position, starts, outbound))
                    continue
                if key in self.aside:  # earlier events of the key were put aside for another member: they come first
                    for entry in (*self.aside.pop(key), (position, starts, outbound)):
                        heappush(returned, entry)
                    continue
            event = outbound.event
            if not isinstance(event, Foreign):
                event = event._without_data()  # as from any broker: the bytes, not the publisher's object
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
        """The number of the next receipt."""

    def make_adapter(self, context: AdapterContext) -> MemoryAdapter:
        """What a Bus calls when it is given the broker instead of a URL."""
        return MemoryAdapter(BrokerUrl("memory", ()), MemoryAdapter.Settings(), context, self)

    def declare(self, topology: Topology, create: bool) -> None:
        """Create topics and groups, or raise ConfigError for the first that is missing."""
        for topic in topology.topics:
            groups = self.topics.get(topic.name)
            if groups is None:
                if not create:
                    raise ConfigError(f"topic {topic.name!r}", "does not exist", "Start with provision='create'.")
                groups = self.topics[topic.name] = {}
            for group in topic.groups:
                self._declare_group(topic, group, groups, create)

    def _declare_group(self, topic: TopicSpec, group: GroupSpec, groups: dict[str, _Group], create: bool) -> None:
        existing = groups.get(group.name)
        if existing is None:
            if not create:
                raise ConfigError(
                    f"group {group.name!r} of topic {topic.name!r}", "does not exist", "Start with provision='create'."
                )
            groups[group.name] = _Group(topic.name, group)
        elif existing.spec.ordered != group.ordered:
            raise ConfigError(
                f"group {group.name!r} of topic {topic.name!r}",
                f"exists with ordered={existing.spec.ordered}, but ordered={group.ordered} is asked for",
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

    def peek(self, topic: str, group: str | None, limit: int, newest: bool, beyond: Mapping[str, int]) -> list[Peeked]:
        """See :meth:`anybroker.adapter.Inspects.peek`. A lane for each group: an event is in that of the first group
        that has not settled it."""
        groups = self.topics.get(topic)
        if groups is None:
            raise MissingGroup(f"topic {topic!r}", "does not exist", "Declare it, or start with provision='create'.")
        chosen = groups if group is None else {group: self.group(topic, group)}
        found: list[Peeked] = []
        seen: set[int] = set()
        for name, each in chosen.items():
            lane = f"{topic}/{name}"
            last = beyond.get(lane)
            unfinished = each.unfinished()
            for position, outbound in reversed(unfinished) if newest else unfinished:
                if id(outbound) in seen or (group is None and outbound.group is not None):
                    continue
                seen.add(id(outbound))
                if last is None or (position < last if newest else position > last):
                    found.append(_peeked(lane, position, outbound))
        return found[:limit]

    def purge(self, topic: str, group: str) -> int:
        """Drop what waits for the group and is not in flight; returns how many events that was."""
        waiting = self.group(topic, group)
        count = len(waiting.fresh) + len(waiting.returned)
        waiting.fresh.clear()
        waiting.returned.clear()
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
        backlog_age=Support.NATIVE,
        inspect=Support.NATIVE,
    )
    Settings: ClassVar[type[AdapterSettings]] = AdapterSettings

    def __init__(
        self, url: BrokerUrl, settings: AdapterSettings, context: AdapterContext, broker: MemoryBroker | None = None
    ) -> None:
        if url.hosts or url.path:
            raise ConfigError("url", f"{url} names a server or a path", "Write memory:// and nothing after it.")
        self.native = broker or MemoryBroker()

    async def connect(self) -> None:
        """Nothing to connect to."""

    async def declare(self, topology: Topology, mode: Literal["create", "verify"], /) -> None:
        """Make or verify."""
        self.native.declare(topology, mode == "create")

    async def open_sender(self) -> MemorySender:
        """A sender."""
        return MemorySender(self.native)

    async def open_receiver(self, subscription: SubscriptionSpec, listener: LaneListener, /) -> MemoryReceiver:
        """A member of the group."""
        group = self.native.group(subscription.topic, subscription.group)
        group.follow_loop()
        return MemoryReceiver(group, listener)

    async def backlog(self, topic: str, group: str, /) -> Backlog:
        """What waits, what is in flight, and since when."""
        queue = self.native.group(topic, group)
        aside = sum(len(entries) for entries in queue.aside.values())
        waiting = len(queue.fresh) + len(queue.returned) + queue.delayed + aside
        in_flight = sum(len(member.unsettled) for member in queue.members)
        return Backlog(waiting, in_flight, age_since(queue.oldest()))

    async def groups(self) -> Mapping[str, Collection[str]]:
        """All of them."""
        return {topic: list(groups) for topic, groups in self.native.topics.items()}

    async def members(self, topic: str, group: str, /) -> int | None:
        """All of them."""
        return len(self.native.group(topic, group).members)

    async def peek(
        self, topic: str, /, *, group: str | None, limit: int, newest: bool, beyond: Mapping[str, int]
    ) -> Peek:
        """What the groups have not settled."""
        return Peek(self.native.peek(topic, group, limit, newest, beyond))

    async def close(self) -> None:
        """Nothing to close."""


class MemorySender:
    """Puts events into the queues of the groups; accepted at once."""

    def __init__(self, broker: MemoryBroker) -> None:
        self._broker = broker

    async def submit(self, batch: Sequence[Outbound], report: Report, /) -> None:
        """Sender.submit."""
        topics, count = self._broker.topics, self._broker.count
        now = time()
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
                    outbound.headers = dict(outbound.headers)  # read now, as with any broker, not on receipt
                except Exception as exc:  # noqa: BLE001 - any error fails this event alone
                    report(outbound, Rejected(f"an event for topic {name!r} has headers that cannot be read: {exc!r}"))
                    continue
            outbound.stored = now
            if outbound.not_before is not None and (delay := outbound.not_before - now) > 0:
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
            if group.waiting and future in group.waiting:  # it was not woken
                group.waiting.remove(future)
        if self._stopped:
            group.wake()  # it was woken for an event that another member must take now
            return ()
        return group.take(self, limit)

    async def settle(self, batch: Sequence[Settlement], /) -> Sequence[BrokerError | None]:
        """Receiver.settle."""
        group, unsettled = self._group, self.unsettled
        shared = bool(group.owners)
        results: list[BrokerError | None] = []
        for settlement in batch:
            if not isinstance(settlement, Ack | Release):
                raise TypeError("the memory adapter settles each message separately")
            inbound = settlement.inbound
            if inbound not in unsettled:
                results.append(LeaseLost("already settled"))
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
        """Does nothing: the broker assigns keys as they arrive."""

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


def _peeked(lane: str, position: int, outbound: Outbound) -> Peeked:
    event = outbound.event
    if not isinstance(event, Foreign):
        event = event._without_data()
    return Peeked(event, lane, position, event.key, outbound.headers or _NO_HEADERS, None, outbound)


def _wake(future: asyncio.Future[Any]) -> None:
    if not future.done():
        future.set_result(None)
