"""RabbitMQ: content headers and methods as they are on the connection, and notes."""

from __future__ import annotations

import asyncio
import struct
from functools import cache
from typing import Any

import pamqp.frame
from aiormq.abc import DeliveredMessage
from pamqp.commands import Basic

from anybroker.adapter import Foreign, Inbound, Lane, Outbound
from anybroker_rabbitmq.frames import header_frame
from anybroker_rabbitmq.transport import ReadableStream
from anybroker_rabbitmq.unreadable import UnreadableForeign
from anybroker_rabbitmq.wire import Wire

from .. import seeds
from ..registry import target
from ..using import use_any

_WIRE = Wire()
_LANE = Lane("orders/0", 1)
_DELIVER = Basic.Deliver("tag", 7, True, "orders", "5")


def _frame(kind: int, payload: bytes) -> bytes:
    return struct.pack(">BHI", kind, 7, len(payload)) + payload + b"\xce"


@cache
def _stream() -> ReadableStream:
    async def made() -> ReadableStream:
        return ReadableStream(asyncio.StreamReader())

    with asyncio.Runner() as runner:
        return runner.run(made())


def _read(frame: bytes, body: bytes) -> Inbound:
    _, channel, header = pamqp.frame.unmarshal(_stream().readable(frame))
    assert channel == 7
    message: Any = DeliveredMessage(delivery=_DELIVER, header=header, body=body, channel=None)  # type: ignore[arg-type]
    return _WIRE.read(message, _LANE, 7, None)


@target("rabbitmq-properties", seeds.amqp_properties)
def properties(data: bytes) -> object:
    """Property flags and properties, the body behind a group separator"""
    raw, _, body = data.partition(b"\x1d")
    inbound = _read(_frame(2, struct.pack(">HHQ", 60, 0, len(body)) + raw), body)
    event = use_any(inbound.event)
    assert all(isinstance(value, str) for value in inbound.headers.values())
    flags, written, again_body = _WIRE.write(Outbound(event, "dead", headers={"anybroker-dead-reason": "r"}), "x")
    assert again_body == (event.body or b"")
    again = _read(header_frame(7, len(again_body), flags, written), again_body)
    assert again.headers["anybroker-dead-reason"] == "r"
    if isinstance(event, UnreadableForeign):
        pass  # RabbitMQ accepts no truncated properties: only their beginning is kept
    elif isinstance(event, Foreign):
        assert isinstance(again.event, Foreign)
        assert list(again.event.headers) == list(event.headers), "a dead letter with other headers"
    else:
        assert again.event == event
    return inbound


@target("rabbitmq-names", seeds.amqp_names)
def names(data: bytes) -> object:
    """The exchange and the routing key of a delivery, and the broker's text when it closes a channel"""
    exchange, _, key = data.partition(b"\x1d")
    exchange, key = exchange[:255], key[:255]
    short = bytes((len(exchange),)) + exchange + bytes((len(key),)) + key
    deliver = b"\0\x3c\0\x3c\x03tag" + struct.pack(">QB", 1, 1) + short
    closing = b"\0\x14\0\x28" + struct.pack(">H", 404) + bytes((len(key),)) + key + struct.pack(">HH", 60, 40)
    for payload in (deliver, closing):
        used, channel, method = pamqp.frame.unmarshal(_stream().readable(_frame(1, payload)))
        assert (channel, type(method).__name__ in ("Deliver", "Close")) == (7, True)
        assert used
    return None
