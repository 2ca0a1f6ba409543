"""RabbitMQ, by aio_pika and the SDK's two bindings: RabbitMQ's (``ce-``) and AMQP 1.0's (``cloudEvents_``)."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime
from struct import pack
from typing import Any, ClassVar, NamedTuple

import aio_pika
from aiormq.abc import ChannelFrame
from cloudevents.core.base import BaseCloudEvent
from cloudevents.core.bindings.amqp import AMQPMessage, from_amqp
from cloudevents.core.bindings.rabbitmq import RabbitMQMessage, from_rabbitmq, to_binary, to_structured
from cloudevents.core.formats.json import JSONFormat

from anybroker.adapter import SLOTS

from .._kit import TYPE
from .api import MINIMAL, Mode, Quirk, RawClient, RawMessage

__all__ = ["RabbitmqClient"]


class _Bytes(NamedTuple):
    """A message's properties, flags first, and its routing key, as bytes."""

    properties: bytes
    routing_key: bytes


def _short(text: bytes) -> bytes:
    return bytes((len(text),)) + text


def _long(text: bytes) -> bytes:
    return pack(">I", len(text)) + text


class RabbitmqClient(RawClient):
    """Publishes to the topic's exchange under the routing key of a slot."""

    prefix: ClassVar[str] = "ce-"
    blanks: ClassVar[tuple[str | None, ...]] = ("", None)
    largest: ClassVar[int] = 16_777_216
    header_room: ClassVar[int] = 100_000
    content_type_room: ClassVar[int] = 255

    def __init__(self, url: str) -> None:
        self._url = url
        self._messages: asyncio.Queue[RawMessage] = asyncio.Queue()
        self._connection: Any = None
        self._channel: Any = None

    async def __aenter__(self) -> RabbitmqClient:
        self._connection = await aio_pika.connect(self._url)
        self._channel = await self._connection.channel()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._connection.close()

    async def listen(self, topic: str, group: str) -> None:
        """By a separate queue, bound to the exchange."""
        queue = await self._channel.declare_queue(exclusive=True)
        await queue.bind(topic, "#")

        async def take(message: Any) -> None:
            self._messages.put_nowait(RawMessage(message.body, message.headers, message.content_type))

        await queue.consume(take, no_ack=True)

    async def receive(self) -> RawMessage:
        """The next delivery."""
        return await self._messages.get()

    async def send(self, topic: str, group: str, message: RawMessage) -> None:
        """Confirmed."""
        if isinstance(message.native, _Bytes):
            await self._send_bytes(topic, message.native, message.body or b"")
            return
        exchange = await self._channel.get_exchange(f"{topic}:{group}" if message.past_the_topic else topic)
        made = aio_pika.Message(message.body or b"", headers=dict(message.headers), content_type=message.content_type)
        await exchange.publish(made, routing_key="7")

    async def delete(self, topic: str, group: str) -> None:
        """The exchanges, and the queues behind them."""
        async with self._connection.channel() as channel:
            for name in ("members", *range(SLOTS)):  # a missing queue is not an error
                await channel.queue_delete(f"{topic}:{group}:{name}")
            for exchange in (topic, f"{topic}:{group}"):
                await channel.exchange_delete(exchange)

    async def delete_lane(self, topic: str, group: str, lane: int) -> None:
        """Its queue."""
        async with self._connection.channel() as channel:
            await channel.queue_delete(f"{topic}:{group}:{lane}")

    async def _send_bytes(self, topic: str, native: _Bytes, body: bytes) -> None:
        """Frames by hand; the broker has accepted them when it answers the next request."""
        transport = self._connection.transport
        channel = await transport.connection.channel(publisher_confirms=False)
        number = channel.number
        publish = pack(">HHH", 60, 40, 0) + _short(topic.encode()) + _short(native.routing_key) + b"\0"
        header = pack(">HHQ", 60, 0, len(body)) + native.properties
        frames = [(1, publish), (2, header), (3, body)]
        data = b"".join(pack(">BHI", kind, number, len(part)) + part + b"\xce" for kind, part in frames)
        await channel.write_queue.put(ChannelFrame(data, should_close=False))
        await channel.exchange_declare(topic, passive=True)
        await channel.close()

    def forged(self) -> Mapping[str, Any]:
        """Also the headers in which RabbitMQ counts."""
        death = [{"count": 10_000, "queue": "q", "reason": "rejected", "exchange": "e", "routing-keys": ["7"]}]
        return {**super().forged(), "x-delivery-count": 10_000, "x-acquired-count": 10_000, "x-death": death}

    def unreadable(self) -> Mapping[str, RawMessage]:
        """Property flags and properties by hand: correct AMQP, and more than pamqp decodes."""
        foreign = {"x-legacy": b"yes"}

        def table(name: bytes = b"", value: bytes = b"") -> bytes:
            known = b"".join(_short(name.encode()) + b"S" + _long(value) for name, value in foreign.items())
            return _long(known + (_short(name) + value if name else b""))

        def nested(depth: int) -> bytes:
            value = b"I" + pack(">i", 1)
            for _ in range(depth):
                value = b"A" + _long(value)
            return value

        headers = b"\x20\x00"
        found = {
            "a header's name that is not UTF-8": headers + table(b"caf\xe9", b"S" + _long(b"x")),
            "a content type that is not UTF-8": b"\xa0\x00" + _short(b"text/caf\xe9") + table(),
            "a correlation id that is not UTF-8": b"\x24\x00" + table() + _short(b"\xff\xfe"),
            "a time in nanoseconds": b"\x20\x40" + table() + pack(">Q", 2**62),
            "the last of all times": b"\x20\x40" + table() + pack(">Q", 2**64 - 1),
            "a header with such a time": headers + table(b"when", b"T" + pack(">Q", 2**63)),
            "1,500 arrays within each other": headers + table(b"deep", nested(1500)),
            "33 arrays within each other": headers + table(b"deep", nested(33)),
        }
        made = {name: _Bytes(properties, b"7") for name, properties in found.items()}
        made["a routing key that is not UTF-8"] = _Bytes(headers + table(), b"caf\xe9.7")
        return {
            name: RawMessage(f"unreadable {number}".encode(), foreign, native=native)
            for number, (name, native) in enumerate(made.items())
        }

    def own_hostile(self) -> Mapping[str, RawMessage]:
        """Headers that RabbitMQ acts on, and types that only AMQP has."""
        event = {**MINIMAL, "type": TYPE, "source": "/hostile", "partitionkey": "k"}
        found: dict[str, dict[str, Any]] = {
            "routed again": {"CC": ["7"], "BCC": ["7"]},
            "values of every type": {
                "a": [1, {"b": b"\xff"}, None, 1.5, True],
                "when": datetime(2026, 1, 1, tzinfo=UTC),
            },
            "a table where text should be": {"traceparent": {"a": [1]}, "anybroker-attempts": [1]},
        }
        events = {name: self.build(b"1", None, event, headers) for name, headers in found.items()}
        tables = {
            f"a table as {name}": self.build(b"1", None, {**event, name: {"a": 1}})
            for name in ("id", "partitionkey", "x")
        }
        return {**events, **tables}

    def read(self, message: RawMessage) -> BaseCloudEvent:
        """Attributes with anybroker's default prefix are those of the AMQP 1.0 binding."""
        body, headers = message.body or b"", dict(message.headers)
        if any(name.startswith("ce-") for name in headers):
            return from_rabbitmq(RabbitMQMessage(headers, message.content_type, body), JSONFormat())
        properties = {} if message.content_type is None else {"content-type": message.content_type}
        return from_amqp(AMQPMessage(properties, headers, body), JSONFormat())

    def write(self, event: BaseCloudEvent, mode: Mode) -> RawMessage:
        """By the binding for RabbitMQ."""
        made = (to_binary if mode == "binary" else to_structured)(event, JSONFormat())
        return RawMessage(made.body, made.headers, made.content_type)

    def build(
        self,
        body: bytes | None,
        content_type: str | None = None,
        attributes: Mapping[str, Any] | None = None,
        headers: Mapping[str, Any] | None = None,
        key: str | None = None,
        prefix: str = "",
    ) -> RawMessage:
        """The content type is a property."""
        made = super().build(body, None, {}, headers)
        found = {f"{prefix or self.prefix}{name}": value for name, value in (attributes or {}).items()}
        return RawMessage(body, {**found, **made.headers}, content_type)

    def without_content_type(self) -> Mapping[str, RawMessage]:
        """The property."""
        return {"an empty property": self.build(b"1", "", MINIMAL)}

    def own_quirks(self) -> Mapping[str, Quirk]:
        """The prefixes of the AMQP 1.0 binding (section 3.1), and what RabbitMQ makes of AMQP 1.0 types."""
        json = {**MINIMAL, "datacontenttype": "application/json"}
        typed = {**MINIMAL, "number": 7, "yes": True, "time": datetime(2026, 1, 1, tzinfo=UTC)}
        text = {**MINIMAL, "number": "7", "yes": "true", "time": "2026-01-01T00:00:00Z"}
        long = "x" * 300
        return {
            "cloudEvents: of AMQP 1.0": Quirk(
                self.build(b"{}", "application/json", MINIMAL, prefix="cloudEvents:"),
                json,
                b"{}",
            ),
            "cloudEvents_ of JMS": Quirk(
                self.build(b"{}", "application/json", MINIMAL, prefix="cloudEvents_"), json, b"{}"
            ),
            "native types": Quirk(self.build(b"1", None, typed, prefix="cloudEvents_"), text, b"1"),
            "a long string as bytes": Quirk(
                self.build(b"1", None, {**MINIMAL, "subject": bytearray(long.encode())}, prefix="cloudEvents:"),
                {**MINIMAL, "subject": long},
                b"1",
            ),
            "no data": Quirk(self.build(b"", None, MINIMAL), MINIMAL, None),
        }
