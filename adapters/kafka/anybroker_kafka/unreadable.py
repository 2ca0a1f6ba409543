"""Records that aiokafka cannot read: those of other programs whose header names are not UTF-8, and damaged ones.

Kafka stores header names as bytes, and one that is not UTF-8 would end aiokafka's reading of its partition, again and
again. Its batch is read here instead, record by record, by the length that is written before each. A batch that would
take too much memory is not read at all: one record stands for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from aiokafka.consumer.fetcher import PartitionRecords
from aiokafka.errors import CorruptRecordException, UnsupportedCodecError
from aiokafka.record.default_records import _DefaultRecordBatchPy
from aiokafka.record.util import decode_varint_py
from aiokafka.structs import TopicPartition

from anybroker.errors import InvalidEvent

from .batches import Batches, TooLargeBatch, bounded
from .decompress import TooLarge, decompress
from .records import Read, Record

__all__ = ["LenientRecord", "read_leniently", "stand_in"]

_varint: Any = decode_varint_py  # takes bytes too; the faster one reads beyond the end
_WRONG = (ValueError, IndexError, CorruptRecordException)
"""What reading raises of bytes that are not a record."""
_KEPT = 524_288
"""Bytes of a damaged batch that go into a dead letter. A batch may be as large as a message, a dead letter says more
beside it, and one that does not fit would be tried forever."""


@dataclass(frozen=True, slots=True)
class LenientRecord:
    """A record in aiokafka's form, as much of it as can be read."""

    offset: int
    timestamp: int
    timestamp_type: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]]
    """Bytes of a name that are not UTF-8 are written as ``\\xe9``."""
    reason: InvalidEvent | None
    """Why aiokafka cannot read it; None where it can."""
    checksum: None = None


def read_leniently(
    tp: TopicPartition,
    fetched: bytes,
    aborted: Sequence[tuple[int, int]] | None,
    at: int,
    isolation: int,
    read: Read,
    limit: int,
) -> Any:
    """What aiokafka calls PartitionRecords: iterates over what these batches have from that offset on, each made an
    Inbound by ``read``; its ``next_fetch_offset`` is behind what was iterated over.

    A record of which nothing can be read has its bytes as its value. One record stands for the rest of a batch whose
    next record cannot be found, or for a whole batch with a wrong checksum; and, without any bytes, for a batch that
    takes more than ``limit`` bytes once it is decompressed. Raises UnsupportedCodecError where a library is missing
    that could read it.
    """
    opened = bounded(limit)

    def open_batch(written: bytes, magic: int) -> Any:
        return _Batch(written, limit) if magic >= 2 else _OldBatch(opened(written, magic))

    records: Any = PartitionRecords(tp, Batches(fetched, open_batch), aborted, at, None, None, False, isolation)
    records._consumer_record = read
    return records


def stand_in(error: TooLargeBatch) -> LenientRecord:
    """One record for all of a batch that is too large. Its bytes stay in Kafka: they may fill a message as they are,
    and nobody could do more with them."""
    batch = error.batch
    return LenientRecord(
        batch.next_offset - 1,
        getattr(batch, "max_timestamp", 0),
        getattr(batch, "timestamp_type", 0),
        None,
        b"",
        (),
        InvalidEvent(str(error)),
    )


class _OldBatch:
    """A batch in a format from before Kafka 0.11, which has no headers: aiokafka can read it unless it is too large."""

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
    """A batch in today's format, read past what is wrong in it; all but the records is aiokafka's."""

    def __init__(self, written: bytes, limit: int) -> None:
        self._written = written
        self._limit = limit
        self._batch: Any = _DefaultRecordBatchPy(written)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batch, name)

    def __next__(self) -> Any:
        """The record of a control batch, which only brokers write. Not by the batch's own: it reads beyond the end of
        one that is cut off, and the process dies."""
        try:
            return self._batch._read_msg(_varint)
        except _WRONG as exc:
            raise CorruptRecordException(f"the control batch is damaged: {exc}") from exc

    def __iter__(self) -> Iterator[Record]:
        batch = self._batch
        if not batch.validate_crc():
            return iter([self._rest(self._written, "the batch's checksum is wrong")])
        records = self._written[batch.HEADER_STRUCT.size :]
        try:
            if batch.compression_type:
                records = bytes(decompress(batch.compression_type, records, self._limit))
        except UnsupportedCodecError:
            raise
        except TooLarge as exc:
            return iter([stand_in(TooLargeBatch(batch, len(self._written), exc))])
        except Exception as exc:  # noqa: BLE001 - whatever a decompressor raises of wrong bytes
            return iter([self._rest(self._written, f"the batch cannot be decompressed: {exc}")])
        return self._each(records)

    def _each(self, records: bytes) -> Iterator[Record]:
        at, offset = 0, self._batch.base_offset
        for _ in range(self._batch._num_records):
            try:
                length, begin = _varint(records, at)
            except _WRONG:
                length, begin = 0, at
            end = begin + length
            if length <= 0 or end > len(records):
                yield self._rest(records[at:], "the batch's records are damaged: one has a wrong length")
                return
            record = self._record(records[begin:end], offset)
            yield record
            at, offset = end, record.offset + 1

    def _record(self, written: bytes, offset: int) -> LenientRecord:
        """The record; its bytes at that offset where they do not make one."""
        try:
            return self._parse(written)
        except _WRONG as exc:
            return self._of_bytes(offset, self._batch.first_timestamp, written, f"the record cannot be read: {exc}")

    def _parse(self, written: bytes) -> LenientRecord:
        """Escapes header names that are not UTF-8; raises one of _WRONG."""
        batch, at = self._batch, 1  # behind its attributes, which have no meaning

        def number() -> int:
            nonlocal at
            value: int
            value, at = _varint(written, at)
            return value

        def text() -> bytes | None:
            nonlocal at
            length = number()
            if length < 0:
                return None
            begin, at = at, at + length
            if at > len(written):
                raise ValueError(f"a part of {length} bytes, and {len(written) - begin} are left")
            return written[begin:at]

        timestamp = batch.first_timestamp + number()
        if batch.timestamp_type == batch.LOG_APPEND_TIME:
            timestamp = batch.max_timestamp
        offset = batch.base_offset + number()
        key, value = text(), text()
        count = number()
        headers: list[tuple[str, bytes | None]] = []
        reason = None
        for _ in range(count):
            name, content = text(), text()
            escaped = (name or b"").decode("utf-8", "backslashreplace")
            headers.append((escaped, content))
            if escaped.encode() != name:
                reason = InvalidEvent("a header's name is not UTF-8")
        if count < 0 or at != len(written):
            raise ValueError(f"{count} headers, and {len(written) - at} bytes are left")
        return LenientRecord(offset, timestamp, batch.timestamp_type, key, value, headers, reason)

    def _rest(self, value: bytes, reason: str) -> LenientRecord:
        """Everything up to the batch's end in one, without its bytes where a dead letter may have no room for them."""
        if len(value) > _KEPT:
            value, reason = b"", f"{reason}; its {len(value)} bytes stay in Kafka"
        return self._of_bytes(self._batch.next_offset - 1, self._batch.max_timestamp, value, reason)

    def _of_bytes(self, offset: int, timestamp: int, value: bytes, reason: str) -> LenientRecord:
        return LenientRecord(offset, timestamp, self._batch.timestamp_type, None, value, (), InvalidEvent(reason))
