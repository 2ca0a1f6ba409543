"""Bus: the one object of a service. It only wires the parts together."""

from __future__ import annotations

import asyncio
import os
from asyncio.events import _get_running_loop as running_loop
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from datetime import datetime
from typing import Any, Literal, TypeVar, get_args, overload

from .adapter import (
    Adapter,
    Backlog,
    GroupSpec,
    Receipt,
    Start,
)
from .cloudevents.event import ABSENT, Event
from .config.registry import AdapterFactory, make_adapter_of
from .config.settings import DEFAULT_URL, BusSettings, TopicSettings, load_settings, parse_url
from .deadletters.queue import DeadLetterQueue
from .delivery import current_cause
from .engine.calls import as_failure, bounded
from .engine.core import Core
from .engine.making import EventMaker
from .engine.outgoing import continue_cause
from .engine.publisher import Publisher, Publishing
from .engine.signals import Main, run_until_signal
from .engine.topics import Wanted
from .errors import (
    BrokerError,
    ConfigError,
    StateError,
    Unavailable,
)
from .from_thread import FromThread
from .idempotency import Store
from .idempotency._stores import Stores
from .middleware.function import from_callable
from .middleware.outgoing import PublishMiddleware
from .middleware.trace import tracing
from .middleware.way_out import WayOut
from .names import check_headers, check_key, check_names, check_topic, one_or_several
from .printable import logger
from .subscription import Subscription, SubscriptionOptions
from .topic import Topic

__all__ = ["AdapterFactory", "Bus"]

_log = logger("anybroker")
_F = TypeVar("_F", bound=Callable[..., Any])
_P = TypeVar("_P")


class Bus:
    """Publishes events and runs the handlers of one service.

    :param url: the broker (``scheme://user:password@host:port/path?option=value``), or an object that makes the
        adapter (``MemoryBroker()``). Without it: ``ANYBROKER_URL``, then ``anybroker.toml``, then the embedded broker's
        file in the working folder, named in a warning.
    :param source: CloudEvents ``source`` of what is published: the service's name, the same in all its replicas.
    :param middleware: for every handler; the same kind at a handler replaces it. Functions of your own run around each
        attempt.
    :param publish_middleware: around every publish, outermost first.
    :param consume: False: only publish; subscriptions are declared but not started (a web process).
    :param topics: settings by topic name, as in ``anybroker.toml``.
    :param provision: ``create`` topics and groups at the start, only ``verify`` them, or neither (``off``).
    :param lease: seconds after which what a crashed member held goes to another.
    :param drain: seconds that handlers in flight have at shutdown before they are cancelled.
    :param publish_deadline: seconds by which every publish has ended.
    :param connect_timeout: seconds by which the broker must have answered at the start.
    :param idempotency: the store of handlers with ``@idempotent()``, or its URL (``sqlite:///shop.db``, ``memory://``).
        Without it: memory under a broker in memory, else a file of this machine beside the embedded broker's.
    :param deduplication_key: a secret, alike in all services that publish to the same topics. Where the broker drops
        copies by id (NATS, SQS), nobody without it can know an event's id there in advance, and publish something else
        under it so that the event itself is dropped.

    ``async with bus:`` connects, provisions and starts; leaving it drains and closes. :meth:`run` does that until
    SIGTERM or SIGINT. Raises ConfigError for wrong settings, before anything is sent.
    """

    def __init__(
        self,
        url: str | AdapterFactory | None = None,
        *,
        source: str | None = None,
        middleware: Sequence[Any] = (),
        publish_middleware: Sequence[PublishMiddleware] = (),
        consume: bool = True,
        topics: Mapping[str, TopicSettings | Mapping[str, Any]] | None = None,
        provision: Literal["create", "verify", "off"] | None = None,
        lease: float | None = None,
        drain: float | None = None,
        publish_deadline: float | None = None,
        connect_timeout: float | None = None,
        idempotency: str | Store | None = None,
        deduplication_key: str | None = None,
        adapters: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        self.settings: BusSettings = load_settings(
            {
                "url": url if isinstance(url, str) else None,
                "source": source,
                "topics": topics,
                "provision": provision,
                "lease": lease,
                "drain": drain,
                "publish_deadline": publish_deadline,
                "connect_timeout": connect_timeout,
                "idempotency": idempotency if isinstance(idempotency, str) else None,
                "deduplication_key": deduplication_key,
                "adapters": adapters,
            }
        )
        self._factory = None if url is None or isinstance(url, str) else url
        if self._factory is not None and not hasattr(self._factory, "make_adapter"):
            raise ConfigError(
                "url", f"{type(url).__name__} is neither a URL nor makes an adapter", "Give a URL or a MemoryBroker()."
            )
        self._core = core = Core(self.settings, tuple(from_callable(item) for item in middleware), self._wanted)
        self._topics = core.topics
        self.stats = core.stats
        """What was published since the start."""
        self._publish_middleware = tuple(publish_middleware)
        self._consume = consume
        self._store = self.settings.idempotency if idempotency is None else idempotency
        self.from_thread = FromThread(self, core)
        """``bus.from_thread.publish(…)``: for plain ``def`` handlers and other threads."""
        self._subscriptions: dict[tuple[str, str], Subscription] = {}
        self._events = EventMaker(core)
        self._way_out: WayOut | None = None
        self._stack = AsyncExitStack()
        self._closing: asyncio.Task[None] | None = None
        self._closed = asyncio.Event()
        self._start_ended = asyncio.Event()

    # --------------------------------------------------------------------------------------------- declaring

    def subscribe(
        self,
        topic: str,
        *,
        group: str,
        type: str | Iterable[str] | None = None,
        ordered: bool | None = None,
        start: Start = "new",
        lanes: int | None = None,
        max_in_flight: int | None = None,
        max_ahead: int | None = None,
        poison_after: int = 100,
        unhandled: Literal["skip", "dead_letter"] = "skip",
        batch: int | None = None,
        within: float = 0.2,
        middleware: Sequence[Any] = (),
        name: str | None = None,
    ) -> Callable[[_F], _F]:
        """Decorate the only handler of a group of a topic; the function stays directly callable.

        For several handlers of one group use :meth:`subscription`, whose parameters these are. ``type``, ``batch``,
        ``within`` and ``name`` are those of :meth:`Subscription.on`. Raises ConfigError, the signature's errors
        included.
        """
        if (topic, group) in self._subscriptions:
            raise ConfigError(
                f"subscription {topic}/{group}",
                "is there already",
                f"For several handlers: sub = bus.subscription({topic!r}, group={group!r}), then @sub.on for each.",
            )

        def decorate(function: _F) -> _F:
            subscription = self.subscription(
                topic,
                group=group,
                ordered=ordered,
                start=start,
                lanes=lanes,
                max_in_flight=max_in_flight,
                max_ahead=max_ahead,
                poison_after=poison_after,
                unhandled=unhandled,
                middleware=middleware,
            )
            try:
                subscription.on(function, type=type, batch=batch, within=within, name=name)
            except ConfigError:
                del self._subscriptions[topic, group]
                raise
            return function

        return decorate

    def subscription(
        self,
        topic: str,
        *,
        group: str,
        ordered: bool | None = None,
        start: Start = "new",
        lanes: int | None = None,
        max_in_flight: int | None = None,
        max_ahead: int | None = None,
        poison_after: int = 100,
        unhandled: Literal["skip", "dead_letter"] = "skip",
        middleware: Sequence[Any] = (),
    ) -> Subscription:
        """The subscription of a group of a topic, to which ``@sub.on`` adds handlers.

        :param ordered: events of one key one at a time and in order (default: as the topic, which is ordered unless
            its configuration says otherwise).
        :param start: where a group that does not exist yet begins: ``new``, ``earliest``, or a moment where the broker
            can.
        :param lanes: in how many lanes the group is kept in order (default: the topic's, 4).
        :param max_in_flight: handlers in flight at once, 100 by default.
        :param max_ahead: events fetched beyond the oldest unfinished one, 10,000 by default.
        :param poison_after: hand-overs by the broker after which an event is dead-lettered unstarted.
        :param unhandled: what happens to an event of a type that no handler takes: ``skip`` (counted) or
            ``dead_letter``.
        :param middleware: for every handler of this subscription.

        Asked for again with the same settings it is the same object; with others it is a ConfigError.
        """
        options = SubscriptionOptions(
            ordered=ordered,
            start=start,
            lanes=lanes,
            max_in_flight=max_in_flight,
            max_ahead=max_ahead,
            poison_after=poison_after,
            unhandled=unhandled,
            middleware=tuple(from_callable(item) for item in middleware),
        )
        there = self._subscriptions.get((topic, group))
        if there is not None:
            if there.options != options:
                raise ConfigError(
                    f"subscription {topic}/{group}", "is there already with other settings", "Give them in one place."
                )
            return there
        if self._core.state != "new":
            raise StateError(f"subscription {topic}/{group}: the Bus is {self._core.state}; subscribe before it starts")
        subscription = Subscription(self._core, topic, group, options)
        self._subscriptions[topic, group] = subscription
        return subscription

    @overload
    def topic(self, name: str, payload: type[_P]) -> Topic[_P]: ...

    @overload
    def topic(self, name: str, payload: Any = None) -> Topic[Any]: ...

    def topic(self, name: str, payload: Any = None) -> Topic[Any]:
        """A typed view of a topic, that publishes these payload types (a class or a union) only.

        A type checker refuses other payloads where ``payload`` is a class. Of a union it has to be told, as Python has
        no type of unions: ``orders: Topic[Placed | Cancelled] = bus.topic("orders", Placed | Cancelled)``.
        """
        types = tuple(get_args(payload)) or ((payload,) if payload is not None else ())
        return Topic(self, check_topic(name), types)

    def provide(
        self, kind: Any, factory: Callable[[], Any], *, scope: Literal["process", "delivery"] = "process"
    ) -> None:
        """Let handlers ask for this type: the factory returns a value, an awaitable or an (async) context manager.

        ``process``: made once at the start and ended at close; ``delivery``: for each start of a handler.
        """
        self._core.providers.register(kind, factory, scope)

    async def declare(self, topic: str, *, groups: str | Iterable[str] = (), ordered: bool | None = None) -> None:
        """Make the topic and these groups be there: from now on each group gets what is published, consumer or not."""
        self._core.check_started("declare")
        await self._topics.declare(topic, one_or_several("declare(groups=)", groups), ordered)

    # ----------------------------------------------------------------------------------------------- publish

    async def publish(
        self,
        topic: str,
        data: Any = ABSENT,
        /,
        *,
        key: Any = None,
        type: str | None = None,
        id: str | None = None,
        source: str | None = None,
        subject: str | None = None,
        time: datetime | str | None = None,
        datacontenttype: str | None = None,
        dataschema: str | None = None,
        extensions: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        delay: float | None = None,
        deadline: float | None = None,
    ) -> Receipt:
        """Publish one event, and return when the broker has durably accepted it.

        ``data`` is a payload (``Event.create`` says which) or an :class:`Event`. ``key`` is the ordering key; unless
        given, what the payload's class or the topic's configuration says. ``headers`` are transport headers beside the
        event: strings without line breaks under names of printable ASCII, which travel in lower case; names that the
        event, a broker or the library owns (``ce-…``, ``content-type``, ``nats-…``, ``anybroker-…``, ``x-death``,
        ``cc``, …) are refused. ``delay``: seconds before which no group gets it, where the broker can. ``deadline``:
        seconds by which this publish has ended (default: the Bus's).

        Events of one key are accepted in the order in which ``publish`` was first stepped, also under ``gather``.
        Inside a handler, an event without ``id`` gets one that a second run of the handler gives again: a hash of the
        cause, the handler, and all that the event says but its time. Of events that say the same, the position counts.
        What says something else in the second run (a time in the data) is another event: give ``id`` where that is
        not meant.

        Raises ``Rejected`` (not stored, do not retry), ``Unavailable`` (not stored), ``PublishOutcomeUnknown`` (may be
        stored), ``EventError`` or ``ConfigError`` (nothing was sent), ``StateError``. Cancelled, it raises
        ``CancelledError``, and the outcome is unknown.
        """
        out = check_headers(headers) if headers else None
        if running_loop() is not self._core.loop:
            raise self._core.elsewhere("publish")
        if topic not in self._topics.known:
            await self._first_publish(topic)
        if data.__class__ is Event or self._events.key_of:
            event = self._events.make(
                topic, data, key, type, id, source, subject, time, datacontenttype, dataschema, extensions
            )
        else:  # the hot path: one call less
            event = Event.create(
                data,
                type=type,
                source=source or self._core.known_source or self.source,
                id=id,
                time=time,
                subject=subject,
                key=key,
                datacontenttype=datacontenttype,
                dataschema=dataschema,
                extensions=extensions,
            )
            if (key := event._attributes.get("partitionkey")) is not None:
                check_key(str(key))
        cause = current_cause()
        if cause is not None and not isinstance(data, Event):
            out = {} if out is None else out
            continue_cause(event, cause, topic, id is not None, out, time is not None)
        not_before = None if delay is None else self._events.not_before(topic, event, delay)
        if self._way_out is None:
            if (publisher := self._core.publisher) is None:
                raise self._core.not_started("publish")
            return await publisher.send(Publishing(event, topic, None, out, not_before, ""), deadline)
        return await self._way_out.publish(topic, event, out or {}, not_before, deadline)

    async def publish_many(
        self, topic: str, items: Iterable[Any], /, *, deadline: float | None = None
    ) -> list[Receipt | BrokerError]:
        """Publish payloads or Events, and return one result for each, in order: a Receipt or the error.

        Not atomic: one event's failure is its own. A wrong payload raises before anything is sent. Cancelled, it raises
        ``CancelledError``, and the outcome of each is unknown.
        """
        if isinstance(items, str | bytes | bytearray | Mapping | Event):  # its letters or keys are not meant
            raise ConfigError("publish_many(items)", f"is one {items.__class__.__name__}", "Give a list of payloads.")
        if running_loop() is not self._core.loop:
            raise self._core.elsewhere("publish_many")
        items = list(items)
        if topic not in self._topics.known:
            await self._first_publish(topic, len(items))
        publisher = self._core.publisher
        if publisher is None:
            raise self._core.not_started("publish_many")
        cause = current_cause()
        ready: list[tuple[Event[Any], dict[str, str]]] = []
        for item in items:
            event = self._events.make(topic, item, *(None,) * 9)
            out: dict[str, str] = {}
            if cause is not None and not isinstance(item, Event):
                continue_cause(event, cause, topic, False, out)
            ready.append((event, out))
        if self._way_out is not None:
            results = await self._way_out.publish_many(topic, ready, deadline)
        else:
            sent = [
                publisher.send(Publishing(event, topic, None, out or None, None, ""), deadline) for event, out in ready
            ]
            results = await asyncio.gather(*sent, return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException) and not isinstance(result, BrokerError):
                raise result
        return results  # type: ignore[return-value] # anything else was raised above

    async def _first_publish(self, topic: str, count: int = 1) -> None:
        if self._core.state in ("new", "closed"):
            raise self._core.not_started("publish")
        await self._topics.first_publish(topic, count)

    # -------------------------------------------------------------------------------------------------- life

    async def __aenter__(self) -> Bus:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def start(self) -> None:
        """Connect, provision, start the subscriptions. Raises ConfigError or BrokerError, and leaves nothing open."""
        if self._core.state != "new":
            raise StateError(f"start: the Bus is {self._core.state} already. Make a new Bus")
        self._core.state = "starting"
        self._core.loop, self._core.pid = asyncio.get_running_loop(), os.getpid()
        try:
            await as_failure("starting", self._start())
        except BaseException:
            self._core.state = "started"
            await self.close(drain=0)
            raise
        else:
            self._core.state = "started"
        finally:
            self._start_ended.set()

    async def _start(self) -> None:
        settings = self.settings
        core = self._core
        adapter = core.adapter = make_adapter_of(self.settings, self._factory, self.source)
        for subscription in self._subscriptions.values():
            subscription.check(adapter)
        self._check_idempotent_names()
        try:
            async with asyncio.timeout(settings.connect_timeout):
                await adapter.connect()
        except TimeoutError as exc:
            raise Unavailable(
                f"the broker at {self._where} did not answer within {settings.connect_timeout:g} s. "
                "Is it running, and is the address right?"
            ) from exc
        await self._topics.declare_all()
        self._core.publisher = Publisher(await adapter.open_sender(), settings.publish_deadline, self.stats)
        traced = tracing()
        if self._publish_middleware or traced:
            self._way_out = WayOut(core, self._publish_middleware, traced)
        await self._core.providers.start(self._stack)
        url = None if self._factory is not None else parse_url(settings.url or DEFAULT_URL)
        core.stores = Stores(self._store, url, bool(adapter.capabilities.durable), self.source)
        self._stack.push_async_callback(core.stores.close)
        if self._consume:
            for subscription in self._subscriptions.values():
                await subscription.start()

    def _check_idempotent_names(self) -> None:
        """Idempotency tells events apart by group, handler, source and id, not by topic."""
        seen: dict[tuple[str, str], str] = {}
        for (topic, group), subscription in self._subscriptions.items():
            for name in subscription.idempotent_handlers:
                other = seen.setdefault((group, name), topic)
                if other != topic:
                    raise ConfigError(
                        f"handler {name} of group {group!r}",
                        f"is idempotent on the topics {other!r} and {topic!r}: an event that is on both would be "
                        "handled on one of them only",
                        "Give each its own name=, or put them into different groups.",
                    )

    @property
    def _where(self) -> str:
        return str(parse_url(self.settings.url)) if self.settings.url else self.adapter.capabilities.adapter

    def _wanted(self) -> list[Wanted]:
        return [
            Wanted(topic, GroupSpec(group, subscription.ordered, subscription.options.start), subscription.lanes)
            for (topic, group), subscription in self._subscriptions.items()
        ]

    async def close(self, drain: float | None = None) -> None:
        """Stop fetching, let handlers finish (``drain`` seconds), settle, flush what was published, close.

        Idempotent, and safe to call from several tasks: all wait for the one that closes. Cancelling the waiting does
        not stop the closing. ``StateError`` inside a handler, which it would wait for, and in another event loop.
        """
        if self._core.state not in ("new", "closed"):
            if running_loop() is not self._core.loop:
                raise self._core.elsewhere("close")
            task = asyncio.current_task()
            if any(subscription.runs_in(task) for subscription in self._subscriptions.values()):
                raise StateError(
                    "close: called inside a handler, which it would wait for. Use asyncio.create_task(bus.close()), or "
                    "set an event that the program's main function waits for"
                )
        if self._core.state == "starting":
            await self._start_ended.wait()
        if self._core.state in ("new", "closed"):
            self._core.state = "closed"
            self._closed.set()
            return
        if self._closing is None:
            self._core.state = "closing"
            self._closing = asyncio.create_task(
                self._close(self.settings.drain if drain is None else drain), name="anybroker close"
            )
        await asyncio.shield(self._closing)

    async def _close(self, drain: float) -> None:
        try:
            stopping = [subscription.stop(drain) for subscription in self._subscriptions.values()]
            for result in await asyncio.gather(*stopping, return_exceptions=True):
                if isinstance(result, BaseException):
                    _log.error("a subscription did not stop cleanly", exc_info=result)
            if self._core.publisher is not None:
                await self._core.publisher.close(max(drain, 1.0))
            await self._stack.aclose()
        finally:
            self._core.publisher = None
            if self._core.has_adapter:
                await bounded(self._core.adapter.close(), 10.0, "closing the connection")
            self._core.state = "closed"
            self._closed.set()

    def _give_up(self) -> None:
        """While the Bus closes: wait for no handler and no confirmation any more."""
        for subscription in self._subscriptions.values():
            subscription.give_up()
        if self._core.publisher is not None:
            self._core.publisher.give_up()

    def run(self, main: Main | None = None) -> None:
        """Start, and run until SIGTERM or SIGINT; then drain and close.

        A second signal cancels what still runs and closes at once; a third one ends the program where it is, with the
        exit code 128 + its number. ``main`` is an async function of the program's own that is started once the Bus is;
        the Bus goes on when it returns, and closes and raises when it fails, or exits (``sys.exit``).
        """
        asyncio.run(self.run_async(main))

    async def run_async(self, main: Main | None = None) -> None:
        """What :meth:`run` does, in a loop that runs already. Installs the signal handlers while it lasts."""
        await run_until_signal(self, self._give_up, main)

    # ----------------------------------------------------------------------------------------------- looking

    @property
    def source(self) -> str:
        """CloudEvents ``source`` of what this Bus publishes; the program's name, with a warning, if none was given."""
        return self._core.source

    @property
    def adapter(self) -> Adapter:
        """The adapter; ``bus.adapter.native`` is the client's own object. StateError before the start."""
        return self._core.adapter

    @property
    def subscriptions(self) -> tuple[Subscription, ...]:
        """All subscriptions."""
        return tuple(self._subscriptions.values())

    @property
    def problems(self) -> dict[str, str]:
        """What is wrong now, by subscription (``orders/billing``), and under ``publish`` why the broker takes nothing,
        where it says so; empty while all is well. For a health check."""
        found = {
            f"{subscription.topic}/{subscription.group}": subscription.problem
            for subscription in self._subscriptions.values()
            if subscription.problem is not None
        }
        if self._core.publisher is not None and (hindrance := self._core.publisher.hindrance) is not None:
            found["publish"] = hindrance
        return found

    async def backlog(self, topic: str, group: str) -> Backlog:
        """What waits for a group. CapabilityError where the broker cannot say, MissingGroup where there is none."""
        return await self._core.backlog(topic, group)

    async def seek(self, topic: str, group: str, to: Start) -> None:
        """Move a group without members to the start, the end or a moment. CapabilityError where the broker cannot."""
        await self._core.seek(topic, group, to)

    def dead_letters(self, topic: str, group: str) -> DeadLetterQueue:
        """The dead letters of a group: list, show, replay, discard."""
        check_names(topic, group)
        return DeadLetterQueue(self._core, topic, group, self._topics.dead_letters_of(topic, group))
