"""The record batches of a fetch, read as by aiokafka, except that none is decompressed beyond a limit.

aiokafka's own reader gives no way to the compressed bytes, and decompresses all of them at once.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from aiokafka.consumer.fetcher import PartitionRecords
from aiokafka.record.default_records import DefaultRecordBase, DefaultRecordBatch
from aiokafka.record.legacy_records import LegacyRecordBatch, _LegacyRecordBatchPy
from aiokafka.structs import TopicPartition

from .decompress import TooLarge, decompress

__all__ = ["Batches", "Counted", "TooLargeBatch", "any_compressed", "bounded", "count_events"]

_LENGTH_AT = 8
"""Where a batch says how long it is, after its first offset."""
_HEAD = _LENGTH_AT + 4
_MAGIC_AT = 16
_CODEC_AT = 22
"""In a batch of the format that Kafka writes today: the lower byte of its attributes."""
_OLD_CODEC_AT = 17
_MASK = DefaultRecordBase.CODEC_MASK
_RECORDS_AT = DefaultRecordBase.HEADER_STRUCT.size


class TooLargeBatch(Exception):
    """A batch takes more than the limit once it is decompressed."""

    def __init__(self, batch: Any, size: int, reason: TooLarge) -> None:
        super().__init__(f"a batch of {size} bytes up to offset {batch.next_offset - 1} was skipped: {reason}")
        self.batch = batch


class Batches:
    """What aiokafka calls MemoryRecords. ``open`` makes a batch of its bytes and its format's number."""

    def __init__(self, fetched: bytes, open: Callable[[bytes, int], Any]) -> None:
        self._fetched = fetched
        self._open = open
        self._at = 0

    def _end(self) -> int:
        """Where the batch ends; behind all bytes if it was cut off."""
        if self._at + _HEAD > len(self._fetched):
            return len(self._fetched) + 1
        length: int = struct.unpack_from(">i", self._fetched, self._at + _LENGTH_AT)[0]
        return self._at + _HEAD + length

    def has_next(self) -> bool:
        """Whether there is another whole batch."""
        return self._end() <= len(self._fetched)

    def next_batch(self) -> Any:
        """The next one."""
        end = self._end()
        batch = self._fetched[self._at : end]
        self._at = end
        return self._open(batch, batch[_MAGIC_AT])


def any_compressed(fetched: bytes) -> bool:
    """Whether one of these batches is compressed; aiokafka's own reader is faster with those that are not."""
    at, end = 0, len(fetched) - _CODEC_AT
    while at < end:
        if fetched[at + (_CODEC_AT if fetched[at + _MAGIC_AT] >= 2 else _OLD_CODEC_AT)] & _MASK:
            return True
        at += _HEAD + int.from_bytes(fetched[at + _LENGTH_AT : at + _HEAD], "big")
    return False


def bounded(limit: int) -> Callable[[bytes, int], Any]:
    """Opens batches for :class:`Batches`; iterating over one that is too large raises :class:`TooLargeBatch`."""

    def open_batch(written: bytes, magic: int) -> Any:
        if magic < 2:
            batch = LegacyRecordBatch(written, magic)
            return _OldCompressed(written, magic, batch, limit) if written[_OLD_CODEC_AT] & _MASK else batch
        batch = DefaultRecordBatch(written)
        return _Compressed(written, batch, limit) if written[_CODEC_AT] & _MASK else batch

    return open_batch


class _Compressed:
    """A batch that is decompressed when its records are asked for; all else is aiokafka's."""

    def __init__(self, written: bytes, batch: Any, limit: int) -> None:
        self._written = written
        self._batch = batch
        self._limit = limit

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batch, name)

    def __next__(self) -> Any:
        return next(self._batch)

    def __iter__(self) -> Iterator[Any]:
        written = self._written
        head = bytearray(written[:_RECORDS_AT])
        head[_CODEC_AT] &= ~_MASK
        try:
            plain = decompress(written[_CODEC_AT] & _MASK, written[_RECORDS_AT:], self._limit, head)
        except TooLarge as exc:
            raise TooLargeBatch(self._batch, len(written), exc) from None
        return iter(DefaultRecordBatch(plain))


class _OldCompressed(_Compressed):
    """A batch from before Kafka 0.11, whose value is the compressed records: measured first, then read by aiokafka."""

    def __init__(self, written: bytes, magic: int, batch: Any, limit: int) -> None:
        super().__init__(written, batch, limit)
        self._magic = magic

    def __iter__(self) -> Iterator[Any]:
        reader: Any = _LegacyRecordBatchPy
        key_at = reader.KEY_OFFSET_V1 if self._magic else reader.KEY_OFFSET_V0
        _, value = reader(self._written, self._magic)._read_key_value(key_at)
        try:
            decompress(self._written[_OLD_CODEC_AT] & _MASK, value or b"", self._limit)
        except TooLarge as exc:
            raise TooLargeBatch(self._batch, len(self._written), exc) from None
        return iter(self._batch)


class Counted(NamedTuple):
    """What the answer to a fetch has for a consumer."""

    events: int
    reached: int
    """The offset behind all that was read."""
    stored: float | None
    """The timestamp of the first event, in seconds since the epoch; None where there is none, or it has none."""


def count_events(
    tp: TopicPartition, fetched: bytes, aborted: Sequence[tuple[int, int]] | None, at: int, isolation: int, limit: int
) -> Counted:
    """How many events the answer to a fetch at that offset has, and since when.

    Control records and aborted ones have offsets and are not events. aiokafka's own reader counts, so that the result
    is what a consumer would be given. A record that it cannot read counts as one, and so does a batch that takes more
    than ``limit`` bytes once it is decompressed; such a one has the timestamp of its batch.
    """
    latest = -1

    def open_batch(written: bytes, magic: int) -> Any:
        nonlocal latest
        batch = opened(written, magic)
        latest = getattr(batch, "max_timestamp", None) or -1
        return batch

    opened = bounded(limit)
    records: Any = PartitionRecords(tp, Batches(fetched, open_batch), aborted, at, None, None, False, isolation)
    records._consumer_record = lambda _, record: record
    events, first = 0, -1
    try:
        for record in records:
            if not events:
                first = record.timestamp
            events += 1
    except Exception:  # noqa: BLE001 - whatever a decompressor raises: what it is raised for is counted
        if not events:
            first = latest
        events += 1
    return Counted(events, records.next_fetch_offset, first / 1000 if first is not None and first >= 0 else None)
