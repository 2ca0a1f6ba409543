"""Records read as aiokafka's parser leaves them are the records that aiokafka hands out."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.consumer.fetcher import FetchError, PartitionRecords
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.memory_records import MemoryRecords
from aiokafka.structs import TopicPartition

from anybroker.adapter import Foreign, Outbound
from anybroker.cloudevents import Event
from anybroker_kafka.fetched import read_as_parsed
from anybroker_kafka.records import KafkaInbound
from anybroker_kafka.wire import Wire

TP = TopicPartition("orders", 3)
PLAIN = Event.create({"n": 1}, source="/s", type="t", subject="é", key="k")
BESIDE = {"traceparent": "00-1", "anybroker-attempts": "2"}


def written(*records: tuple[bytes | None, bytes | None, list[tuple[str, bytes]]]) -> bytes:
    builder: Any = DefaultRecordBatchBuilder(2, 0, 0, -1, -1, -1, 1_000_000)
    for at, (key, value, headers) in enumerate(records):
        builder.append(at, 1_700_000_000_000 + at, key, value, headers)
    return bytes(builder.build())


def fetched(*records: tuple[bytes | None, bytes | None, list[tuple[str, bytes]]]) -> Any:
    """The result of a fetch, before any record of it is read."""
    return PartitionRecords(TP, MemoryRecords(written(*records)), [], 0, None, None, True, 0)


@pytest.fixture
def read(taken: Callable[..., Any]) -> Callable[..., list[KafkaInbound]]:
    return lambda *records: list(taken(written(*records)))


def sent(event: Event[Any], headers: dict[str, str] | None = None, wire: Wire | None = None) -> Any:
    value, written = (wire or Wire()).write(Outbound(event, "orders", headers=headers))
    return b"k", value, written


@pytest.mark.parametrize(
    "record",
    [
        sent(PLAIN),
        sent(Event({"specversion": "1.0", "id": "1", "source": "/s", "type": "t"})),
        sent(PLAIN, BESIDE),
        sent(PLAIN, wire=Wire("structured")),
        (None, b"{}", [(name.upper(), value) for name, value in sent(PLAIN)[2]]),
        (b"k", None, []),
        (b"", b"\xff", [("ce_id", b"\xff"), ("content-type", b"text/plain")]),
    ],
)
def test_raw_is_the_record_that_aiokafka_would_have_made(record: Any, read: Callable[..., list[KafkaInbound]]) -> None:
    plain = list(fetched(record, record))
    for inbound, native in zip(read(record, record), plain, strict=True):
        assert inbound.position == native.offset
        assert inbound.raw == native
        assert inbound.raw is inbound.raw


def test_events_keys_and_headers_are_read_on_the_way(read: Callable[..., list[KafkaInbound]]) -> None:
    # Twice: what is new the first time is known the second time.
    for plain, beside, foreign in (read(sent(PLAIN), sent(PLAIN, BESIDE), (b"k", b"no event", [])) for _ in range(2)):
        assert (plain.event, plain.key, plain.headers) == (PLAIN, "k", {})
        assert (beside.event, beside.key, beside.headers) == (PLAIN, "k", BESIDE)
        assert isinstance(foreign.event, Foreign)


def test_a_usual_event_keeps_no_headers_in_memory() -> None:
    wire = Wire()
    record, again = fetched(sent(PLAIN), sent(PLAIN))
    assert wire.read(TP, record)._record is record  # its names and values are learned here
    assert wire.read(TP, again)._record is None


def test_an_error_of_a_fetch_stays_what_it_is() -> None:
    client = SimpleNamespace(send=None)
    consumer: Any = SimpleNamespace(_fetcher=SimpleNamespace(_records=OrderedDict(), _client=client))
    read_as_parsed(consumer, Wire(), 1_048_576)
    error = FetchError(error=ValueError("out of range"), backoff=0)
    consumer._fetcher._records[TP] = error
    assert consumer._fetcher._records[TP] is error


def test_a_client_that_keeps_its_records_elsewhere_is_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    consumer: Any = SimpleNamespace(_fetcher=SimpleNamespace(_records={}))
    read_as_parsed(consumer, Wire(), 1_048_576)
    assert type(consumer._fetcher._records) is dict
    assert "without a limit" in caplog.text
