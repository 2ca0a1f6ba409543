"""A batch takes a bounded amount of memory, whatever it was compressed with."""

from __future__ import annotations

import gzip
import struct
import tracemalloc
from collections.abc import Callable
from typing import Any

import cramjam
import pytest
from aiokafka import codec as codecs
from aiokafka.errors import UnsupportedCodecError
from aiokafka.record.default_records import _DefaultRecordBatchBuilderPy
from aiokafka.record.legacy_records import _LegacyRecordBatchBuilderPy
from aiokafka.structs import TopicPartition

from anybroker.adapter import Foreign
from anybroker_kafka.batches import Batches, any_compressed, bounded, count_events
from anybroker_kafka.decompress import TooLarge, decompress

MIB = 1_048_576
TP = TopicPartition("orders", 3)
ENCODERS: dict[str, tuple[int, Callable[[bytes], bytes]]] = {
    "gzip": (1, codecs.gzip_encode),
    "gzip of several members": (1, lambda data: gzip.compress(data[:1000]) + gzip.compress(data[1000:])),
    "xerial snappy": (2, codecs.snappy_encode),
    "snappy": (2, lambda data: bytes(codecs.snappy_encode(data, xerial_compatible=False))),
    "lz4": (3, codecs.lz4_encode),
    "zstd": (4, codecs.zstd_encode),
    "zstd of unknown length": (4, lambda data: _streamed(data)),
}
CODECS = pytest.mark.parametrize(("codec", "encode"), ENCODERS.values(), ids=ENCODERS)


def _streamed(data: bytes) -> bytes:
    compressor = cramjam.zstd.Compressor()
    compressor.compress(data)
    return bytes(compressor.finish())


@CODECS
@pytest.mark.parametrize("size", [0, 1, 999, 65_536, MIB - 1, MIB])
def test_what_fits_comes_as_it_was(codec: int, encode: Callable[[bytes], bytes], size: int) -> None:
    data = (b"0123456789abcdef" * (size // 16 + 1))[:size]
    assert decompress(codec, encode(data), MIB) == data
    assert decompress(codec, encode(data), MIB, b"head") == b"head" + data


@CODECS
@pytest.mark.parametrize("size", [MIB + 1, 64 * MIB])
def test_what_does_not_fit_is_not_decompressed(codec: int, encode: Callable[[bytes], bytes], size: int) -> None:
    written = encode(bytes(size))
    tracemalloc.start()
    try:
        with pytest.raises(TooLarge, match="1048576 bytes"):
            decompress(codec, written, MIB, b"head")
        assert tracemalloc.get_traced_memory()[1] < 5 * MIB + 2 * len(written)
    finally:
        tracemalloc.stop()


@CODECS
def test_wrong_bytes_are_an_error_and_not_a_size(codec: int, encode: Callable[[bytes], bytes]) -> None:
    written = encode(b"0123456789" * 1000)
    for wrong in (written[:-5], b"", b"\x00" * 40, written[:20] + b"\xff\xff" + written[22:]):
        assert outcome(codec, wrong) is not TooLarge


def outcome(codec: int, written: bytes) -> type[Exception] | None:
    try:
        decompress(codec, written, MIB)
    except Exception as error:  # noqa: BLE001 - any will do
        return type(error)
    return None


@pytest.mark.parametrize("length", [-4, -1, 0, 1_000_000])
def test_blocks_of_a_wrong_length_end(length: int) -> None:
    written = bytearray(codecs.snappy_encode(b"x" * 100))
    struct.pack_into("!i", written, 16, length)
    with pytest.raises(ValueError, match="a block of"):
        decompress(2, bytes(written), MIB)


@pytest.mark.parametrize("codec", [5, 6, 7])
def test_an_unknown_codec(codec: int) -> None:
    with pytest.raises(UnsupportedCodecError):
        decompress(codec, b"", MIB)


# ------------------------------------------------------------------------------------------------------- batches


def batch(*records: tuple[bytes | None, bytes], first: int = 0, codec: int = 0) -> bytes:
    builder: Any = _DefaultRecordBatchBuilderPy(2, codec, 0, -1, -1, -1, 100 * MIB)
    attributes = {"specversion": "1.0", "id": str(first), "source": "/s", "type": "t"}
    headers = [(f"ce_{name}", value.encode()) for name, value in attributes.items()]
    for at, (key, value) in enumerate(records):
        builder.append(at, 1_700_000_000_000 + at, key, value, headers)
    built = bytearray(builder.build())
    struct.pack_into(">q", built, 0, first)
    return bytes(built)


def old(value: bytes, codec: int) -> bytes:
    builder: Any = _LegacyRecordBatchBuilderPy(1, codec, 100 * MIB)
    builder.append(0, 1_700_000_000_000, b"k", value)
    return bytes(builder.build())


SMALL = (b"k", b"{}" * 100)
BOMB = (b"k", bytes(3 * MIB))


@pytest.mark.parametrize("codec", [1, 2, 3, 4])
def test_one_dead_letter_stands_for_a_batch_that_is_too_large(taken: Callable[..., Any], codec: int) -> None:
    """It has the batch's last offset, and the next fetch begins behind it."""
    before = batch(SMALL, SMALL, codec=codec)
    written = before + batch(SMALL, BOMB, SMALL, first=2, codec=codec) + batch(SMALL, first=5, codec=codec)
    for fetched, at in ((written, 0), (written[len(before) :], 2), (written[len(before) :], 3)):
        tracemalloc.start()
        try:
            records = taken(fetched, at=at)
            found = list(records)
            assert tracemalloc.get_traced_memory()[1] < 5 * MIB
        finally:
            tracemalloc.stop()
        assert [inbound.position for inbound in found] == ([0, 1, 4] if at == 0 else [4])
        assert records.next_fetch_offset == 5
        foreign = found[-1].event
        assert isinstance(foreign, Foreign)
        assert (foreign.body, foreign.headers, foreign.key) == (b"", [], None)
        assert "max_decompressed_bytes" in str(foreign.reason)
        assert "offset 4" in str(foreign.reason)


@pytest.mark.parametrize("codec", [0, 1, 2, 3, 4])
def test_a_batch_that_fits_is_read_as_by_aiokafka(taken: Callable[..., Any], codec: int) -> None:
    written = batch(SMALL, (None, b"x" * 1000), codec=codec) + batch(SMALL, first=2, codec=codec)
    found = list(taken(written))
    assert [inbound.position for inbound in found] == [0, 1, 2]
    assert [inbound.event.body for inbound in found] == [SMALL[1], b"x" * 1000, SMALL[1]]
    assert {inbound.key for inbound in found} == {"k", None}


@pytest.mark.parametrize("codec", [1, 2, 3])
def test_batches_of_old_brokers(taken: Callable[..., Any], codec: int) -> None:
    assert [inbound.event.body for inbound in taken(old(b"{}" * 50, codec))] == [b"{}" * 50]
    records = taken(old(BOMB[1], codec))
    again = list(records)
    assert (len(again), records.next_fetch_offset) == (1, 1)
    assert "max_decompressed_bytes" in str(again[0].event.reason)
    assert isinstance(again[0].event, Foreign)


def test_counting_does_not_decompress_beyond_the_limit() -> None:
    written = batch(SMALL, codec=1) + batch(BOMB, first=1, codec=1)
    tracemalloc.start()
    try:
        assert count_events(TP, written, [], 0, 1, MIB)[:2] == (2, 1)
        assert tracemalloc.get_traced_memory()[1] < 5 * MIB
    finally:
        tracemalloc.stop()


def test_the_first_event_says_since_when_it_is_stored() -> None:
    written = batch(SMALL, SMALL, codec=1)
    assert count_events(TP, written, [], 0, 1, MIB) == (2, 2, 1_700_000_000.0)
    assert count_events(TP, written, [], 1, 1, MIB) == (1, 2, 1_700_000_000.001)
    assert count_events(TP, written, [], 2, 1, MIB).stored is None
    assert count_events(TP, batch(BOMB, codec=1) + batch(SMALL), [], 0, 1, MIB).stored == 1_700_000_000.0, "its batch's"


@pytest.mark.parametrize("codec", [1, 2, 3, 4])
def test_one_that_is_compressed_is_found_among_others(codec: int) -> None:
    plain, other = batch(SMALL) * 3, batch(SMALL, codec=codec)
    assert not any_compressed(plain)
    assert any_compressed(plain + other)
    assert any_compressed(other + plain)
    assert any_compressed(plain + old(b"{}" * 50, 1) + plain)
    assert not any_compressed(plain + other[:20])  # the rest of it is not there, and it is not read
    assert not any_compressed(old(b"{}", 0) + plain)
    assert not any_compressed(b"")


def test_a_batch_that_was_cut_off_is_not_read() -> None:
    written = batch(SMALL)
    for end in (0, 5, 11, 12, len(written) - 1):
        assert not Batches(written[:end], bounded(MIB)).has_next()
