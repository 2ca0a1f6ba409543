"""Events and AMQP 0-9-1 messages: headers with a prefix, the content-type property, our transport headers beside them.

There is no official CloudEvents binding for AMQP 0-9-1; this is the AMQP 1.0 binding with the prefix that survives
RabbitMQ's conversion between the two.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Final, Literal, NamedTuple

from aiormq.abc import DeliveredMessage
from pamqp.commands import Basic
from pamqp.encode import by_type

from anybroker.adapter import Foreign, Inbound, Lane, Outbound
from anybroker.cloudevents import HeaderBinding, TransportNames
from anybroker.errors import InvalidEvent

from .frames import field, moment, native_table, table
from .ladder import DUE
from .unreadable import KEPT, ROUTING, UnreadableForeign, bytes_of, original

__all__ = ["AmqpForeign", "Wire", "Written"]

PREFIXES: Final = ("cloudEvents_", "cloudEvents:", "ce-")
_PREFIXES: Final = tuple(prefix.lower() for prefix in PREFIXES)
NOT_BEFORE: Final = "anybroker-not-before"
_AHEAD: Final = 60.0
"""Seconds that the clock of a publisher may be ahead of ours. What asks to wait for longer, another program wrote."""
_OURS: Final = "anybroker-"
_BROKERS: Final = ("x-death", "x-first-death-", "x-last-death-", "x-delivery-count", "x-acquired-count")
"""Headers that RabbitMQ adds. Sent back they would only be wrong."""
_STRUCTURED: Final = "application/cloudevents+json"
_MAX_NAMES: Final = 1024

_CONTENT_TYPE: Final = Basic.Properties.flags["content_type"]
_ALWAYS: Final = sum(Basic.Properties.flags[name] for name in ("headers", "delivery_mode", "message_id"))
_PERSISTENT: Final = b"\x02"


class Written(NamedTuple):
    """A message but for its id: property flags, the properties before and after the id, and the body."""

    flags: int
    before: bytes
    after: bytes
    body: bytes


class AmqpForeign(Foreign):
    """A message that is no CloudEvent, with its AMQP properties, so that a dead letter has them too."""

    __slots__ = ("properties",)

    def __init__(self, message: DeliveredMessage, reason: InvalidEvent) -> None:
        self.properties: Basic.Properties = message.header.properties
        native = _native(self.properties)
        headers = [(name, None if value is None else bytes_of(value)) for name, value in native.items()]
        if self.properties.content_type is not None:
            headers.append(("content-type", self.properties.content_type.encode()))
        super().__init__(message.body, headers, None, reason)

    def without_headers(self) -> Foreign:
        """See :meth:`anybroker.adapter.Foreign.without_headers`. The other properties go too."""
        return Foreign(self.body, (), self.key, self.reason)


class Wire:
    """Both directions. One for each adapter: it keeps what it has learned of header names, bounded."""

    def __init__(
        self, content_mode: Literal["binary", "structured"] = "binary", header_prefix: str = PREFIXES[0]
    ) -> None:
        others = tuple(prefix for prefix in PREFIXES if prefix != header_prefix)
        self._binding = HeaderBinding(
            bytes, prefix=header_prefix, also_read=others, content_type="property", null_body=False
        )
        self._structured = content_mode == "structured"
        self.counters: frozenset[str] = frozenset(("x-delivery-count",))
        """Headers in which the server counts what it hands over again, whatever a publisher wrote there. A name that
        the server does not know keeps the publisher's value."""
        self._fields: dict[str, bytes] = {}
        self._names = TransportNames((*_PREFIXES, *_BROKERS), ("anybroker-data",))

    def write(self, outbound: Outbound, other: bool = False) -> Written:
        """The message of an event; ``other``: in the content mode that is not set. Raises ValueError for a transport
        header whose name has more than 255 bytes.

        An event goes in structured mode where binary mode cannot carry it: a name or content type too long for AMQP,
        or data that is itself a structured event.
        """
        event = outbound.event
        extra = outbound.headers
        if outbound.not_before is not None and (extra is None or NOT_BEFORE not in extra):
            extra = {**(extra or {}), NOT_BEFORE: f"{outbound.not_before:.3f}"}
        if isinstance(event, Foreign):
            return self._write_foreign(event, extra or {})
        beside = [(self._field(name), text.encode()) for name, text in extra.items()] if extra else []
        content_type = event.datacontenttype
        if self._structured is other and (content_type is None or _fits(content_type)) and self._binding.carries(event):
            try:
                fields = [(self._field(name), value) for name, value in self._binding.binary_headers(event)]
            except ValueError:
                pass  # a name too long for AMQP: structured
            else:
                return _written(content_type, table(fields + beside), event.body or b"")
        headers, body = self._binding.structured(event)
        return _written(_STRUCTURED, table([(self._field(name), value) for name, value in headers] + beside), body)

    def _write_foreign(self, event: Foreign, extra: Mapping[str, str]) -> Written:
        body = event.body or b""
        if isinstance(event, AmqpForeign):
            return _written_again(event.properties, extra, body)
        if isinstance(event, UnreadableForeign):
            kept = {name.lower() for name, _ in event.headers if not _is_ours(name)} | KEPT.keys()
            added = [(field(name), text.encode()) for name, text in extra.items() if name not in kept]
            return Written(*event.again(table(added)[4:], _is_ours), body)
        own = {name.lower(): value or b"" for name, value in event.headers}
        fields = [
            (field(ROUTING.get(name, name)), value or b"")
            for name, value in event.headers
            if name.lower() != "content-type"
        ]
        fields += [(field(name), text.encode()) for name, text in extra.items() if name not in own]
        content_type = own["content-type"].decode("utf-8", "replace") if "content-type" in own else None
        return _written(content_type, table(fields), body)

    def _field(self, name: str) -> bytes:
        known = self._fields.get(name)
        if known is None:
            known = field(name)
            if len(self._fields) >= _MAX_NAMES:
                self._fields.clear()
            self._fields[name] = known
        return known

    def read(self, message: DeliveredMessage, lane: Lane, position: int, token: Any) -> Inbound:
        """One delivery. What is no CloudEvent comes as an AmqpForeign, what aiormq could not have read as an
        UnreadableForeign; nothing is raised."""
        event: Any = None
        properties = message.header.properties
        headers: Mapping[str, Any] = properties.headers or {}
        if (raw := original(message.header)) is not None:
            event = UnreadableForeign(raw, message.body)
            headers = dict(event.headers)
        names = self._names
        extra: dict[str, str] = {}
        deliveries = 1
        delivery: Any = message.delivery
        # No topic has a colon in its name, each group's exchange has; the ladder keeps whereto in the routing key.
        inlet = ":" in (delivery.routing_key if delivery.exchange == DUE else delivery.exchange)
        counters = self.counters if delivery.redelivered else ()  # before, what counts is the publisher's
        for name, value in headers.items():
            known = names[name]
            if known and value is not None and known not in KEPT:
                extra[known] = value if type(value) is str else bytes_of(value).decode("utf-8", "replace")
            elif counters and name in counters and isinstance(value, int):
                deliveries = max(deliveries, value + 1)
        if event is None:
            try:
                event = self._binding.parse(list(headers.items()), message.body, content_type=properties.content_type)
            except InvalidEvent as exc:
                event = AmqpForeign(message, exc)
        not_before = None
        if NOT_BEFORE in extra and (not_before := _seconds(extra[NOT_BEFORE])) is None:
            extra[NOT_BEFORE] = ""  # which the core counts, where it would have believed it
        return Inbound(event, lane, position, event.key, extra, message, token, 0, deliveries, not_before, inlet)


def _fits(content_type: str) -> bool:
    """Whether the content-type property has room for it."""
    return len(content_type) <= 255 and content_type.isascii()


def _seconds(text: str) -> float | None:
    """When it may be handled: the ladder counts in whole seconds, and the core waits for what is left of the last. None
    where it cannot come from the ladder."""
    try:
        moment = float(text)
    except ValueError:
        return None
    return moment if moment < time.time() + _AHEAD else None


def _native(properties: Basic.Properties) -> dict[str, Any]:
    """A foreign message's own headers."""
    headers: Mapping[str, Any] = properties.headers or {}
    return {KEPT.get(name, name): value for name, value in headers.items() if name in KEPT or not _is_ours(name)}


def _is_ours(name: str) -> bool:
    return name.lower().startswith((_OURS, *_BROKERS))


def _short(text: str) -> bytes:
    encoded = text.encode()[:255]
    return bytes((len(encoded),)) + encoded


def _written(content_type: str | None, headers: bytes, body: bytes) -> Written:
    if content_type is None:
        return Written(_ALWAYS, headers + _PERSISTENT, b"", body)
    return Written(_CONTENT_TYPE | _ALWAYS, _short(content_type) + headers + _PERSISTENT, b"", body)


def _written_again(properties: Basic.Properties, extra: Mapping[str, str], body: bytes) -> Written:
    """A foreign message once more, with its properties but for these: the id, which is ours; the expiration, which
    would drop it; the user and cluster id, which RabbitMQ refuses from others."""
    native = {ROUTING.get(name, name): value for name, value in _native(properties).items()}
    own = {name.lower() for name in native}
    native |= {name: text for name, text in extra.items() if name not in own}
    flags, parts = 0, {"before": b"", "after": b""}
    place = "before"
    for name, flag in Basic.Properties.flags.items():
        if name == "message_id":
            flags, place = flags | flag, "after"
            continue
        if name in ("expiration", "user_id", "cluster_id"):
            continue
        if name == "headers":
            encoded = native_table(native)
        elif name == "delivery_mode":
            encoded = _PERSISTENT
        elif (value := getattr(properties, name)) is None:
            continue
        elif name == "timestamp":
            encoded = moment(value)
        else:
            encoded = by_type(value, Basic.Properties.amqp_type(name))
        flags |= flag
        parts[place] += encoded
    return Written(flags, parts["before"], parts["after"], body)
