"""Valid events, chosen by the input, are written and read back equal on every wire."""

from __future__ import annotations

from typing import Any

from aiokafka.structs import TopicPartition
from pydantic_core import to_json

from anybroker.adapter import Outbound
from anybroker.cloudevents import format_json, format_text, parse_json, parse_text
from anybroker.errors import Rejected
from anybroker.event import Event
from anybroker_kafka.wire import Wire as KafkaWire
from anybroker_nats.wire import Wire as NatsWire
from anybroker_rabbitmq.frames import header_frame
from anybroker_rabbitmq.wire import Wire as RabbitmqWire
from anybroker_sqlite.wire import Segment, decode, encode
from anybroker_sqs.wire import Wire as SqsWire

from .. import seeds
from ..choices import Choices
from ..registry import target
from ..using import same
from .kafka import _Record
from .nats import _LANE
from .rabbitmq import _read as read_amqp
from .sqs import _read as read_sqs


def _same(outbound: Outbound, event: object, headers: Any) -> None:
    sent: Any = outbound.event
    assert isinstance(event, Event)
    assert same(event, sent), f"{sent!r} came back as {event!r}"
    wanted = outbound.headers or {}
    assert {name: headers.get(name) for name in wanted} == dict(wanted), "other transport headers"


_KAFKA = {mode: KafkaWire(mode) for mode in ("binary", "structured")}
_RABBITMQ = {mode: RabbitmqWire(mode) for mode in ("binary", "structured")}
_NATS = {mode: NatsWire(mode) for mode in ("binary", "structured")}
_SQS = {mode: SqsWire(mode) for mode in ("binary", "structured")}


def _kafka(outbound: Outbound) -> None:
    """Kafka, both modes"""
    for wire in _KAFKA.values():
        value, headers = wire.write(outbound)
        assert value is not None or outbound.key is not None, "aiokafka's batches take no record without both"
        inbound = wire.read(TopicPartition("orders", 0), _Record(None, value, list(headers)))
        _same(outbound, inbound.event, inbound.headers)


def _rabbitmq(outbound: Outbound) -> None:
    """RabbitMQ, both modes"""
    for wire in _RABBITMQ.values():
        flags, properties, body = wire.write(outbound, "x")
        inbound = read_amqp(header_frame(7, len(body), flags, properties), body)
        _same(outbound, inbound.event, inbound.headers)


def _nats(outbound: Outbound) -> None:
    """NATS, both modes"""
    for wire in _NATS.values():
        block, body = wire.write(outbound, "Nats-Msg-Id: 7\r\n")
        inbound = wire.read(None, b"orders.7", b"$JS.ACK.o.g.1.7.7.1.0", body, block, _LANE, 7)
        ours = {name: value for name, value in inbound.headers.items() if name.startswith("anybroker-")}
        _same(outbound, inbound.event, {**(outbound.headers or {}), **ours})


def _sqs(outbound: Outbound) -> None:
    """SQS, both modes"""
    for mode, wire in _SQS.items():
        try:
            made = wire.write(outbound)
        except Rejected:
            assert mode == "binary"
            continue
        inbound = read_sqs(made.body, made.attributes, None)
        _same(outbound, inbound.event, inbound.headers)


def _sqlite(outbound: Outbound) -> None:
    """SQLite"""
    row, body, _ = encode(outbound)
    segment = Segment(7, 1, None, to_json([row]).decode(), body or b"")
    _same(outbound, *decode(segment.rows[0], segment.body(0)))


def _json(outbound: Outbound) -> None:
    """JSON, and JSON that XML can carry"""
    event: Any = outbound.event
    _same(outbound, parse_json(format_json(event)), outbound.headers or {})
    _same(outbound, parse_text(format_text(event), {}), outbound.headers or {})


_WIRES = (_kafka, _rabbitmq, _nats, _sqs, _sqlite, _json)


@target("round-trips", seeds.random)
def round_trips(data: bytes) -> object:
    """A valid event, written and read by each adapter in both modes, and as JSON"""
    choices = Choices(data)
    event, headers, hop = choices.event(), choices.headers(), choices.of(("", "dead|g"))
    for wire in _WIRES:
        wire(Outbound(event, "orders", headers=headers, hop=hop))
    return event
