"""What a consumer is given of a fetch, counted: control records and what was aborted have offsets and are no events."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from aiokafka.consumer.fetcher import PartitionRecords
from aiokafka.structs import TopicPartition

from .batches import Batches, bounded

__all__ = ["look"]


def look(
    tp: TopicPartition, fetched: bytes, aborted: Sequence[tuple[int, int]] | None, at: int, isolation: int, limit: int
) -> tuple[int, int]:
    """How many events the answer to a fetch at that offset has, and the offset behind all that was looked at.

    By aiokafka's own reading, so that it counts what it would give. A record that it cannot read counts as one, and so
    does a batch that takes more than ``limit`` bytes once it is decompressed.
    """
    records: Any = PartitionRecords(tp, Batches(fetched, bounded(limit)), aborted, at, None, None, False, isolation)
    records._consumer_record = lambda _, record: record
    events = 0
    try:
        for _ in records:
            events += 1
    except Exception:  # noqa: BLE001 - whatever a decompressor raises: it is there, and it is counted
        events += 1
    return events, records.next_fetch_offset
