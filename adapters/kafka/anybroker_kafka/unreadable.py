"""Records that aiokafka cannot read: those of other programs whose header names are not UTF-8, and what is damaged.

Kafka stores header names as bytes, and one that is not UTF-8 would end aiokafka's reading of its partition, again and
again. The batch is fetched again then and read here, record by record, by the lengths that are written before each. A
batch that would take too much memory is not read at all: one record stands for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from aiokafka.consumer.fetcher import PartitionRecords
from aiokafka.errors import CorruptRecordException, UnsupportedCodecError
from aiokafka.record.default_records import _DefaultRecordBatchPy
from aiokafka.record.util import decode_varint_py as decode_varint  # the faster one looks beyond the end
from aiokafka.structs import TopicPartition

from anybroker.errors import InvalidEvent

from .batches import Batches, TooLargeBatch, bounded
from .decompress import TooLarge, decompress
from .records import KafkaInbound, Read, Record

__all__ = ["Unreadable", "read_again", "stand_in"]

_WRONG = (ValueError, IndexError, CorruptRecordException)
"""What reading raises of bytes that are not a record."""
_KEPT = 524_288
"""Bytes of a damaged batch that a dead letter has. A batch may be as large as a message; what a dead letter says stands
beside it, and what does not fit would be tried for ever."""


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A record in aiokafka's form, as much of it as can be read."""

    offset: int
    timestamp: int
    timestamp_type: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]]
    """Bytes of a name that are not UTF-8 are written as ``\\xe9``."""
    reason: InvalidEvent
    checksum: None = None


def read_again(
    tp: TopicPartition,
    fetched: bytes,
    aborted: Sequence[tuple[int, int]] | None,
    at: int,
    isolation: int,
    read: Read,
    limit: int,
) -> tuple[list[KafkaInbound], int]:
    """What these batches have from that offset on, and the offset behind them.

    A record of which nothing can be read has its bytes as its value; one for all where it cannot be said where the next
    one begins, or where the batch is not what was written; and none of its bytes where the batch takes more than
    ``limit`` once it is decompressed. Raises UnsupportedCodecError where a library is missing that could read it.
    """
    opened = bounded(limit)

    def open_batch(written: bytes, magic: int) -> Any:
        return _Batch(written, limit) if magic >= 2 else _Old(opened(written, magic))

    records: Any = PartitionRecords(tp, Batches(fetched, open_batch), aborted, at, None, None, False, isolation)
    records._consumer_record = read
    return list(records), records.next_fetch_offset


def stand_in(error: TooLargeBatch) -> Unreadable:
    """One record for all of a batch that is too large. Its bytes stay in Kafka: they may fill a message as they are,
    and nobody could do more with them."""
    batch = error.batch
    return Unreadable(
        batch.next_offset - 1,
        getattr(batch, "max_timestamp", 0),
        getattr(batch, "timestamp_type", 0),
        None,
        b"",
        (),
        InvalidEvent(str(error)),
    )


class _Old:
    """One of before Kafka 0.11: there is nothing in it that aiokafka cannot read."""

    def __init__(self, batch: Any) -> None:
        self._batch = batch

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batch, name)

    def __iter__(self) -> Iterator[Record]:
        try:
            yield from self._batch
        except TooLargeBatch as exc:
            yield stand_in(exc)


class _Batch:
    """One of aiokafka's, in Python, that goes on behind what it cannot read."""

    def __init__(self, written: bytes, limit: int) -> None:
        self._written = written
        self._limit = limit
        self._batch: Any = _DefaultRecordBatchPy(written)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batch, name)

    def __next__(self) -> Any:
        """What a control batch has, which only brokers write. Not by the batch's own: it reads beyond the end of one
        that is cut off, and the process dies."""
        try:
            return self._batch._read_msg(decode_varint)
        except _WRONG as exc:
            raise CorruptRecordException(f"the control batch is damaged: {exc}") from exc

    def __iter__(self) -> Iterator[Record]:
        batch = self._batch
        if not batch.validate_crc():
            return iter([self._rest(self._written, "the batch's checksum is wrong")])
        try:
            if batch.compression_type:
                batch._buffer = decompress(batch.compression_type, self._written[batch._pos :], self._limit)
                batch._pos = 0
        except UnsupportedCodecError:
            raise
        except TooLarge as exc:
            return iter([stand_in(TooLargeBatch(batch, len(self._written), exc))])
        except Exception as exc:  # noqa: BLE001 - whatever a decompressor raises of wrong bytes
            return iter([self._rest(self._written, f"the batch cannot be decompressed: {exc}")])
        return self._each()

    def _each(self) -> Iterator[Record]:
        following = self._batch.base_offset
        for _ in range(self._batch._num_records):
            begin = self._batch._pos
            try:
                record: Record = self._batch._read_msg(decode_varint)
            except _WRONG as exc:
                found = self._leniently(begin, following, str(exc))
                if found is None:
                    yield self._rest(bytes(self._batch._buffer[begin:]), f"the batch's records are damaged: {exc}")
                    return
                record = found
            following = record.offset + 1
            yield record

    def _leniently(self, begin: int, following: int, reason: str) -> Unreadable | None:
        """The record that begins there, and the next one behind it; None where that cannot be found."""
        buffer = self._batch._buffer
        try:
            length, at = decode_varint(buffer, begin)
        except _WRONG:
            return None
        end = at + length
        if length <= 0 or end > len(buffer):
            return None
        self._batch._pos = end
        try:
            return self._named(bytes(buffer[at:end]), reason)
        except _WRONG:
            error = InvalidEvent(f"the record cannot be read: {reason}")
            value = bytes(buffer[at:end])
            return Unreadable(
                following, self._batch.first_timestamp, self._batch.timestamp_type, None, value, (), error
            )

    def _named(self, record: bytes, reason: str) -> Unreadable:
        """Everything, with header names that are not UTF-8 escaped; raises one of _WRONG."""
        whole = bytearray(record)
        at = 1  # its attributes, which have no meaning

        def number() -> int:
            nonlocal at
            found: int
            found, at = decode_varint(whole, at)
            return found

        def text() -> bytes | None:
            nonlocal at
            length = number()
            if length < 0:
                return None
            begin, at = at, at + length
            if at > len(record):
                raise ValueError(reason)
            return record[begin:at]

        delta = number()
        timestamp = (
            self._batch.max_timestamp
            if self._batch.timestamp_type == self._batch.LOG_APPEND_TIME
            else self._batch.first_timestamp + delta
        )
        offset = self._batch.base_offset + number()
        key, value = text(), text()
        headers: list[tuple[str, bytes | None]] = []
        for _ in range(number()):
            name, content = text(), text()
            headers.append(((name or b"").decode("utf-8", "backslashreplace"), content))
        if at != len(record):
            raise ValueError(reason)
        error = InvalidEvent("a header's name is not UTF-8")
        return Unreadable(offset, timestamp, self._batch.timestamp_type, key, value, headers, error)

    def _rest(self, value: bytes, reason: str) -> Unreadable:
        """Everything up to the batch's end in one, without its bytes where a dead letter may have no room for them."""
        error = InvalidEvent(reason)
        if len(value) > _KEPT:
            error, value = InvalidEvent(f"{reason}; its {len(value)} bytes stay in Kafka"), b""
        return Unreadable(
            self._batch.next_offset - 1, self._batch.max_timestamp, self._batch.timestamp_type, None, value, (), error
        )
