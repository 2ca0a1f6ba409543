"""Events and Kafka records: the CloudEvents Kafka protocol binding, with our transport headers beside it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, TypeAlias

from aiokafka.structs import TopicPartition

from anybroker.adapter import Foreign, Outbound
from anybroker.cloudevents import HeaderBinding, TransportNames
from anybroker.errors import InvalidEvent

from .records import KafkaInbound, Record
from .unreadable import LenientRecord

__all__ = ["Headers", "Wire"]

Headers: TypeAlias = Sequence[tuple[str, bytes | None]]

_OURS = "anybroker-"
_NONE: Mapping[str, str] = {}


class Wire:
    """Both directions. One for each adapter: it remembers header names, a bounded number of them."""

    def __init__(self, content_mode: Literal["binary", "structured"] = "binary") -> None:
        self._binding = HeaderBinding(bytes, prefix="ce_")
        self._structured = content_mode == "structured"
        self._names = TransportNames(("ce_",))

    def write(self, outbound: Outbound, other: bool = False) -> tuple[bytes | None, Headers]:
        """The record's value and headers. ``other``: in the content mode that is not set.

        aiokafka's batches take no record that has neither key nor value, so an event without both goes in structured
        mode, and so does one that binary mode cannot carry. A foreign message keeps its headers byte for byte; a
        transport header of the same name gives way.
        """
        event = outbound.event
        extra = outbound.headers
        headers: Headers
        if isinstance(event, Foreign):
            headers = list(event.headers)
            if extra:
                own = {name.lower() for name, _ in headers}
                headers = [*headers, *((name, text.encode()) for name, text in extra.items() if name not in own)]
            return event.body, headers
        body = event.body
        binding = self._binding
        if self._structured is not other or (body is None and event.key is None) or not binding.carries(event):
            headers, body = binding.structured(event)
        else:
            headers = binding.binary_headers(event)
        if extra:
            headers = [*headers, *[(name, text.encode()) for name, text in extra.items()]]
        return body, headers

    def read(self, partition: TopicPartition, record: Record) -> KafkaInbound:
        """One delivery, without its lane. What is not a CloudEvent comes as a Foreign; nothing is raised."""
        headers, value = record.headers, record.value
        event, attributes = self._binding.parse_usual(headers, value)
        if event is not None and attributes == len(headers):  # each header became one, none is left over
            key = event.key
            if key is None and record.key:
                key = _text(record.key)
            return KafkaInbound(partition, record, event, key, _NONE, True)
        try:
            event = event or self._binding.parse(headers, value)
        except InvalidEvent as exc:
            return self._foreign(partition, record, exc)
        return KafkaInbound(partition, record, event, event.key or _text(record.key), self._extra(headers), False)

    def read_any(self, partition: TopicPartition, record: Record) -> KafkaInbound:
        """The same, of a batch in which aiokafka cannot read everything."""
        if isinstance(record, LenientRecord) and record.reason is not None:
            return self._foreign(partition, record, record.reason)
        return self.read(partition, record)

    def _foreign(self, partition: TopicPartition, record: Record, reason: InvalidEvent) -> KafkaInbound:
        key = _text(record.key)
        own = [(name, value) for name, value in record.headers if not name.lower().startswith(_OURS)]
        message = Foreign(record.value, own, key, reason)
        return KafkaInbound(partition, record, message, key, self._extra(record.headers), False)

    def _extra(self, headers: Iterable[tuple[str, bytes | None]]) -> dict[str, str]:
        """The transport headers: those that are not attributes, and have a value."""
        names = self._names
        return {
            transport: value.decode("utf-8", "replace")
            for name, value in headers
            if value is not None and (transport := names[name])
        }


def _text(key: bytes | None) -> str | None:
    """A record's key as text; bytes that are not UTF-8 are escaped, so that different keys stay different."""
    return key.decode("utf-8", "backslashreplace") if key else None
