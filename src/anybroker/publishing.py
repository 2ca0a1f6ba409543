"""The publishing half of a Bus."""

from __future__ import annotations

from asyncio.events import _get_running_loop as running_loop
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from types import UnionType
from typing import Any, TypeVar, overload

from typing_extensions import TypeForm

from .adapter import Receipt
from .cloudevents.attributes import AttributeValue
from .cloudevents.event import ABSENT, Event
from .delivery import current_cause
from .engine.core import Core
from .engine.making import EventMaker, expire
from .engine.outgoing import continue_cause
from .engine.publisher import Publishing
from .errors import BrokerError, ConfigError
from .from_thread import FromThread
from .middleware.outgoing import Outgoing, PublishMiddleware
from .middleware.way_out import WayOut
from .names import check_headers, check_key, check_topic, one_or_several
from .topic import Topic, payload_classes

__all__ = ["PublishingBus"]

_P = TypeVar("_P")


class PublishingBus:
    """What a :class:`Bus` publishes with. Not made by itself."""

    def __init__(self, core: Core, publish_middleware: Sequence[PublishMiddleware]) -> None:
        self._core = core
        self._topics = core.topics
        self.stats = core.stats
        """What was published since the first start."""
        self.from_thread = FromThread(self, core)
        """``bus.from_thread.publish(…)``: for plain ``def`` handlers and other threads."""
        self._published: dict[str, dict[type, None]] = {}
        self._publish_middleware = tuple(publish_middleware)
        self._way_out: WayOut | None = None
        self._events = EventMaker(core)

    @property
    def source(self) -> str:
        """CloudEvents ``source`` of what this Bus publishes; the program's name, with a warning, if none was given."""
        return self._core.source

    @overload
    def topic(self, name: str, payload: None = None) -> Topic[object]: ...

    @overload
    def topic(self, name: str, payload: type[_P]) -> Topic[_P]: ...

    @overload
    def topic(self, name: str, payload: TypeForm[_P]) -> Topic[_P]: ...

    @overload
    def topic(self, name: str, payload: UnionType) -> Topic[object]: ...

    def topic(self, name: str, payload: object = None) -> Topic[Any]:
        """A typed view of a topic that publishes only payloads of this type: a class, or a union of classes.

        ``bus.topic("orders", Placed | Cancelled)`` is a ``Topic[Placed | Cancelled]`` to mypy 2.0 and pyright 1.1.412,
        and to later ones. Older ones have to be told:
        ``orders: Topic[Placed | Cancelled] = bus.topic("orders", Placed | Cancelled)``. Raises ConfigError for a type
        whose values cannot be told by their class.
        """
        types = () if payload is None else payload_classes(payload)
        self._published.setdefault(check_topic(name), {}).update(dict.fromkeys(types))
        return Topic(self, name, types)

    async def declare(self, topic: str, *, groups: str | Iterable[str] = (), ordered: bool | None = None) -> None:
        """Make the topic and these groups be there: from now on each group gets what is published, consumer or not."""
        self._core.check_started("declare")
        await self._topics.declare(topic, one_or_several("declare(groups=)", groups), ordered)

    async def publish(
        self,
        topic: str,
        data: object = ABSENT,
        /,
        *,
        key: object = None,
        type: str | None = None,
        id: str | None = None,
        source: str | None = None,
        subject: str | None = None,
        time: datetime | str | None = None,
        datacontenttype: str | None = None,
        dataschema: str | None = None,
        extensions: Mapping[str, AttributeValue | datetime] | None = None,
        headers: Mapping[str, str] | None = None,
        delay: float | None = None,
        expires_in: float | None = None,
        deadline: float | None = None,
        within: object = None,
    ) -> Receipt:
        """Publish one event, and return when the broker has durably accepted it.

        ``data`` is a payload (``Event.create`` says which) or an :class:`Event`. ``key`` is the ordering key; unless
        given, what the payload's class or the topic's configuration says. ``headers`` are transport headers beside the
        event: strings without line breaks under names of printable ASCII, which travel in lower case; names that the
        event, a broker or the library owns (``ce-…``, ``content-type``, ``nats-…``, ``anybroker-…``, ``x-death``,
        ``cc``, …) are refused. ``delay``: seconds before which no group gets it, where the broker can. ``expires_in``:
        seconds after which no handler starts with it (CloudEvents' ``expirytime``: :class:`deadline`). ``deadline``:
        seconds by which this publish has ended (default: the Bus's). ``within``: a database connection, session or
        transaction that the event becomes a part of, where the Bus has a :class:`Sink` for it: it returns when the
        event is written there, and a relay sends it after the commit; ``deadline`` is not used then. In a handler that
        has a transaction which one of the sinks takes, that is the default.

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
        if within is None and self._core.sinks.any:
            within = self._core.sinks.transaction()
        if within is None and topic not in self._topics.known:
            await self._first_publish(topic, "publish")
        if data.__class__ is Event or self._events.configured:
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
        if expires_in is not None:
            expire(event, expires_in, data.__class__ is Event)
        not_before = None if delay is None else self._events.not_before(topic, event, delay, within is not None)
        if self._way_out is None:
            if within is not None:
                return await self._core.put(Publishing(event, topic, None, out, not_before, ""), within)
            if (publisher := self._core.publisher) is None:
                raise self._core.not_started("publish")
            return await publisher.send(Publishing(event, topic, None, out, not_before, ""), deadline)
        return await self._way_out.publish(Outgoing(topic, event, out or {}, not_before, deadline, within))

    async def publish_many(
        self, topic: str, items: Iterable[object], /, *, deadline: float | None = None, within: object = None
    ) -> list[Receipt | BrokerError]:
        """Publish payloads or Events, and return one result for each, in order: a Receipt or the error.

        Not atomic: one event's failure is its own. A wrong payload raises before anything is sent. Cancelled, it raises
        ``CancelledError``, and the outcome of each is unknown.

        With ``within`` all of it is in the caller's transaction, in the order of the list, or it raises, and returns no
        results: what the database's client raised, or ConfigError. Some of the events may be written then, as also
        after a cancellation: roll back. In PostgreSQL a failure has ended the transaction anyway, up to the savepoint
        if there is one. It takes few round trips, or with publish middleware, which sees one event at a time, one for
        each event.
        """
        if isinstance(items, str | bytes | bytearray | Mapping | Event):  # its letters or keys are not meant
            raise ConfigError("publish_many(items)", f"is one {items.__class__.__name__}", "Give a list of payloads.")
        core = self._core
        if running_loop() is not core.loop:
            raise core.elsewhere("publish_many")
        items = list(items)
        if within is None and core.sinks.any:
            within = core.sinks.transaction()
        if within is None and topic not in self._topics.known:
            await self._first_publish(topic, "publish_many", len(items))
        ready = self._events.make_many(topic, items)
        if self._way_out is not None:
            return await self._way_out.publish_many(topic, ready, deadline, within)
        if within is not None:
            batch = [Publishing(event, topic, None, out, None, "") for event, out in ready]
            return [*await core.put_many(topic, batch, within)]
        if core.publisher is None:
            raise core.not_started("publish_many")
        return await core.publisher.send_many(topic, ready, deadline)

    async def forward(
        self,
        topic: str,
        event: Event[Any],
        /,
        *,
        headers: Mapping[str, str] | None = None,
        deadline: float | None = None,
    ) -> Receipt:
        """Publish an event that has passed :meth:`publish` before, as it is, with the headers that it had then: for
        relays. No middleware runs, and nothing is added; that this Bus knows no group of the topic is neither warned of
        nor counted. Raises what :meth:`publish` raises."""
        core = self._core
        if running_loop() is not core.loop:
            raise core.elsewhere("forward")
        if topic not in self._topics.known:
            await self._first_publish(topic, "forward", forwarded=True)
        if (publisher := core.publisher) is None:
            raise core.not_started("forward")
        return await publisher.send(Publishing(event, topic, None, headers or None, None, ""), deadline)

    async def _first_publish(self, topic: str, what: str, count: int = 1, *, forwarded: bool = False) -> None:
        if self._core.state in ("new", "closed"):
            raise self._core.not_started(what)
        await self._topics.first_publish(topic, count, forwarded=forwarded)

    def _connected(self) -> None:
        core, middleware = self._core, self._publish_middleware
        self._way_out = WayOut(core, middleware) if middleware or core.spans is not None else None
