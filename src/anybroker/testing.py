"""For tests of programs that use anybroker: waiting, recording, and a broker that fails on purpose.

    broker = FaultyBroker(MemoryBroker(), fail("publish", nth=2))
    bus = Bus(broker, source="shop")

Give the Bus under test a :class:`~anybroker.memory.MemoryBroker` (the pytest fixture ``memory_broker``, with
``pytest_plugins = ["anybroker.testing"]``), publish, ``await settled(bus)``, and look at what the handlers did, or at
what a :class:`Recorder` saw.

(PYTEST_DONT_REWRITE: this module has no assertions, and may have been imported before pytest knows about it.)
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from importlib.util import find_spec
from typing import Any, ClassVar, Generic, Literal, TypedDict, TypeVar, Unpack, cast, overload

from .adapter import (
    Adapter,
    AdapterContext,
    AdapterSettings,
    Backlog,
    BalancesLanes,
    BoundsLanes,
    ExtendsLease,
    HistoryPage,
    Inbound,
    Inspects,
    Lane,
    LaneListener,
    ListsGroups,
    Outbound,
    Peek,
    ReadsHistory,
    Receipt,
    Receiver,
    Replays,
    Report,
    ReportsBacklog,
    Sender,
    Settlement,
    Start,
    SubscriptionSpec,
    Topology,
)
from .bus import AdapterFactory, Bus
from .cloudevents.event import Event
from .config.registry import make_adapter
from .config.settings import parse_url
from .errors import BrokerError, ConfigError, Unavailable
from .idempotency import Store
from .memory import MemoryBroker

__all__ = [
    "AdapterWrapper",
    "Fault",
    "FaultyBroker",
    "ReceiverWrapper",
    "Recorder",
    "SenderWrapper",
    "Which",
    "adapter_of",
    "delay",
    "drop",
    "duplicate",
    "fail",
    "override",
    "settled",
]

_T = TypeVar("_T")


# ------------------------------------------------------------------------------------------------------- for users


@contextmanager
def override(bus: Bus, broker: AdapterFactory, *, idempotency: str | Store | None = "memory://") -> Iterator[Bus]:
    """Meanwhile a Bus of an application runs on another broker, without importing anything again.

        with override(shop.bus, MemoryBroker()) as bus:
            async with bus:
                await bus.publish("orders", OrderPlaced("o-1"))
                await settled(bus)

    Topics and groups are made, whatever ``provision`` says; handlers, middleware, parts and all other settings stay.
    ``idempotency`` is the store of handlers that name none. The Bus is started and closed inside, as often as is
    wanted; StateError where it runs when the override begins or ends.
    """
    with bus._core.override(broker, idempotency):
        yield bus


async def settled(bus: Bus, *, deadline: float = 5.0) -> None:
    """Return when nothing waits for any subscription of the Bus and nothing is in flight.

    Events that wait for another attempt count as in flight. Raises ``TimeoutError`` after ``deadline`` seconds, naming
    the subscription that is behind, and CapabilityError if the broker cannot count.
    """
    loop = asyncio.get_running_loop()
    end = loop.time() + deadline
    for subscription in bus._subscriptions:
        while (lag := (await bus.backlog(subscription.topic, subscription.group)).lag) or subscription.buffered:
            if loop.time() > end:
                raise TimeoutError(f"{subscription.topic}/{subscription.group}: {lag} events are not done yet")
            await asyncio.sleep(0.002)


class Recorder:
    """A separate group on some topics of a Bus that keeps every event it gets. Make it before the Bus starts."""

    def __init__(self, bus: Bus, *topics: str, group: str = "recorder") -> None:
        self.events: list[Event[Any]] = []
        self._arrived: list[asyncio.Future[None]] = []
        for topic in topics:
            bus.subscribe(topic, group=group, name=f"recorder of {topic}")(self._record)

    async def _record(self, event: Event[Any]) -> None:
        self.events.append(event)
        waiting, self._arrived = self._arrived, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    async def wait(self, count: int, *, deadline: float = 5.0) -> list[Event[Any]]:
        """The events, as soon as there are ``count``; ``TimeoutError`` after ``deadline`` seconds."""
        try:
            async with asyncio.timeout(deadline):
                while len(self.events) < count:
                    future = asyncio.get_running_loop().create_future()
                    self._arrived.append(future)
                    await future
        except TimeoutError:
            raise TimeoutError(f"{len(self.events)} of {count} events came within {deadline:g} s") from None
        return self.events


if find_spec("pytest") is not None:
    import pytest

    @pytest.fixture
    def memory_broker() -> MemoryBroker:
        """A new broker in memory, for the Buses of one test: ``Bus(memory_broker, source="test")``."""
        return MemoryBroker()


# -------------------------------------------------------------------------------------------------------- wrappers


def adapter_of(broker: str | AdapterFactory, context: AdapterContext) -> Adapter:
    """The adapter, not connected, that a Bus would make of this URL or factory. Raises ConfigError."""
    if isinstance(broker, str):
        return make_adapter(parse_url(broker), None, context)
    return broker.make_adapter(context)


class _Extends:
    inner: ExtendsLease

    async def extend(self, batch: Sequence[Inbound], /) -> Sequence[BrokerError | None]:
        """As the wrapped one."""
        result: Sequence[BrokerError | None] = await self.inner.extend(batch)
        return result


class _Balances:
    inner: BalancesLanes

    @property
    def lanes(self) -> int:
        """As the wrapped one."""
        count: int = self.inner.lanes
        return count

    async def members(self) -> int:
        """As the wrapped one."""
        count: int = await self.inner.members()
        return count


class _Bounds:
    inner: BoundsLanes

    @property
    def window(self) -> int | None:
        """As the wrapped one."""
        count: int | None = self.inner.window
        return count


class _Counts:
    inner: ReportsBacklog

    async def backlog(self, topic: str, group: str, /) -> Backlog:
        """As the wrapped one."""
        backlog: Backlog = await self.inner.backlog(topic, group)
        return backlog


class _Moves:
    inner: Replays

    async def seek(self, topic: str, group: str, to: Start, /) -> None:
        """As the wrapped one."""
        await self.inner.seek(topic, group, to)


class _Lists:
    inner: ListsGroups

    async def groups(self) -> Mapping[str, Collection[str]]:
        """As the wrapped one."""
        groups: Mapping[str, Collection[str]] = await self.inner.groups()
        return groups


class _Inspects:
    inner: Any

    async def members(self, topic: str, group: str, /) -> int | None:
        """As the wrapped one."""
        count: int | None = await self.inner.members(topic, group)
        return count

    async def peek(
        self, topic: str, /, *, group: str | None, limit: int, newest: bool, beyond: Mapping[str, int]
    ) -> Peek:
        """As the wrapped one."""
        page: Peek = await self.inner.peek(topic, group=group, limit=limit, newest=newest, beyond=beyond)
        return page


class _Reads:
    inner: ReadsHistory

    async def history_extent(
        self, topic: str, /, *, since: datetime | None, until: datetime | None
    ) -> Mapping[str, tuple[int, int]]:
        """As the wrapped one."""
        extent: Mapping[str, tuple[int, int]] = await self.inner.history_extent(topic, since=since, until=until)
        return extent

    async def read_history(self, topic: str, lane: str, begin: int, end: int, limit: int, /) -> HistoryPage:
        """As the wrapped one."""
        page: HistoryPage = await self.inner.read_history(topic, lane, begin, end, limit)
        return page


_OPTIONAL: tuple[tuple[type, type], ...] = (
    (ExtendsLease, _Extends),
    (BalancesLanes, _Balances),
    (BoundsLanes, _Bounds),
    (ReportsBacklog, _Counts),
    (Replays, _Moves),
    (ListsGroups, _Lists),
    (Inspects, _Inspects),
    (ReadsHistory, _Reads),
)


def _like(cls: type[_T], inner: object) -> type[_T]:
    """The wrapper's class with exactly the optional protocols that the wrapped object has."""
    extra = tuple(mixin for protocol, mixin in _OPTIONAL if isinstance(inner, protocol) and not issubclass(cls, mixin))
    if not extra:
        return cls
    shaped: Any = type(cls.__name__, (cls, *extra), {"__module__": cls.__module__})
    return cast("type[_T]", shaped)


class SenderWrapper:
    """A Sender around another; override what should differ."""

    def __init__(self, inner: Sender) -> None:
        self.inner = inner

    async def submit(self, batch: Sequence[Outbound], report: Report, /) -> None:
        """As the wrapped one."""
        await self.inner.submit(batch, report)

    async def close(self) -> None:
        """As the wrapped one."""
        await self.inner.close()

    @property
    def hindrance(self) -> str | None:
        """As the wrapped one."""
        return getattr(self.inner, "hindrance", None)


class ReceiverWrapper:
    """A Receiver around another, with its optional protocols; override what should differ."""

    def __new__(cls, inner: Receiver, *_: object, **__: object) -> ReceiverWrapper:
        """Of a class that has what the wrapped one has."""
        return object.__new__(_like(cls, inner))

    def __init__(self, inner: Receiver) -> None:
        self.inner = inner

    async def receive(self, limit: int, /, *, lanes: Collection[Lane] | None, timeout: float) -> Sequence[Inbound]:
        """As the wrapped one."""
        return await self.inner.receive(limit, lanes=lanes, timeout=timeout)

    async def settle(self, batch: Sequence[Settlement], /) -> Sequence[BrokerError | None]:
        """As the wrapped one."""
        return await self.inner.settle(batch)

    async def give_back(self, lane: Lane, /) -> None:
        """As the wrapped one."""
        await self.inner.give_back(lane)

    @property
    def hindrance(self) -> str | None:
        """As the wrapped one."""
        return getattr(self.inner, "hindrance", None)

    async def stop(self) -> None:
        """As the wrapped one."""
        await self.inner.stop()

    async def close(self) -> None:
        """As the wrapped one."""
        await self.inner.close()


class AdapterWrapper:
    """An Adapter around another, with its optional protocols; override ``wrap_sender``, ``wrap_receiver`` or calls."""

    def __new__(cls, inner: Adapter, *_: object, **__: object) -> AdapterWrapper:
        """Of a class that has what the wrapped one has."""
        return object.__new__(_like(cls, inner))

    Settings: ClassVar[type[AdapterSettings]] = AdapterSettings

    def __init__(self, inner: Adapter) -> None:
        self.inner = inner
        self.capabilities = inner.capabilities

    @property
    def native(self) -> Any:
        """As the wrapped one."""
        return self.inner.native

    async def connect(self) -> None:
        """As the wrapped one."""
        await self.inner.connect()

    async def declare(self, topology: Topology, mode: Literal["create", "verify"], /) -> None:
        """As the wrapped one."""
        await self.inner.declare(topology, mode)

    def wrap_sender(self, sender: Sender) -> Sender:
        """What the core gets instead of the wrapped adapter's sender."""
        return sender

    def wrap_receiver(self, receiver: Receiver, subscription: SubscriptionSpec) -> Receiver:
        """What the core gets instead of the wrapped adapter's receiver."""
        return receiver

    async def open_sender(self) -> Sender:
        """A wrapped one."""
        return self.wrap_sender(await self.inner.open_sender())

    async def open_receiver(self, subscription: SubscriptionSpec, listener: LaneListener, /) -> Receiver:
        """A wrapped one."""
        return self.wrap_receiver(await self.inner.open_receiver(subscription, listener), subscription)

    async def close(self) -> None:
        """As the wrapped one."""
        await self.inner.close()


# ---------------------------------------------------------------------------------------------------------- faults

Where = Literal["connect", "publish", "deliver", "settle"]
Action = Literal["drop", "delay", "duplicate", "fail"]


@dataclass
class Fault:
    """What goes wrong, where and when. Made by :func:`drop`, :func:`delay`, :func:`duplicate` and :func:`fail`.

    It hits the ``nth`` item, or every ``every``-th, or all. Only items for which ``when`` is true are counted. ``when``
    is called with an :class:`Outbound` (publish), an :class:`Inbound` (deliver), a :class:`Settlement` (settle) or None
    (connect).
    """

    action: Action
    where: Where
    nth: int | None = None
    every: int | None = None
    when: Callable[[Any], bool] | None = None
    error: BrokerError = field(default_factory=lambda: Unavailable("a deliberate fault"))
    seconds: float = 0.0
    count: int = 0
    """How many items were counted."""
    hits: int = 0
    """How many of them it hit."""

    def hit(self, item: object) -> bool:
        """Whether it hits this one."""
        if self.when is not None and not self.when(item):
            return False
        self.count += 1
        first = self.count == self.nth
        hit = first if self.nth is not None else self.every is None or self.count % self.every == 0
        self.hits += hit
        return hit


_POSSIBLE: dict[str, tuple[str, ...]] = {
    "drop": ("publish", "settle"),
    "delay": ("connect", "publish", "deliver", "settle"),
    "duplicate": ("publish",),
    "fail": ("connect", "publish", "deliver", "settle"),
}


class Which(TypedDict, Generic[_T], total=False):
    """Which things a fault hits: see :class:`Fault`."""

    nth: int | None
    every: int | None
    when: Callable[[_T], bool] | None


def _fault(action: Action, where: Where, which: Which[Any], **more: Any) -> Fault:
    if where not in _POSSIBLE[action]:
        possible = ", ".join(repr(name) for name in _POSSIBLE[action])
        raise ConfigError(f"{action}({where!r})", "is not possible", f"Use {possible}.")
    return Fault(action, where, **which, **more)


@overload
def drop(where: Literal["publish"], **which: Unpack[Which[Outbound]]) -> Fault: ...
@overload
def drop(where: Literal["settle"], **which: Unpack[Which[Settlement]]) -> Fault: ...
def drop(where: Literal["publish", "settle"], **which: Unpack[Which[Any]]) -> Fault:
    """A publish that is confirmed but not sent; a settlement that does not reach the broker, without an error."""
    return _fault("drop", where, which)


@overload
def delay(where: Literal["connect"], seconds: float, **which: Unpack[Which[None]]) -> Fault: ...
@overload
def delay(where: Literal["publish"], seconds: float, **which: Unpack[Which[Outbound]]) -> Fault: ...
@overload
def delay(where: Literal["deliver"], seconds: float, **which: Unpack[Which[Inbound]]) -> Fault: ...
@overload
def delay(where: Literal["settle"], seconds: float, **which: Unpack[Which[Settlement]]) -> Fault: ...
def delay(where: Where, seconds: float, **which: Unpack[Which[Any]]) -> Fault:
    """That call of the adapter takes this many seconds longer."""
    return _fault("delay", where, which, seconds=seconds)


def duplicate(where: Literal["publish"] = "publish", **which: Unpack[Which[Outbound]]) -> Fault:
    """An event that is sent twice under one id."""
    return _fault("duplicate", where, which)


@overload
def fail(where: Literal["connect"], error: BrokerError | None = None, **which: Unpack[Which[None]]) -> Fault: ...
@overload
def fail(where: Literal["publish"], error: BrokerError | None = None, **which: Unpack[Which[Outbound]]) -> Fault: ...
@overload
def fail(where: Literal["deliver"], error: BrokerError | None = None, **which: Unpack[Which[Inbound]]) -> Fault: ...
@overload
def fail(where: Literal["settle"], error: BrokerError | None = None, **which: Unpack[Which[Settlement]]) -> Fault: ...
def fail(where: Where, error: BrokerError | None = None, **which: Unpack[Which[Any]]) -> Fault:
    """``connect`` raises the error; a publish or a settlement fails with it and does not happen; with ``deliver`` the
    receiver dies before it hands over that event (the broker keeps it). By default an ``Unavailable``."""
    return _fault("fail", where, which) if error is None else _fault("fail", where, which, error=error)


class FaultyBroker:
    """Another broker with faults: ``Bus(FaultyBroker("sqlite:///shop.db", drop("publish", every=100)))``.

    ``faults`` is a list that may be changed while it runs; the counts cover all Buses that use this object.
    """

    def __init__(self, broker: str | AdapterFactory, *faults: Fault) -> None:
        self.broker = broker
        self.faults: list[Fault] = list(faults)

    def make_adapter(self, context: AdapterContext) -> Adapter:
        """What a Bus calls."""
        return _FaultyAdapter(adapter_of(self.broker, context), self)

    def hits(self, where: Where, item: object = None) -> list[Fault]:
        """The faults that hit this one, each counted."""
        return [fault for fault in self.faults if fault.where == where and fault.hit(item)]


async def _wait(faults: Iterable[Fault]) -> None:
    seconds = sum(fault.seconds for fault in faults)
    if seconds:
        await asyncio.sleep(seconds)


def _first_error(faults: Iterable[Fault]) -> BrokerError | None:
    return next((fault.error for fault in faults if fault.action == "fail"), None)


class _FaultyAdapter(AdapterWrapper):
    def __init__(self, inner: Adapter, broker: FaultyBroker) -> None:
        super().__init__(inner)
        self._broker = broker

    async def connect(self) -> None:
        """With its faults."""
        hits = self._broker.hits("connect")
        await _wait(hits)
        error = _first_error(hits)
        if error is not None:
            raise error
        await self.inner.connect()

    def wrap_sender(self, sender: Sender) -> Sender:
        """With its faults."""
        return _FaultySender(sender, self._broker)

    def wrap_receiver(self, receiver: Receiver, subscription: SubscriptionSpec) -> Receiver:
        """With its faults."""
        return _FaultyReceiver(receiver, self._broker)


class _FaultySender(SenderWrapper):
    def __init__(self, inner: Sender, broker: FaultyBroker) -> None:
        super().__init__(inner)
        self._broker = broker

    async def submit(self, batch: Sequence[Outbound], report: Report, /) -> None:
        """With its faults."""
        sent: list[Outbound] = []
        copies: list[Outbound] = []
        for outbound in batch:
            hits = self._broker.hits("publish", outbound)
            await _wait(hits)
            actions = {fault.action for fault in hits}
            error = _first_error(hits)
            if error is not None:
                report(outbound, error)
            elif "drop" in actions:
                report(outbound, Receipt(outbound.topic, "dropped"))
            else:
                sent.append(outbound)
                if "duplicate" in actions:
                    copies.append(_copy(outbound))
        if sent:
            await self.inner.submit(sent, report)
        if copies:
            await self.inner.submit(copies, _no_report)


def _copy(outbound: Outbound) -> Outbound:
    hop = f"{outbound.hop}|copy"  # another hop: a broker that deduplicates must not drop the copy
    headers, not_before = outbound.headers, outbound.not_before
    return Outbound(outbound.event, outbound.topic, outbound.group, headers, not_before, hop, outbound.reserve)


def _no_report(_outbound: Outbound, _result: Receipt | BrokerError) -> None:
    """Ignore the outcome of the copy."""


class _FaultyReceiver(ReceiverWrapper):
    def __init__(self, inner: Receiver, broker: FaultyBroker) -> None:
        super().__init__(inner)
        self._broker = broker

    async def receive(self, limit: int, /, *, lanes: Collection[Lane] | None, timeout: float) -> Sequence[Inbound]:
        """With its faults."""
        batch = await self.inner.receive(limit, lanes=lanes, timeout=timeout)
        for inbound in batch:
            hits = self._broker.hits("deliver", inbound)
            await _wait(hits)
            error = _first_error(hits)
            if error is not None:
                raise error
        return batch

    async def settle(self, batch: Sequence[Settlement], /) -> Sequence[BrokerError | None]:
        """With its faults."""
        results: list[BrokerError | None] = [None] * len(batch)
        sent: list[int] = []
        for at, settlement in enumerate(batch):
            hits = self._broker.hits("settle", settlement)
            await _wait(hits)
            results[at] = _first_error(hits)
            if results[at] is None and not any(fault.action == "drop" for fault in hits):
                sent.append(at)
        if sent:
            for at, result in zip(sent, await self.inner.settle([batch[at] for at in sent]), strict=True):
                results[at] = result
        return results
