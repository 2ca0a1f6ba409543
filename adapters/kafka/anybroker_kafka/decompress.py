"""Decompressing a record batch up to a limit: a kilobyte from another program can take a gigabyte of memory."""

from __future__ import annotations

import gzip
import io
import struct
import zlib
from collections.abc import Callable
from typing import Any, TypeAlias

from aiokafka.codec import cramjam
from aiokafka.record.default_records import DefaultRecordBase

__all__ = ["TooLarge", "decompress"]

_CHUNK = 65_536
"""Bytes that are decompressed in one step, and the smallest room that is tried."""
_PIECE = 16_384
"""Bytes of compressed data that are read in one step: what is left of them is copied each time."""
_GZIP_BITS = zlib.MAX_WBITS | 16
_MORE = 8
"""How many times more room is tried next; so little is decompressed twice."""
_XERIAL, _XERIAL_HEAD = b"\x82SNAPPY\x00", 16
"""How the output of the Java library for snappy begins, and the bytes before its first block."""
_FULL = "failed to write whole buffer"
"""What cramjam says where there is no more room."""


Buffer: TypeAlias = bytes | bytearray


class TooLarge(Exception):
    """The data take more than the limit."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"it takes more than {limit} bytes once it is decompressed (max_decompressed_bytes)")


def decompress(codec: int, data: bytes, limit: int, head: Buffer = b"") -> bytearray:
    """What was compressed by a codec of Kafka's record batches, behind ``head``.

    Takes no more memory than about ``limit`` bytes, and raises :class:`TooLarge` beyond; UnsupportedCodecError where
    the codec or its library is missing; whatever a decompressor raises of wrong bytes.
    """
    DefaultRecordBase()._assert_has_codec(codec)
    return _CODECS[codec](data, limit, head)


def _gzip(data: bytes, limit: int, head: Buffer) -> bytearray:
    """The first member fast, as Kafka's clients write only one; others behind it more slowly."""
    output = bytearray(head)
    first = zlib.decompressobj(_GZIP_BITS)
    pieces = (data[at : at + _PIECE] for at in range(0, len(data), _PIECE))
    while not first.eof:
        piece = first.unconsumed_tail or next(pieces, b"")
        plain = first.decompress(piece, _CHUNK)
        if not (piece or plain):
            raise EOFError("it ends too early")
        output += plain
        if len(output) - len(head) > limit:
            raise TooLarge(limit)
    others = b"".join((first.unused_data, *pieces)).lstrip(b"\x00")
    with gzip.GzipFile(fileobj=io.BytesIO(others)) as stream:
        while piece := stream.read1(_CHUNK):
            output += piece
            if len(output) - len(head) > limit:
                raise TooLarge(limit)
    return output


def _snappy(data: bytes, limit: int, head: Buffer) -> bytearray:
    """Each block says how long it is, and the decompressor keeps to that."""
    blocks = _xerial_blocks(data) if data.startswith(_XERIAL) else [data]
    if sum(cramjam.snappy.decompress_raw_len(block) for block in blocks) > limit:
        raise TooLarge(limit)
    output = bytearray(head)
    for block in blocks:
        output += memoryview(cramjam.snappy.decompress_raw(block))
    return output


def _xerial_blocks(data: bytes) -> list[bytes]:
    blocks: list[bytes] = []
    at = _XERIAL_HEAD
    while at < len(data):
        length: int = struct.unpack_from("!i", data, at)[0]
        at += 4
        if not 0 < length <= len(data) - at:
            raise ValueError(f"a block of {length} bytes, and {len(data) - at} are left")
        blocks.append(data[at : at + length])
        at += length
    return blocks


def _lz4(data: bytes, limit: int, head: Buffer) -> bytearray:
    return _stream(cramjam.lz4.decompress_into, data, limit, head)


def _zstd(data: bytes, limit: int, head: Buffer) -> bytearray:
    return _stream(cramjam.zstd.decompress_into, data, limit, head)


def _stream(into: Callable[[Any, Any], int], data: bytes, limit: int, head: Buffer) -> bytearray:
    """Streams do not say reliably how long they are, so more and more room is tried."""
    begin = len(head)
    room = min(max(_CHUNK, _MORE * len(data)), limit)
    while True:
        output = bytearray(begin + room)
        try:
            with memoryview(output) as view, view[begin:] as place:
                length = into(data, place)
        except cramjam.DecompressionError as exc:
            if room < limit:
                room = min(_MORE * room, limit)
            elif _FULL in str(exc):
                raise TooLarge(limit) from exc
            else:
                raise
        else:
            output[:begin] = head
            del output[begin + length :]
            return output


_CODECS: dict[int, Callable[[bytes, int, Buffer], bytearray]] = {
    DefaultRecordBase.CODEC_GZIP: _gzip,
    DefaultRecordBase.CODEC_SNAPPY: _snappy,
    DefaultRecordBase.CODEC_LZ4: _lz4,
    DefaultRecordBase.CODEC_ZSTD: _zstd,
}
