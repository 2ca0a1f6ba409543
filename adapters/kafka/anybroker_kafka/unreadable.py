"""Records that aiokafka cannot read: those of other programs whose header names are not UTF-8, and what is damaged.

Kafka stores header names as bytes, and one that is not UTF-8 would end aiokafka's reading of its partition, again and
again. The batch is fetched again then and read here, record by record, by the lengths that are written before each.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from aiokafka.consumer.fetcher import PartitionRecords
from aiokafka.errors import CorruptRecordException, UnsupportedCodecError
from aiokafka.record.default_records import _DefaultRecordBatchPy
from aiokafka.record.legacy_records import LegacyRecordBatch
from aiokafka.record.util import decode_varint_py as decode_varint  # the faster one looks beyond the end
from aiokafka.structs import TopicPartition

from anybroker.errors import InvalidEvent

from .records import KafkaInbound, Read, Record

__all__ = ["Unreadable", "read_again"]

_LENGTH_AT = 8
"""Where a batch says how long it is, after its first offset."""
_HEAD = _LENGTH_AT + 4
_MAGIC_AT = 16
_WRONG = (ValueError, IndexError, CorruptRecordException)
"""What reading raises of bytes that are not a record."""


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
) -> tuple[list[KafkaInbound], int]:
    """What these batches have from that offset on, and the offset behind them.

    A record of which nothing can be read has its bytes as its value; one for all where it cannot be said where the next
    one begins, or where the batch is not what was written. Raises UnsupportedCodecError where a library is missing that
    could read it.
    """
    records: Any = PartitionRecords(tp, _Batches(fetched), aborted, at, None, None, False, isolation)
    records._consumer_record = read
    return list(records), records.next_fetch_offset


class _Batches:
    """What aiokafka calls MemoryRecords."""

    def __init__(self, fetched: bytes) -> None:
        self._fetched = fetched
        self._at = 0

    def _end(self) -> int:
        """Where the batch ends, or beyond all where it is not there as a whole."""
        if self._at + _HEAD > len(self._fetched):
            return len(self._fetched) + 1
        length: int = struct.unpack_from(">i", self._fetched, self._at + _LENGTH_AT)[0]
        return self._at + _HEAD + length

    def has_next(self) -> bool:
        return self._end() <= len(self._fetched)

    def next_batch(self) -> Any:
        end = self._end()
        batch = self._fetched[self._at : end]
        self._at = end
        magic = batch[_MAGIC_AT]
        return _Batch(batch) if magic >= 2 else LegacyRecordBatch(batch, magic)


class _Batch:
    """One of aiokafka's, in Python, that goes on behind what it cannot read."""

    def __init__(self, written: bytes) -> None:
        self._written = written
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
            batch._maybe_uncompress()
        except UnsupportedCodecError:
            raise
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
        """Everything up to the batch's end in one."""
        error = InvalidEvent(reason)
        return Unreadable(
            self._batch.next_offset - 1, self._batch.max_timestamp, self._batch.timestamp_type, None, value, (), error
        )
