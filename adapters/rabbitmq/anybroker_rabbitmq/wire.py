"""Events and AMQP 0-9-1 messages: headers with a prefix, the content-type property, our transport headers beside them.

CloudEvents has no binding for AMQP 0-9-1. This is the binding for AMQP 1.0, with the prefix that survives RabbitMQ's
conversion between the two.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal, NamedTuple

from aiormq.abc import DeliveredMessage
from pamqp.commands import Basic

from anybroker.adapter import Foreign, Inbound, Lane, Outbound
from anybroker.cloudevents import HeaderBinding, TransportNames
from anybroker.errors import InvalidEvent
from anybroker.kit.not_before import NOT_BEFORE, headers_with_not_before, take_not_before

from .foreign import BROKERS, KEPT, ROUTING, AmqpForeign, DecodedForeign, bytes_of, write_again
from .frames import PERSISTENT, field, short, table
from .ladder import DUE
from .unreadable import UnreadableForeign, original

__all__ = ["Wire", "Written"]

PREFIXES: Final = ("cloudEvents_", "cloudEvents:", "ce-")
_PREFIXES: Final = tuple(prefix.lower() for prefix in PREFIXES)
_AHEAD: Final = 60.0
"""Seconds that a publisher's clock may be ahead of ours. The ladder counts in whole seconds, and the core waits for the
rest of the last one."""
_STRUCTURED: Final = "application/cloudevents+json"
_MAX_NAMES: Final = 1024

_CONTENT_TYPE: Final = Basic.Properties.flags["content_type"]
_ALWAYS: Final = sum(Basic.Properties.flags[name] for name in ("headers", "delivery_mode", "message_id"))


class Written(NamedTuple):
    """A message: which properties it has, the properties, and the body."""

    flags: int
    properties: bytes
    body: bytes


class Wire:
    """Both directions. Each adapter has one, which remembers header names, up to a bound."""

    def __init__(
        self, content_mode: Literal["binary", "structured"] = "binary", header_prefix: str = PREFIXES[0]
    ) -> None:
        others = tuple(prefix for prefix in PREFIXES if prefix != header_prefix)
        self._binding = HeaderBinding(
            bytes, prefix=header_prefix, also_read=others, content_type="property", null_body=False
        )
        self._structured = content_mode == "structured"
        self.counters: frozenset[str] = frozenset(("x-delivery-count",))
        """Headers in which the server counts redeliveries, and overwrites what a publisher wrote there. It leaves the
        publisher's value in a header that it does not know."""
        self._fields: dict[str, bytes] = {}
        self._names = TransportNames((*_PREFIXES, *BROKERS), ("anybroker-data",))

    def write(self, outbound: Outbound, message_id: str, other: bool = False) -> Written:
        """The message of an event under this id; ``other``: in the content mode that is not set. Raises ValueError for
        a transport header whose name has more than 255 bytes.

        An event goes in structured mode where binary mode cannot carry it: a name or content type too long for AMQP,
        or data that is itself a structured event.
        """
        event = outbound.event
        extra = outbound.headers if outbound.not_before is None else headers_with_not_before(outbound)
        if isinstance(event, Foreign):
            return self._write_foreign(event, extra or {}, message_id)
        beside = [(self._field(name), text.encode()) for name, text in extra.items()] if extra else []
        content_type = event.datacontenttype
        if self._structured is other and (content_type is None or _fits(content_type)) and self._binding.carries(event):
            try:
                fields = [(self._field(name), value) for name, value in self._binding.binary_headers(event)]
            except ValueError:
                pass  # a name too long for AMQP: structured
            else:
                return _written(content_type, table(fields + beside), message_id, event.body or b"")
        headers, body = self._binding.structured(event)
        fields = [(self._field(name), value) for name, value in headers]
        return _written(_STRUCTURED, table(fields + beside), message_id, body)

    def _write_foreign(self, event: Foreign, extra: Mapping[str, str], message_id: str) -> Written:
        body = event.body or b""
        if isinstance(event, AmqpForeign):
            return Written(*write_again(event, extra, message_id), body)
        own = {name.lower(): value or b"" for name, value in event.headers}
        fields = [
            (field(ROUTING.get(name, name)), value or b"")
            for name, value in event.headers
            if name.lower() != "content-type"
        ]
        fields += [(field(name), text.encode()) for name, text in extra.items() if name not in own]
        content_type = own["content-type"].decode("utf-8", "replace") if "content-type" in own else None
        return _written(content_type, table(fields), message_id, body)

    def _field(self, name: str) -> bytes:
        known = self._fields.get(name)
        if known is None:
            known = field(name)
            if len(self._fields) >= _MAX_NAMES:
                self._fields.clear()
            self._fields[name] = known
        return known

    def read(self, message: DeliveredMessage, lane: Lane, position: int, token: Any) -> Inbound:
        """One delivery. What is not a CloudEvent comes as an AmqpForeign; nothing is raised."""
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
        # A topic's name has no colon, a group's exchange has one. The ladder keeps the exchange in the routing key.
        inlet = ":" in (delivery.routing_key if delivery.exchange == DUE else delivery.exchange)
        counters = self.counters if delivery.redelivered else ()  # on the first delivery they are the publisher's
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
                event = DecodedForeign(message, exc)
        not_before = take_not_before(extra, _AHEAD) if NOT_BEFORE in extra else None
        return Inbound(event, lane, position, event.key, extra, message, token, 0, deliveries, not_before, inlet)


def _fits(content_type: str) -> bool:
    """Whether the content-type property has room for it."""
    return len(content_type) <= 255 and content_type.isascii()


def _written(content_type: str | None, headers: bytes, message_id: str, body: bytes) -> Written:
    properties = headers + PERSISTENT + short(message_id)
    if content_type is None:
        return Written(_ALWAYS, properties, body)
    return Written(_CONTENT_TYPE | _ALWAYS, short(content_type) + properties, body)
