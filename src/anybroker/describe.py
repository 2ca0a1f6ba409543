"""What a Bus is, as data: topics, groups, handlers, event types, keys, and the middleware in its order."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from .cloudevents.declared import declared_key_name
from .codec.annotations import declared_type, members
from .config.settings import DEFAULT_URL, BusSettings, TopicSettings, parse_url
from .middleware.layer import kind_of
from .middleware.outgoing import PublishMiddleware
from .subscription import Subscription

__all__ = [
    "BusDescription",
    "HandlerDescription",
    "PayloadDescription",
    "SubscriptionDescription",
    "TopicDescription",
    "describe",
]


@dataclass(frozen=True, kw_only=True)
class PayloadDescription:
    """A class, or another annotation, that data become."""

    name: str
    """``module.Class``, or the annotation as it is written."""
    type: str | None
    """The event type that the class declares."""
    key: str | None
    """The field that orders its events, or the name of the function that finds the key."""


@dataclass(frozen=True, kw_only=True)
class HandlerDescription:
    """A handler of a subscription."""

    name: str
    """What dead letters, logs and idempotency call it."""
    module: str
    types: tuple[str, ...]
    """The event types that it takes; empty: all that no other handler of the subscription takes."""
    payloads: tuple[PayloadDescription, ...]
    """What it asks for: the members of a union, one by one; empty where it asks for no payload."""
    batch: int | None
    """The most events that one call takes; None: it takes one at a time, and not in a list."""
    within: float | None
    """Seconds that a batch waits for more events."""
    thread: bool
    """Whether it is a plain ``def``, which runs in a thread."""
    middleware: tuple[str, ...]
    """Outermost first, the Bus's and the default ones included."""


@dataclass(frozen=True, kw_only=True)
class SubscriptionDescription:
    """A group of a topic with its handlers. A number that is None is the library's default."""

    topic: str
    group: str
    ordered: bool
    start: str
    """Where a new group begins: ``new``, ``earliest``, or a time (ISO 8601)."""
    lanes: int | None
    max_in_flight: int | None
    max_ahead: int | None
    poison_after: int
    unhandled: str
    dead_letter_topic: str
    handlers: tuple[HandlerDescription, ...]


@dataclass(frozen=True, kw_only=True)
class TopicDescription:
    """A topic that the configuration, a subscription or ``bus.topic`` names."""

    name: str
    ordered: bool
    key: str | None
    """Where the configuration finds the ordering key of an event."""
    codec: str
    """What writes its data."""
    lanes: int | None
    retention: float | None
    """Seconds that events are kept; None: the broker's default."""
    foreign: str
    """What becomes of messages that are not CloudEvents: ``dead_letter`` or ``wrap``."""
    groups: tuple[str, ...]
    """The groups that this Bus knows: subscribed here, or in the configuration."""
    payloads: tuple[PayloadDescription, ...]
    """What ``bus.topic(name, …)`` says is published to it here."""


@dataclass(frozen=True, kw_only=True)
class BusDescription:
    """A Bus. Holds no secret: of the broker's URL, the scheme alone."""

    source: str | None
    """CloudEvents ``source``; None where none was given."""
    broker: str
    """The scheme of the broker's URL, or the class of the object that makes the adapter."""
    provision: str
    consume: bool
    lease: float
    drain: float
    publish_deadline: float
    connect_timeout: float
    max_hops: int
    publish_middleware: tuple[str, ...]
    """Outermost first."""
    topics: tuple[TopicDescription, ...]
    """By name."""
    subscriptions: tuple[SubscriptionDescription, ...]
    """In the order in which they were made."""

    def as_dict(self) -> dict[str, object]:
        """Plain data, which ``json.dumps`` takes."""
        return asdict(self)


def describe(
    settings: BusSettings,
    *,
    factory: object | None,
    consume: bool,
    publish_middleware: Sequence[PublishMiddleware],
    published: Mapping[str, Iterable[type]],
    subscriptions: Sequence[Subscription],
) -> BusDescription:
    """What these say. ConfigError for middleware in an order that cannot be."""
    names = {*settings.topics, *published, *(subscription.topic for subscription in subscriptions)}
    return BusDescription(
        source=settings.source,
        broker=parse_url(settings.url or DEFAULT_URL).scheme if factory is None else type(factory).__name__,
        provision=settings.provision,
        consume=consume,
        lease=settings.lease,
        drain=settings.drain,
        publish_deadline=settings.publish_deadline,
        connect_timeout=settings.connect_timeout,
        max_hops=settings.max_hops,
        publish_middleware=tuple(map(kind_of, publish_middleware)),
        topics=tuple(
            _topic(
                name,
                settings.topics.get(name, TopicSettings()),
                [subscription.group for subscription in subscriptions if subscription.topic == name],
                published.get(name, ()),
            )
            for name in sorted(names)
        ),
        subscriptions=tuple(map(_subscription, subscriptions)),
    )


def _topic(name: str, settings: TopicSettings, groups: Sequence[str], published: Iterable[type]) -> TopicDescription:
    return TopicDescription(
        name=name,
        ordered=settings.ordered,
        key=settings.key,
        codec=settings.codec or "json",
        lanes=settings.lanes,
        retention=settings.retention,
        foreign=settings.foreign,
        groups=tuple(sorted({*groups, *settings.groups})),
        payloads=tuple(map(_payload, published)),
    )


def _subscription(subscription: Subscription) -> SubscriptionDescription:
    options, settings = subscription.options, subscription.topic_settings
    start = options.start
    return SubscriptionDescription(
        topic=subscription.topic,
        group=subscription.group,
        ordered=subscription.ordered,
        start=start.isoformat() if isinstance(start, datetime) else start,
        lanes=subscription.lanes,
        max_in_flight=options.max_in_flight or settings.max_in_flight,
        max_ahead=options.max_ahead or settings.max_ahead,
        poison_after=options.poison_after,
        unhandled=options.unhandled,
        dead_letter_topic=subscription.dead_letter_topic,
        handlers=tuple(
            HandlerDescription(
                name=entry.spec.name,
                module=getattr(entry.spec.function, "__module__", None) or type(entry.spec.function).__module__,
                types=tuple(sorted(entry.spec.types)),
                payloads=() if entry.spec.payload is None else tuple(map(_payload, members(entry.spec.payload))),
                batch=entry.batch,
                within=entry.within if entry.batch else None,
                thread=not entry.spec.is_async,
                middleware=tuple(map(kind_of, subscription.arranged(entry))),
            )
            for entry in subscription.handlers
        ),
    )


def _payload(annotation: Any) -> PayloadDescription:
    if not isinstance(annotation, type):
        return PayloadDescription(name=str(annotation), type=None, key=None)
    name = annotation.__qualname__
    return PayloadDescription(
        name=name if annotation.__module__ == "builtins" else f"{annotation.__module__}.{name}",
        type=declared_type(annotation),
        key=declared_key_name(annotation),
    )
