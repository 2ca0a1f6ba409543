"""Reading records where aiokafka's parser leaves them.

aiokafka copies every record of a fetch into a ``ConsumerRecord`` and hands out thousands of them at once. Reading each
one as it is parsed instead saves the copy, and thousands of header lists at a time that Python's garbage collector
goes through again and again: a third of what an event takes. There is no public way to do that, so one private method
is replaced: the one that copies. Fetching, positions and rebalances stay aiokafka's own. Should its private names
change, ``getmany`` gives a ``ConsumerRecord`` again, and the receiver reads that: the same events, more slowly, and
without a limit on what is decompressed, which is logged.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

from aiokafka import AIOKafkaConsumer
from aiokafka.errors import UnsupportedCodecError
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.structs import TopicPartition

from anybroker.kit.wording import said
from anybroker.printable import logger

from .answers import tell_answers
from .batches import Batches, TooLargeBatch, any_compressed, bounded
from .names import lane_name
from .unreadable import read_leniently, stand_in
from .wire import Wire

__all__ = ["read_as_parsed"]

_log = logger("anybroker.kafka")

_UNBOUNDED = "compressed batches are decompressed without a limit"


def read_as_parsed(consumer: AIOKafkaConsumer, wire: Wire, limit: int) -> None:
    """Let ``getmany`` of a started consumer that has no lanes yet give Inbounds, also of what aiokafka cannot read.
    ``limit``: bytes that a batch may take once it is decompressed."""
    fetcher: Any = getattr(consumer, "_fetcher", None)
    client: Any = getattr(fetcher, "_client", None)
    if type(getattr(fetcher, "_records", None)) is OrderedDict and hasattr(client, "send"):
        fetcher._records = fetched = _Fetched(wire, limit)
        tell_answers(client, FetchRequest, fetched.answered)  # the fetcher goes through an answer at once
    else:
        _log.warning("this version of aiokafka is not known: %s", _UNBOUNDED)


class _Fetched(OrderedDict[TopicPartition, Any]):
    """Where aiokafka's fetcher keeps what was fetched, by partition, until ``getmany`` goes through it."""

    def __init__(self, wire: Wire, limit: int) -> None:
        super().__init__()
        self._wire = wire
        self._limit = limit
        self._open = bounded(limit)
        self._written: dict[TopicPartition, bytes] = {}
        """The bytes of the last answer, by partition, until they are used: aiokafka gives no way to them later."""

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
            # On this object only: other consumers are not changed.
            written = self._written.pop(partition, None)
            if written is None:
                _log.warning("the bytes of a fetch from %s are not known: %s", partition, _UNBOUNDED)
            elif any_compressed(written):
                records._records = Batches(written, self._open)
            records._consumer_record = self._wire.read
            records._records_iterator = self._read_all(partition, records, records._records_iterator, written)
        super().__setitem__(partition, fetched)

    def _read_all(
        self, partition: TopicPartition, records: Any, iterator: Iterator[Any], written: bytes | None
    ) -> Iterator[Any]:
        """What aiokafka reads, and from a record on that it cannot read, what can be read otherwise.

        ``getmany`` loses what it has when this raises, so an error ends the fetch, and the next one, which begins
        at that record, meets it again.
        """
        start = records.next_fetch_offset
        aborted = list(records._aborted_transactions)
        try:
            yield from iterator
        except TooLargeBatch as exc:  # decompressing it once is enough
            _warn(partition, records.next_fetch_offset, exc)
            records.next_fetch_offset = exc.batch.next_offset
            yield self._wire.read_any(partition, stand_in(exc))
            return
        except Exception as exc:  # whatever the client's parser raises of another program's bytes
            if records.next_fetch_offset > start:
                return
            if written is None or isinstance(exc, UnsupportedCodecError):
                raise
            error = exc
        else:
            return
        _warn(partition, start, error)
        isolation = records._isolation_level
        lenient = read_leniently(partition, written, aborted, start, isolation, self._wire.read_any, self._limit)
        try:
            for inbound in lenient:
                records.next_fetch_offset = lenient.next_fetch_offset
                yield inbound
        except Exception:
            if lenient.next_fetch_offset == start:
                raise
        if lenient.next_fetch_offset == start:
            raise error
        records.next_fetch_offset = lenient.next_fetch_offset


def _warn(partition: TopicPartition, offset: int, error: Exception) -> None:
    _log.warning("a record of %s from offset %d on cannot be read: %s", lane_name(partition), offset, said(error))
