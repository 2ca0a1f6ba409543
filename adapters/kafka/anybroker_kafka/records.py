"""A record as an Inbound, and the ``ConsumerRecord`` that is made when somebody asks for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias

from aiokafka.structs import ConsumerRecord, TopicPartition

from anybroker.adapter import Foreign, Inbound, Lane
from anybroker.cloudevents import Event

__all__ = ["KafkaInbound", "Native", "Read", "Record"]

Native: TypeAlias = ConsumerRecord[bytes, bytes]


class Record(Protocol):
    """What aiokafka's parsed record and its ``ConsumerRecord`` have in common."""

    @property
    def offset(self) -> int: ...
    @property
    def timestamp(self) -> int: ...
    @property
    def timestamp_type(self) -> int: ...
    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def checksum(self) -> int | None: ...
    @property
    def headers(self) -> Sequence[tuple[str, bytes | None]]: ...


class KafkaInbound(Inbound):
    """An Inbound without its lane, which the receiver fills in. Its ``raw`` is made when it is first read.

    It keeps no record that can be restored from the event: headers are most of the objects that an event in the buffer
    would keep alive.
    """

    __slots__ = ("_key", "_partition", "_record", "_timestamp", "_timestamp_type")

    _record: Record | None
    lane: Lane

    def __init__(
        self,
        partition: TopicPartition,
        record: Record,
        event: Event[Any] | Foreign,
        key: str | None,
        headers: Mapping[str, str],
        restorable: bool,
    ) -> None:
        # Without calling Inbound's own: this runs for every event.
        self.event = event
        self.position = record.offset
        self.key = key
        self.headers = headers
        self.token = None
        self.attempts = 0
        self.deliveries = 1
        self.not_before = None
        self.inlet = False
        self._partition = partition
        self._key = record.key
        self._timestamp = record.timestamp
        self._timestamp_type = record.timestamp_type
        self._record = None if restorable else record

    @property
    def raw(self) -> Native:  # pyright: ignore[reportIncompatibleVariableOverride] # the core only reads it
        """aiokafka's ``ConsumerRecord``, the same object each time."""
        record = self._record
        if not isinstance(record, ConsumerRecord):
            event, key = self.event, self._key
            value = event.body if record is None else record.value
            headers: Any = _headers(event) if record is None else tuple(record.headers)  # some have no value
            self._record = record = ConsumerRecord(
                self._partition.topic,
                self._partition.partition,
                self.position,
                self._timestamp,
                self._timestamp_type,
                key,
                value,
                None if record is None else record.checksum,
                -1 if key is None else len(key),
                -1 if value is None else len(value),
                headers,
            )
        return record


def _headers(event: Event[Any] | Foreign) -> tuple[tuple[str, bytes], ...]:
    """The headers of an event that :meth:`~anybroker.cloudevents.HeaderBinding.parse_usual` made of them."""
    assert isinstance(event, Event)
    return tuple(
        ("content-type" if name == "datacontenttype" else f"ce_{name}", str(value).encode())
        for name, value in event.attributes.items()
    )


Read: TypeAlias = Callable[[TopicPartition, Record], KafkaInbound]
"""Makes an Inbound of a record, and raises nothing."""
