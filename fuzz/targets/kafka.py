"""Kafka: records as aiokafka parsed them, and batches as they are in the log."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

from aiokafka.errors import UnsupportedCodecError
from aiokafka.record.util import calc_crc32c
from aiokafka.structs import TopicPartition

from anybroker.adapter import Foreign, Outbound
from anybroker.cloudevents import Event
from anybroker_kafka.records import KafkaInbound
from anybroker_kafka.unreadable import read_leniently
from anybroker_kafka.wire import Wire

from .. import seeds
from ..messages import split
from ..registry import target
from ..using import use_any

_TP = TopicPartition("orders", 3)
_WIRE = Wire()
_LENGTH, _MAGIC, _CRC, _ATTRIBUTES, _FIRST = 8, 16, 17, 22, 61
"""Where a batch has these, and where its records begin."""
_MOST = 1024 * 1024
"""Most bytes of a decompressed batch."""


@dataclass(frozen=True)
class _Record:
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes | None]]
    offset: int = 7
    timestamp: int = 1_700_000_000_000
    timestamp_type: int = 0
    checksum: None = None


def _used(inbound: KafkaInbound) -> KafkaInbound:
    event = use_any(inbound.event)
    assert isinstance(inbound.headers, dict)
    assert all(isinstance(value, str) for value in inbound.headers.values())
    value, headers = _WIRE.write(Outbound(event, "dead", headers={"anybroker-dead-reason": "r"}))
    again = _WIRE.read(_TP, _Record(inbound._key, value, list(headers)))
    assert again.headers["anybroker-dead-reason"] == "r"
    if isinstance(event, Foreign):
        if "a header's name" in str(event.reason) and isinstance(again.event, Event):
            return inbound  # an event but for that name, which is escaped in its dead letter
        assert isinstance(again.event, Foreign)
        assert (again.event.body, list(again.event.headers)) == (event.body, list(event.headers))
    else:
        assert again.event == event
    return inbound


@target("kafka-record", seeds.kafka_records)
def record(data: bytes) -> object:
    """A record, the first header being its key"""
    headers, value = split(data)
    key = headers.pop(0)[1] if headers else None
    # aiokafka reads no name that is not UTF-8; those are the next target's.
    named = [(name.decode("utf-8", "replace"), content) for name, content in headers]
    inbound = _used(_WIRE.read(_TP, _Record(key, value, named)))
    assert inbound.raw.value == value
    assert list(inbound.raw.headers) == named
    return inbound


@target("kafka-batch", seeds.kafka_batches)
def batch(data: bytes) -> object:
    """Record batches with a correct length and checksum, which a broker has accepted"""
    if len(data) < _FIRST:
        return None
    whole: Any = bytearray(data)
    struct.pack_into(">i", whole, _LENGTH, len(whole) - 12)
    whole[_MAGIC] = 2
    struct.pack_into(">I", whole, _CRC, calc_crc32c(bytes(whole[_CRC + 4 :])))
    try:
        records = read_leniently(_TP, bytes(whole), [], 0, 1, _WIRE.read_any, _MOST)
        found = list(records)
    except UnsupportedCodecError as exc:
        return str(exc)
    except Exception as exc:
        if whole[_ATTRIBUTES] & 0x20:  # a control batch, which only brokers write
            return str(exc)
        raise
    assert isinstance(records.next_fetch_offset, int)
    for inbound in found:
        _used(inbound)
        assert inbound.raw is inbound.raw
    return found
