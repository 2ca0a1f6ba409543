"""Subscription: the handlers of one group of one topic, and the pump that runs them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from time import time as wall_clock
from typing import Any, Literal, TypeVar, overload

from .adapter import DEFAULT_LANES, Adapter, Foreign, GroupSpec, Inbound, Lane, Start, SubscriptionSpec
from .capabilities import Acknowledgement
from .cloudevents.event import Event
from .codec import Decode
from .config.settings import TopicSettings
from .deadletters.letter import reason_of, replay_facts
from .deadletters.sending import send_dead_letter
from .delivery import Delivery
from .engine.batch import BatchCollector
from .engine.core import Core
from .engine.hops import DEPTH, too_many
from .engine.progress import Progress
from .engine.pump import Pump, PumpSettings
from .engine.subscriptions import SubscriptionState
from .errors import ConfigError, EventError, ExpiredError, InvalidEvent, UnhandledError
from .handlers.signature import HandlerSpec, invoker, read_handler
from .middleware.compose import Item, arrange, compose
from .middleware.deadline import deadline, expiry_of
from .middleware.function import AnyMiddleware, FunctionMiddleware, from_callable
from .middleware.layer import Chain, Handler, Layer, attached
from .middleware.parking import Parking, parks
from .middleware.trace import trace, traced
from .names import DEAD_LETTER_GROUP, check_names, dead_letter_topic
from .printable import brief, logger
from .stats import SubscriptionStats

__all__ = ["Subscription", "SubscriptionOptions", "SubscriptionState"]

_log = logger("anybroker.handler")
_F = TypeVar("_F", bound=Callable[..., object])

_LANE_BUFFER = 4_096
"""Events to ask for at once where lanes belong to one member alone: buffering them keeps them from nobody."""

FOREIGN_TYPE = "io.anybroker.foreign.v1"
"""The type of the event that wraps a foreign message, on a topic with ``foreign = "wrap"``."""


@dataclass(frozen=True, kw_only=True)
class SubscriptionOptions:
    """The settings of one subscription; None takes the topic's or the library's default."""

    ordered: bool | None = None
    start: Start = "new"
    lanes: int | None = None
    max_in_flight: int | None = None
    max_ahead: int | None = None
    poison_after: int = 100
    unhandled: Literal["skip", "dead_letter"] = "skip"
    middleware: tuple[Layer | FunctionMiddleware, ...] = field(default=())

    def check(self, where: str) -> None:
        """ConfigError for the first wrong one."""
        for name, low, high in (
            ("lanes", 1, 64),
            ("max_in_flight", 1, 100_000),
            ("max_ahead", 1, 1_000_000),
            ("poison_after", 2, 1_000_000),
        ):
            value = getattr(self, name)
            if value is not None and (
                isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high
            ):
                raise ConfigError(f"{where}, {name}=", f"{value!r} is not a whole number from {low} to {high}")
        if self.unhandled not in ("skip", "dead_letter"):
            raise ConfigError(f"{where}, unhandled=", f"{self.unhandled!r} is neither 'skip' nor 'dead_letter'")
        if self.start not in ("new", "earliest") and not isinstance(self.start, datetime):
            raise ConfigError(
                f"{where}, start=", f"{self.start!r} is not a start", "Use 'new', 'earliest' or a datetime."
            )
        if isinstance(self.start, datetime) and self.start.tzinfo is None:
            raise ConfigError(f"{where}, start=", "the datetime has no time zone", "Use datetime(…, tzinfo=UTC).")


@dataclass
class _Entry:
    """A handler with what its decorator said."""

    spec: HandlerSpec
    middleware: tuple[Layer | FunctionMiddleware, ...]
    batch: int | None
    within: float


class Subscription:
    """The handlers of one group of one topic. Made by ``bus.subscription``; ``@sub.on`` adds a handler."""

    def __init__(self, core: Core, topic: str, group: str, options: SubscriptionOptions) -> None:
        check_names(topic, group)
        self._core = core
        self.topic = topic
        self.group = group
        self.options = options
        options.check(self._where)
        self._check_dead_letters()
        self._entries: list[_Entry] = []
        self._pump: Pump | None = None
        self._starting: Pump | None = None
        self._leaving: Pump | None = None
        self._executor: ThreadPoolExecutor | None = None
        self._collectors: list[BatchCollector] = []
        self._handler_problems: dict[tuple[str, str], tuple[str, bool]] = {}
        """By handler and kind of middleware: why it cannot go on, and whether that is because something it needs is
        away."""
        self._holding_back: dict[str, set[str]] = {}
        """By handler, the kinds of middleware to which more events are of no use now."""
        self._circuits: dict[str, Callable[[], bool]] = {}
        self._parking: Parking | None = None
        self._paused = False
        self._changing = asyncio.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._progress = Progress()
        self.stats = SubscriptionStats()
        """Counters since the start; they survive ``stop`` and ``start``."""

    @property
    def _where(self) -> str:
        return f"subscription {self.topic}/{self.group}"

    def __repr__(self) -> str:
        return f"<Subscription {self.topic}/{self.group}, {len(self._entries)} handlers>"

    # ------------------------------------------------------------------------------------------- handlers

    @overload
    def on(
        self,
        function: _F,
        /,
        *,
        type: str | Iterable[str] | None = None,
        batch: int | None = None,
        within: float = 0.2,
        middleware: Sequence[AnyMiddleware] = (),
        name: str | None = None,
    ) -> _F: ...

    @overload
    def on(
        self,
        /,
        *,
        type: str | Iterable[str] | None = None,
        batch: int | None = None,
        within: float = 0.2,
        middleware: Sequence[AnyMiddleware] = (),
        name: str | None = None,
    ) -> Callable[[_F], _F]: ...

    def on(
        self,
        function: Callable[..., object] | None = None,
        /,
        *,
        type: str | Iterable[str] | None = None,
        batch: int | None = None,
        within: float = 0.2,
        middleware: Sequence[AnyMiddleware] = (),
        name: str | None = None,
    ) -> object:
        """Add a handler: ``@sub.on`` or ``@sub.on(type="…")``. Returns the function itself.

        ``type``: the event types it takes; by default those that its payload model declares, else every type that no
        other handler of the subscription takes. ``batch``/``within``: up to so many events, or what came within so
        many seconds, as a list. ``name`` replaces the function's qualified name, which is part of the idempotency key.

        Raises ConfigError: a signature that cannot be served, a type that two handlers take.
        """
        if function is None:
            return lambda decorated: self.on(
                decorated, type=type, batch=batch, within=within, middleware=middleware, name=name
            )
        if self._pump is not None:
            raise ConfigError(self._where, "is started already", "Add handlers before the Bus starts.")
        if batch is not None and (isinstance(batch, bool) or not isinstance(batch, int) or batch < 1):
            raise ConfigError(f"{self._where}, batch=", f"{batch!r} is not a number of events of 1 or more")
        if not 0 < within < float("inf"):
            raise ConfigError(f"{self._where}, within=", f"{within!r} is not a number of seconds over 0")
        spec = read_handler(
            function,
            providers=self._core.providers,
            types_given=type,
            batch=batch is not None,
            name=name,
            check=lambda annotation: self._core.codecs.check(annotation, self.topic),
        )
        for entry in self._entries:
            shared = entry.spec.types & spec.types
            if shared or (not entry.spec.types and not spec.types):
                what = f"the event type {sorted(shared)[0]!r}" if shared else "every event type"
                raise ConfigError(
                    f"{self._where}, handler {spec.name}",
                    f"takes {what}, and so does {entry.spec.name}",
                    "Give each its own type=, or put them into different groups.",
                )
            if entry.spec.name == spec.name:
                raise ConfigError(
                    f"{self._where}, handler {spec.name}", "is there already", "Give one of them a name=."
                )
        self._entries.append(_Entry(spec, tuple(from_callable(item) for item in middleware), batch, within))
        return function

    # ------------------------------------------------------------------------------------------ life

    @property
    def topic_settings(self) -> TopicSettings:
        """What the configuration says of the topic."""
        return self._core.settings.topics.get(self.topic, TopicSettings())

    @property
    def ordered(self) -> bool:
        """Whether events of one key come one at a time, in order."""
        return self.topic_settings.ordered if self.options.ordered is None else self.options.ordered

    @property
    def lanes(self) -> int | None:
        """In how many lanes the group is to be kept in order; None: nobody asked for a number."""
        return self.topic_settings.lanes if self.options.lanes is None else self.options.lanes

    @property
    def name(self) -> str:
        """``topic/group``."""
        return f"{self.topic}/{self.group}"

    @property
    def wanted(self) -> GroupSpec:
        """The group to be there."""
        return GroupSpec(self.group, self.ordered, self.options.start)

    @property
    def dead_letter_topic(self) -> str:
        """Where its dead letters go."""
        return self.topic_settings.dead_letter or dead_letter_topic(self.topic, self.group)

    def _check_dead_letters(self) -> None:
        """ConfigError where its own dead letters have no place: a dead-letter topic has no dead-letter topics."""
        configured = self.topic_settings.dead_letter
        of_others = self.topic.endswith(f".{DEAD_LETTER_GROUP}") or self.topic in {
            each.dead_letter for each in self._core.settings.topics.values()
        }
        if of_others and self.group == DEAD_LETTER_GROUP:
            raise ConfigError(
                self._where,
                f"the group {DEAD_LETTER_GROUP!r} of a dead-letter topic is the one that keeps the dead letters",
                "Read them with bus.dead_letters(topic, group), or choose another group.",
            )
        if configured is None and self.topic.endswith(f".{DEAD_LETTER_GROUP}"):
            raise ConfigError(
                self._where,
                "is on a dead-letter topic, and what its handler fails at would have no place to go",
                "Read dead letters with bus.dead_letters(topic, group); or configure a dead-letter topic for it: "
                f'topics={{{self.topic!r}: {{"dead_letter": "another-topic"}}}}.',
            )

    @property
    def idempotent_handlers(self) -> tuple[str, ...]:
        """The names of its handlers that have ``@idempotent()``, of their own or from the Bus."""
        common = (*self.options.middleware, *self._core.middleware)
        return tuple(
            entry.spec.name
            for entry in self._entries
            if any(
                isinstance(item, Layer) and item.kind == "idempotent"
                for item in (*attached(entry.spec.function), *entry.middleware, *common)
            )
        )

    def runs_in(self, task: asyncio.Task[object] | None) -> bool:
        """Whether one of its handlers runs in this task."""
        pump = self._running
        return (pump is not None and pump.runs_in(task)) or any(
            collector.runs_in(task) for collector in self._collectors
        )

    @property
    def _running(self) -> Pump | None:
        """What runs its handlers: also while it drains."""
        return self._pump or self._leaving

    @property
    def slow_after(self) -> float:
        """Seconds after which a handler that still runs is logged."""
        settings = self._core.settings
        return settings.lease / 2 if settings.slow_after is None else settings.slow_after

    def handled_in(self, task: asyncio.Task[object] | None) -> Delivery | None:
        """What one of its handlers handles in this task; of a batch the first."""
        pump = self._running
        found = None if pump is None else pump.handled_in(task)
        return found or next((each for one in self._collectors if (each := one.handled_in(task)) is not None), None)

    def handling(self) -> list[Delivery]:
        """What its handlers handle now; not what waits until its batch begins."""
        if (pump := self._running) is None:
            return []
        waiting = {delivery for collector in self._collectors for delivery in collector.waiting}
        return [delivery for delivery in pump.handling() if delivery not in waiting]

    def check(self, adapter: Adapter) -> None:
        """ConfigError for what cannot be, before anything is made."""
        capabilities = adapter.capabilities
        if not self._entries:
            raise ConfigError(self._where, "has no handler", "Add one with @sub.on, or drop the subscription.")
        if self.ordered and not self.topic_settings.ordered:
            raise ConfigError(
                f"{self._where}, ordered=True",
                "the topic is configured with ordered = false",
                "Leave ordered= out, or drop 'ordered = false' from the topic's configuration.",
            )
        if self.ordered:
            capabilities.require("ordering", setting=f"{self._where}, ordered=True", remedy="Use ordered=False.")
        start = self.options.start
        if start == "earliest":
            capabilities.require("retains", setting=f"{self._where}, start='earliest'", remedy="Use start='new'.")
        elif isinstance(start, datetime):
            capabilities.require(
                "start_at_time", setting=f"{self._where}, start={start.isoformat()}", remedy="Use start='new'."
            )

    def _change(self) -> asyncio.Lock:
        """One start or stop at a time. A lock belongs to the event loop in which it was waited for, and the Bus may
        have been started again in another one."""
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._changing, self._loop = asyncio.Lock(), loop
        return self._changing

    async def start(self) -> None:
        """Begin to receive. Called by the Bus; afterwards only to go on after :meth:`stop`, whose end it waits for."""
        async with self._change():
            await self._start()

    async def _start(self) -> None:
        if self._pump is not None:
            return
        core, options, settings = self._core, self.options, self.topic_settings
        adapter = core.adapter
        self.check(adapter)
        largest = max((entry.batch or 1 for entry in self._entries), default=1)
        in_flight = options.max_in_flight or settings.max_in_flight or max(100, largest)
        if in_flight < largest:
            raise ConfigError(
                f"{self._where}, max_in_flight=", f"{in_flight} is less than batch={largest}", "Raise it to the batch."
            )
        max_ahead = options.max_ahead or settings.max_ahead or 10_000
        cumulative = adapter.capabilities.acknowledgement is Acknowledgement.CUMULATIVE
        numbers = PumpSettings(
            max_in_flight=in_flight,
            max_ahead=max_ahead,
            poison_after=options.poison_after,
            lease=core.settings.lease,
            drain=core.settings.drain,
            prefetch=max(2 * in_flight, min(max_ahead, _LANE_BUFFER) if cumulative else 0),
            in_threads=any(not entry.spec.is_async for entry in self._entries),
        )
        spec = SubscriptionSpec(
            self.topic, self.group, self.ordered, self.lanes or DEFAULT_LANES, options.start, numbers.prefetch
        )
        self._collectors.clear()
        self._handler_problems.clear()
        self._holding_back.clear()
        self._circuits.clear()
        if numbers.in_threads:
            self._executor = ThreadPoolExecutor(in_flight, thread_name_prefix=f"anybroker {self.topic}/{self.group}")
        pump: Pump
        dispatch = self._dispatcher(lambda delivery: pump.recovered(delivery), lambda: pump)
        pump = Pump(
            adapter,
            spec,
            numbers,
            dispatch,
            self._copy_to_inlet if adapter.capabilities.supports("release") else None,
            self.stats,
            core.observers,
            self._handed_over(),
        )
        if self._paused:
            pump.pause()
        pump.hold_back(self._holds_back)
        self._starting = pump
        try:
            await core.stores.open()
            await pump.start()
        finally:
            self._starting = None
        self._pump = pump

    async def stop(self, drain: float | None = None) -> None:
        """Stop fetching, let handlers in flight finish (``drain`` seconds), settle, give back the rest, leave.

        Idempotent; a second call waits for the first. Cancellation leaves the rest for redelivery.
        """
        async with self._change():
            pump = self._pump
            if pump is None:
                return
            self._leaving, self._pump = pump, None  # in this order: other threads look at them
            for collector in self._collectors:
                collector.close()
            try:
                await pump.close(self._core.settings.drain if drain is None else drain)
            finally:
                self._leaving = None
                self._progress.look({})
                if self._executor is not None:
                    self._executor.shutdown(wait=False)
                    self._executor = None

    def give_up(self) -> None:
        """While :meth:`stop` drains: cancel the handlers in flight now; their events come again."""
        if self._leaving is not None:
            self._leaving.give_up()

    def pause(self) -> None:
        """Start no more handlers until :meth:`resume`, now and after a later start. What runs goes on, and leases
        are kept."""
        self._paused = True
        if (pump := self._pump or self._starting) is not None:
            pump.pause()

    def resume(self) -> None:
        """Go on after :meth:`pause`."""
        self._paused = False
        if (pump := self._pump or self._starting) is not None:
            pump.resume()

    def look(self) -> None:
        """Called by the Bus each second, for :attr:`unfinished_age` and :attr:`problem`."""
        self._progress.look(self.oldest_unfinished())
        if self._pump is not None:
            self._pump.look(self._progress.age, self.slow_after)

    @property
    def running(self) -> int:
        """Handlers in flight now."""
        pump = self._running  # other threads look at it too, and it may end meanwhile
        return pump.running if pump is not None else 0

    @property
    def buffered(self) -> int:
        """Deliveries received and not finished, now."""
        pump = self._running
        return pump.buffered if pump is not None else 0

    @property
    def state(self) -> SubscriptionState:
        """What it does now."""
        if self._leaving is not None:
            return "stopping"
        if self._starting is not None:
            return "starting"
        pump = self._pump
        if pump is None:
            return "stopped"
        if not pump.is_connected:
            return "reconnecting"
        return "paused" if self._paused or self._holds_back else "running"

    @property
    def circuits(self) -> dict[str, bool]:
        """The circuits of its handlers by name, each with whether it is open (a half-open one is)."""
        return {name: is_open() for name, is_open in list(self._circuits.items())}

    @property
    def waiting(self) -> int:
        """Events that wait for their turn in ``circuit``, ``rate_limit`` or ``concurrency``, now."""
        pump = self._running
        return pump.in_line if pump is not None else 0

    @property
    def held_lanes(self) -> int:
        """How many lanes this member has. None yet, or none at all: others have them."""
        pump = self._running
        return 0 if pump is None else pump.held_lanes

    def oldest_unfinished(self) -> dict[Lane, Inbound]:
        """Of each lane that has any, the first unfinished event in its order. Those that may not start yet do not
        count."""
        pump = self._running
        return {} if pump is None else pump.oldest_unfinished()

    @property
    def unfinished_age(self) -> float | None:
        """For how many seconds an event has been the oldest unfinished one of its lane here: the longest of all lanes,
        looked at each second. It stays near 0 while events are finished, and grows while one keeps its place. None:
        nothing is unfinished."""
        return self._progress.age

    @property
    def problem(self) -> str | None:
        """Why the subscription is unhealthy, in printable text; None while it is well, or stopped."""
        pump = self._pump
        if pump is None:
            return None
        problem = pump.problem or pump.hindrance
        problem = problem or next((text for text, _ in list(self._handler_problems.values())), None)
        return problem and brief(problem)  # an error may say what others wrote

    @property
    def unavailable(self) -> str | None:
        """Which part of :attr:`problem` says that the broker, the idempotency store or the dead-letter topic is away;
        None while they are there. Events that only wait for a failing one do not count."""
        pump = self._pump
        if pump is None:
            return None
        handlers = (text for text, unavailable in list(self._handler_problems.values()) if unavailable)
        unavailable = pump.unavailable or next(handlers, None)
        return unavailable and brief(unavailable)

    @property
    def has_joined(self) -> bool:
        """Whether it is connected and has had a lane, or has been without one for 10 seconds: other members have them
        all then."""
        pump = self._pump
        return pump is not None and pump.has_joined

    @property
    def has_died(self) -> bool:
        """Whether it receives nothing more because of a defect, until it is started again."""
        pump = self._pump
        return pump is not None and pump.has_died

    def _report(self, handler: str, problem: str | None, /, *, unavailable: bool = False, kind: str = "") -> None:
        if problem is None:
            self._handler_problems.pop((handler, kind), None)
        else:
            self._handler_problems[handler, kind] = problem, unavailable

    def _hold_back(self, handler: str, kind: str, on: bool, /) -> None:
        kinds = self._holding_back.setdefault(handler, set())
        (kinds.add if on else kinds.discard)(kind)
        if (pump := self._pump or self._starting) is not None:
            pump.hold_back(self._holds_back)

    @property
    def _holds_back(self) -> bool:
        """Whether none of its handlers can use more events now."""
        return bool(self._holding_back) and all(self._holding_back.get(entry.spec.name) for entry in self._entries)

    # ------------------------------------------------------------------------------------------ dispatch

    def _dispatcher(self, recovered: Callable[[Delivery], None], pump: Callable[[], Pump]) -> Handler:
        """The function from a delivery to its chain's coroutine."""
        parking = self._parking = self._make_parking()
        chains: dict[str, tuple[Handler, str]] = {}
        default: tuple[Handler, str] | None = None
        keep_time: set[Handler] = set()
        for entry in self._entries:
            bound = (self._compose(entry, recovered, pump), entry.spec.name)
            if any(isinstance(item, deadline) for item in self.arranged(entry)):
                keep_time.add(bound[0])
            for name in entry.spec.types:
                chains[name] = bound
            if not entry.spec.types:
                default = bound
        rest = default or (self._unhandled, "")
        find = chains.get
        max_hops = self._core.settings.max_hops
        foreign = self._foreign_wrapped if self.topic_settings.foreign == "wrap" else self._foreign_dead

        def dispatch(delivery: Delivery) -> Awaitable[None]:
            event = delivery.event
            if event.__class__ is not Event:
                return foreign(delivery, dispatch)
            handler, delivery.handler = find(event._attributes["type"], rest)  # type: ignore[arg-type] # a string
            if "expirytime" in event._attributes and handler not in keep_time and _expired(event):
                return self._dead(delivery, ExpiredError(str(event["expirytime"])))
            if DEPTH in event._attributes and (failure := too_many(event, max_hops)) is not None:
                return self._dead(delivery, failure)
            if parking is not None and parking.is_concerned(delivery):
                return parking.run(delivery, handler)
            return handler(delivery)

        return dispatch

    def _make_parking(self) -> Parking | None:
        chains = {entry.spec.name: self.arranged(entry) for entry in self._entries}
        if not parks(self._where, self.ordered, chains):
            return None
        store = self._core.stores.parking(f'{self._where}, dead_letter(then="park")')
        exclusive = self._core.adapter.capabilities.exclusive_lanes
        problem = partial(self._report, "parked keys")
        return Parking(self.topic, self.group, store, exclusive, self.stats, problem, self._dead)

    def _compose(self, entry: _Entry, recovered: Callable[[Delivery], None], pump: Callable[[], Pump]) -> Handler:
        core = self._core
        innermost = (
            self._collector(entry, pump)
            if entry.batch
            else invoker(entry.spec, core.providers, self._executor, self._decoder)
        )
        chain = Chain(
            topic=self.topic,
            group=self.group,
            ordered=self.ordered,
            handler=entry.spec,
            capabilities=core.adapter.capabilities,
            stats=self.stats,
            dead_letter=self._send_dead_letter,
            recovered=recovered,
            lease=core.settings.lease,
            stores=core.stores,
            problem=partial(self._report, entry.spec.name),
            giving_up=lambda: pump().is_giving_up(),
            hold_back=partial(self._hold_back, entry.spec.name),
            circuits=self._circuits,
            spans=core.spans,
        )
        return compose(innermost, chain, self.arranged(entry))

    def _handed_over(self) -> Callable[[Sequence[Inbound]], None] | None:
        """What is told of each hand-over from the broker, where a handler has ``@trace(receive=True)``."""
        layers = (item for entry in self._entries for item in self.arranged(entry) if isinstance(item, trace))
        if self._core.spans is None or not any(layer.receive for layer in layers):
            return None
        return partial(self._core.spans.received, self.topic, self.group)

    @property
    def handlers(self) -> tuple[_Entry, ...]:
        """Its handlers, each with what its decorator said."""
        return tuple(self._entries)

    def arranged(self, entry: _Entry) -> list[Item]:
        """The middleware of a handler, outermost first. Raises ConfigError for an order that cannot be."""
        stack = (*attached(entry.spec.function), *entry.middleware)
        lists = {f"{self._where}, middleware=": self.options.middleware, "Bus(middleware=)": self._core.middleware}
        return arrange(entry.spec.where, stack, lists)

    def _collector(self, entry: _Entry, pump: Callable[[], Pump]) -> Handler:
        core = self._core
        collector = BatchCollector(
            entry.spec,
            entry.batch or 1,
            entry.within,
            core.providers,
            self._decoder,
            pump,
            None if core.spans is None else (core.spans, self.topic, self.group),
        )
        self._collectors.append(collector)
        return collector.add

    def _decoder(self, annotation: object) -> Decode:
        return self._core.codecs.decoder(annotation, self.topic)

    async def _unhandled(self, delivery: Delivery) -> None:
        self.stats.unhandled += 1
        if self.options.unhandled == "dead_letter":
            await self._dead(delivery, UnhandledError(delivery.event.type))

    async def _foreign_dead(self, delivery: Delivery, _dispatch: Handler) -> None:
        self.stats.foreign += 1
        message = delivery.event
        reason = message.reason if isinstance(message, Foreign) else None
        await self._dead(delivery, reason or InvalidEvent("the message is not a CloudEvent"))

    async def _foreign_wrapped(self, delivery: Delivery, dispatch: Handler) -> None:
        self.stats.foreign += 1
        message: Any = delivery.event
        # Where a position is an offset it is the message's own; elsewhere it begins anew with each member, and as an id
        # it would make copies of what are none.
        offset = self._core.adapter.capabilities.acknowledgement is Acknowledgement.CUMULATIVE
        content_type = next((value for name, value in message.headers if name.lower() == "content-type"), None)
        try:
            wrapped = Event.create(
                message.body if message.body is not None else b"",
                type=FOREIGN_TYPE,
                source=f"{self._core.source}/foreign/{self.topic}",
                id=f"{delivery.lane_state.lane.name}@{delivery.inbound.position}" if offset else None,
                key=delivery.key,
                datacontenttype=(content_type or b"").decode("ascii", "ignore") or "application/octet-stream",
            )
        except EventError as exc:  # its key or its content type is none that an event may have
            await self._dead(delivery, exc)
            return
        delivery.event = wrapped
        await dispatch(delivery)

    async def _dead(self, delivery: Delivery, error: Exception) -> None:
        """Dead-letter what no handler was started with."""
        if delivery.verdict is None:
            delivery.verdict = error
            delivery.attempt -= 1
        bury: Handler = partial(self._bury, error)
        if (spans := self._core.spans) is not None:
            bury = traced(spans, bury, self.topic, self.group, "", self._is_giving_up)
        await bury(delivery)

    async def _bury(self, error: Exception, delivery: Delivery) -> None:
        await self._send_dead_letter(delivery, error)
        delivery.letter_stored = True
        self.stats.dead_lettered += 1

    def _is_giving_up(self) -> bool:
        pump = self._pump or self._starting or self._leaving
        return pump is not None and pump.is_giving_up()

    async def _send_dead_letter(self, delivery: Delivery, error: Exception) -> None:
        parking = self._parking
        if parking is not None:
            await parking.before_letter(delivery, error)
        missing = await send_dead_letter(self._core.copies, self._core.topics, self.dead_letter_topic, delivery, error)
        if missing:
            self.stats.dead_letters_cut += 1
            _log.warning(
                "%s/%s: a dead letter is near the broker's size limit, and this was cut or left out of it: %s. It died "
                "of: %s",
                self.topic,
                self.group,
                ", ".join(missing),
                reason_of(error),
            )
        if parking is not None:
            await parking.after_letter(delivery, error)

    async def _copy_to_inlet(self, delivery: Delivery, starts: int, delay: float) -> None:
        await self._core.copies.release(delivery, starts, delay, replay_facts(delivery))


def _expired(event: Event[Any]) -> bool:
    moment = expiry_of(event)
    return moment is not None and moment < wall_clock()
