"""Reading records where aiokafka's parser leaves them, and the ``ConsumerRecord`` that is made when somebody asks.

aiokafka copies every record of a fetch into a ``ConsumerRecord`` and hands out thousands of them at once. Reading each
one as it is parsed instead saves the copy, and thousands of header lists at a time that Python's garbage collector
goes through again and again: a third of what an event takes. There is no public way to do that, so one private method
is shadowed: the one that copies. Fetching, positions and rebalances stay aiokafka's own. Should its private names
change, ``getmany`` gives a ``ConsumerRecord`` again, and the receiver reads that: the same events, slower, and with
nothing that bounds what is decompressed, which is logged.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeAlias

from aiokafka import AIOKafkaConsumer
from aiokafka.errors import UnsupportedCodecError
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.structs import ConsumerRecord, TopicPartition

from anybroker.adapter import Foreign, Inbound, Lane
from anybroker.event import Event
from anybroker.printable import logger

from .batches import Batches, any_compressed, bounded

__all__ = ["Failed", "KafkaInbound", "Native", "Read", "Record", "read_as_parsed"]

_log = logger("anybroker.kafka")

_UNBOUNDED = "compressed batches are decompressed without a limit"

Native: TypeAlias = ConsumerRecord[bytes, bytes]


class Record(Protocol):
    """What a record as it was parsed and a ``ConsumerRecord`` have in common."""

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
    """An Inbound without its lane, which the receiver fills in. Its ``raw`` is made at the first look.

    ``record`` is None where the event says all that the record's headers and value said: headers are most of the
    objects that an event in the buffer would keep alive.
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
        # Not by way of Inbound's own: this is on the way of every event.
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
        """aiokafka's ``ConsumerRecord``, the same one at each look."""
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


Failed: TypeAlias = Callable[[TopicPartition, int, Exception], None]
"""Told of the partition, the offset and the reason where a record cannot be read; raises nothing."""


def read_as_parsed(consumer: AIOKafkaConsumer, read: Read, failed: Failed, limit: int) -> None:
    """Let ``getmany`` of a started consumer that has no lanes yet give Inbounds, and nothing from a record on that
    cannot be read. ``limit``: bytes that a batch may take once it is decompressed."""
    fetcher: Any = getattr(consumer, "_fetcher", None)
    client: Any = getattr(fetcher, "_client", None)
    if type(getattr(fetcher, "_records", None)) is OrderedDict and hasattr(client, "send"):
        fetcher._records = fetched = _Fetched(read, failed, limit)
        _keep_answers(client, fetched)
    else:
        _log.warning("this aiokafka is not a version that is known: %s", _UNBOUNDED)


def _keep_answers(client: Any, fetched: _Fetched) -> None:
    """Tell it of every answer to a fetch. ``send`` is public, and the fetcher goes through an answer at once."""
    send = client.send

    async def keeping(node: Any, request: Any, **options: Any) -> Any:
        reply = await send(node, request, **options)
        if isinstance(request, FetchRequest):
            fetched.answered(reply)
        return reply

    client.send = keeping


class _Fetched(OrderedDict[TopicPartition, Any]):
    """Where aiokafka's fetcher keeps what was fetched, by partition, until ``getmany`` goes through it."""

    def __init__(self, read: Read, failed: Failed, limit: int) -> None:
        super().__init__()
        self._read = read
        self._failed = failed
        self._open = bounded(limit)
        self._written: dict[TopicPartition, bytes] = {}
        """Of the last answer, what was not taken over yet: as aiokafka keeps it, the bytes cannot be had again."""

    def answered(self, reply: Any) -> None:
        """The bytes of this answer are those of the partitions that are set next."""
        self._written = {
            TopicPartition(topic, partition): data[-1]
            for topic, partitions in reply.topics
            for partition, _, _, *data in partitions
        }

    def __setitem__(self, partition: TopicPartition, fetched: Any) -> None:
        records = getattr(fetched, "_partition_records", None)
        if records is not None:  # an error has none
            # On this object only: other consumers are left alone.
            written = self._written.pop(partition, None)
            if written is None:
                _log.warning("the bytes of a fetch from %s cannot be had: %s", partition, _UNBOUNDED)
            elif any_compressed(written):
                records._records = Batches(written, self._open)
            records._consumer_record = self._read
            records._records_iterator = self._until_it_fails(partition, records, records._records_iterator)
        super().__setitem__(partition, fetched)

    def _until_it_fails(self, partition: TopicPartition, records: Any, iterator: Iterator[Any]) -> Iterator[Any]:
        try:
            yield from iterator
        except UnsupportedCodecError:  # nothing is wrong with the record
            raise
        except Exception as exc:  # noqa: BLE001 - told; whatever the client's parser raises of another's bytes
            self._failed(partition, records.next_fetch_offset, exc)
