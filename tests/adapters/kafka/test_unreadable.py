"""A record that aiokafka cannot read takes nothing else with it."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from typing import Any

import pytest
from aiokafka.errors import CorruptRecordException, UnsupportedCodecError
from aiokafka.record import default_records
from aiokafka.record.util import calc_crc32c
from aiokafka.structs import TopicPartition

from anybroker.adapter import Foreign
from anybroker.cloudevents import Event
from anybroker_kafka.records import KafkaInbound
from anybroker_kafka.unreadable import read_leniently
from anybroker_kafka.wire import Wire

TP = TopicPartition("orders", 3)
GZIP = 1


class Named(str):
    """A header's name of any bytes, for aiokafka's builder in Python."""

    __slots__ = ("written",)
    written: bytes

    def encode(self, *_: Any) -> bytes:
        return self.written


def named(name: bytes) -> str:
    made = Named("~" * len(name))
    made.written = name
    return made


def good(number: int) -> tuple[bytes, bytes, list[tuple[str, bytes]]]:
    attributes = {"specversion": "1.0", "id": str(number), "source": "/s", "type": "t"}
    headers = [(f"ce_{name}", value.encode()) for name, value in attributes.items()]
    return b"k", b"%d" % number, [*headers, ("x-pad", b"-" * 500)]  # so that compression is worth it


def bad(name: bytes = b"caf\xe9") -> tuple[bytes, bytes, list[tuple[str, bytes]]]:
    return b"k", b"bad", [("x-legacy", b"yes"), (named(name), b"1"), ("x-last", b"2"), ("anybroker-attempts", b"1")]


def batch(*records: Any, first: int = 0, codec: int = 0) -> bytearray:
    builder: Any = default_records._DefaultRecordBatchBuilderPy(2, codec, 0, -1, -1, -1, 1_000_000)
    for at, (key, value, headers) in enumerate(records):
        builder.append(at, 1_700_000_000_000 + at, key, value, headers)
    built = bytearray(builder.build())
    struct.pack_into(">q", built, 0, first)
    return built


def again(written: bytes | bytearray, at: int = 0) -> tuple[list[KafkaInbound], int]:
    records = read_leniently(TP, bytes(written), [], at, 1, Wire().read_any, 1_048_576)
    return list(records), records.next_fetch_offset


def bodies(found: list[KafkaInbound]) -> list[bytes | None]:
    return [inbound.event.body for inbound in found]


@pytest.mark.parametrize("codec", [0, GZIP])
def test_only_the_one_that_cannot_be_read_is_foreign(codec: int) -> None:
    found, following = again(batch(good(0), bad(), good(2), codec=codec) + batch(good(3), first=3))
    assert [inbound.position for inbound in found] == [0, 1, 2, 3]
    assert following == 4
    assert bodies(found) == [b"0", b"bad", b"2", b"3"]
    assert [type(inbound.event) for inbound in found] == [Event, Foreign, Event, Event]
    foreign = found[1].event
    assert isinstance(foreign, Foreign)
    assert foreign.headers == [("x-legacy", b"yes"), ("caf\\xe9", b"1"), ("x-last", b"2")]
    assert foreign.key == "k"
    assert "UTF-8" in str(foreign.reason)
    assert found[1].headers["anybroker-attempts"] == "1"


def test_from_the_offset_on() -> None:
    found, following = again(batch(good(0), bad(), good(2)), at=1)
    assert ([inbound.position for inbound in found], following) == ([1, 2], 3)


def test_an_event_with_such_a_header_is_not_taken_for_a_good_one() -> None:
    key, value, headers = good(0)
    found, _ = again(batch((key, value, [*headers, (named(b"\xff"), b"")])))
    assert isinstance(found[0].event, Foreign)
    assert found[0].event.body == b"0"


def test_a_record_of_which_nothing_can_be_read_comes_as_its_bytes() -> None:
    written = batch(good(0), (None, b"body", [("name", b"value")]), good(2))
    at = written.index(b"body") + 4  # how many headers there are
    written[at] = 0x7E
    struct.pack_into(">I", written, 17, calc_crc32c(bytes(written[21:])))
    found, following = again(written)
    assert [inbound.position for inbound in found] == [0, 1, 2]
    assert following == 3
    assert isinstance(found[1].event, Foreign)
    assert b"body" in (found[1].event.body or b"")


def test_what_is_behind_a_length_that_is_wrong_comes_as_one() -> None:
    written = batch(good(0), good(1), good(2))
    at = written.index(b"\x02k\x021") - 5  # before its attributes, its time and its offset
    written[at : at + 1] = b"\x01"
    struct.pack_into(">I", written, 17, calc_crc32c(bytes(written[21:])))
    found, following = again(written)
    assert following == 3
    assert [type(inbound.event) for inbound in found] == [Event, Foreign]
    assert found[1].position == 2


def test_a_batch_with_a_wrong_checksum_comes_as_its_bytes() -> None:
    written = batch(good(0), good(1))
    written[-1] ^= 1
    found, following = again(written + batch(good(2), first=2))
    assert [inbound.position for inbound in found] == [1, 2]
    assert bodies(found) == [bytes(written), b"2"]
    assert following == 3
    assert "checksum" in str(found[0].event.reason)  # type: ignore[union-attr]


def test_a_damaged_batch_that_may_fill_a_message_comes_without_its_bytes() -> None:
    written = batch((b"k", b"x" * 600_000, []))
    written[-1] ^= 1
    found, following = again(written)
    assert (bodies(found), following) == ([b""], 1)
    assert f"its {len(written)} bytes stay in Kafka" in str(found[0].event.reason)  # type: ignore[union-attr]


def test_a_missing_codec_is_an_error_and_not_a_dead_letter(monkeypatch: pytest.MonkeyPatch) -> None:
    written = batch(good(0), codec=GZIP)
    monkeypatch.setattr("aiokafka.codec.has_gzip", lambda: False)
    with pytest.raises(UnsupportedCodecError):
        again(written)


@pytest.mark.parametrize("codec", [0, GZIP])
def test_a_fetch_ends_before_it_and_the_next_one_goes_on_behind_it(
    taken: Callable[..., Any], codec: int, caplog: pytest.LogCaptureFixture
) -> None:
    """The record before it was read already: getmany must not lose it."""
    written = bytes(batch(good(0), bad(), good(2), codec=codec) + batch(good(3), first=3, codec=codec))
    first = taken(written)
    assert bodies(list(first)) == [b"0"]
    assert (first.next_fetch_offset, caplog.messages) == (1, [])
    second = taken(written, at=1)
    assert [(type(inbound.event), second.next_fetch_offset) for inbound in second] == [
        (Foreign, 2), (Event, 3), (Event, 4),
    ]  # fmt: skip
    (said,) = caplog.messages
    assert "orders/3 from offset 1 on cannot be read" in said


def control_batch_cut_off(first: int) -> bytearray:
    written = batch(good(0), first=first)[:61]
    written[22] |= 0x30  # transactional, and control
    struct.pack_into(">q", written, 43, 7)  # its producer
    struct.pack_into(">i", written, 8, len(written) - 12)
    struct.pack_into(">I", written, 17, calc_crc32c(bytes(written[21:])))
    return written


def test_a_fetch_that_begins_with_a_damaged_batch_is_read_to_its_end(taken: Callable[..., Any]) -> None:
    written = batch(bad())
    written[-1] ^= 1
    found = taken(bytes(written + batch(good(1), first=1, codec=GZIP)))
    assert [(inbound.position, type(inbound.event)) for inbound in found] == [(0, Foreign), (1, Event)]


def test_a_codec_that_nothing_can_read_is_raised_after_all_events_before_it(taken: Callable[..., Any]) -> None:
    missing = batch(good(1), first=1, codec=GZIP)
    missing[22] = 7  # a codec that Kafka does not have
    struct.pack_into(">I", missing, 17, calc_crc32c(bytes(missing[21:])))
    found = taken(bytes(batch(bad()) + missing))
    assert [inbound.position for inbound in found] == [0]
    assert found.next_fetch_offset == 1
    with pytest.raises(UnsupportedCodecError):
        list(taken(bytes(missing), at=1))


@pytest.mark.parametrize("seed", range(8))
def test_a_damaged_batch_is_read_to_its_end(seed: int) -> None:
    choose = random.Random(seed)
    before = batch(good(0))
    for _ in range(100):
        written = batch(good(1), bad(), (None, None, []), good(4), first=1)
        for _ in range(choose.randint(1, 4)):
            written[choose.randrange(61, len(written))] = choose.randrange(256)
        struct.pack_into(">I", written, 17, calc_crc32c(bytes(written[21:])))
        found, following = again(before + written + batch(good(5), first=5))
        assert following == 6
        assert found[0].event.body == b"0"
        assert len(found) > 1


def test_a_control_batch_that_is_cut_off_does_not_end_the_process() -> None:
    """aiokafka's faster reading of numbers looks beyond the end, which may be no memory of ours."""
    with pytest.raises(CorruptRecordException, match="control batch"):
        again(control_batch_cut_off(0))
