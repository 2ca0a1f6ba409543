"""Messages that aiormq cannot read: headers of other programs that are correct AMQP, and more than pamqp takes.

A header's name, a content type or a routing key in another encoding than UTF-8, a time after the year 9999, a table
within a table within …: RabbitMQ carries all of them. One such frame would end aiormq's reader, and with it every
channel of the connection, again and again. So each content header is looked at before aiormq gets it, and one that it
could not read comes as a stub around the bytes as they are. Nothing here is decoded that is fine.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from struct import Struct
from typing import Any, Final, NamedTuple

from aiormq.connection import TCPTransportFactory, TLSTransportFactory, TransportFactory
from pamqp.decode import embedded_value
from pamqp.header import ContentHeader

from anybroker.adapter import Foreign
from anybroker.errors import InvalidEvent

from .frames import field_name

__all__ = ["KEPT", "ROUTING", "ReadableTransport", "UnreadableForeign", "bytes_of", "original"]

_FRAME: Final = Struct(">BHI")
_HEADER: Final = Struct(">HHQ")
_LENGTH: Final = Struct(">I")
_length: Final = _LENGTH.unpack_from
_TIME: Final = Struct(">Q")
_CHUNK: Final = 65_536
_STUB: Final = 0xFFFF
"""The weight in a stub's content header: a field that a broker always sends as 0, and that no publisher can set."""
_LATEST: Final = 253_402_300_799_999
"""The last moment of the year 9999 in milliseconds, which pamqp takes whatever is above 32 bits for."""
_DEEPEST: Final = 32
"""Tables within tables that are read; whoever reads them recurses."""

_SHORT, _TABLE, _OCTET, _LONG = range(4)
_PROPERTIES: Final = (
    ("content_type", 0x8000, _SHORT),
    ("content_encoding", 0x4000, _SHORT),
    ("headers", 0x2000, _TABLE),
    ("delivery_mode", 0x1000, _OCTET),
    ("priority", 0x0800, _OCTET),
    ("correlation_id", 0x0400, _SHORT),
    ("reply_to", 0x0200, _SHORT),
    ("expiration", 0x0100, _SHORT),
    ("message_id", 0x0080, _SHORT),
    ("timestamp", 0x0040, _LONG),
    ("message_type", 0x0020, _SHORT),
    ("user_id", 0x0010, _SHORT),
    ("app_id", 0x0008, _SHORT),
    ("cluster_id", 0x0004, _SHORT),
)
_MORE_FLAGS: Final = 0x0001
_SIZES: Final = {
    ord(code): size for code, size in zip("tbBsuIilLfdDV\0", (1, 1, 1, 2, 2, 4, 4, 8, 8, 4, 8, 5, 0, 0), strict=True)
}
"""Bytes of a header's value by its type's code."""
_S, _X, _T, _A, _F = b"SxTAF"

_NAMING: Final[Mapping[bytes, tuple[int, ...]]] = {
    b"\0\x3c\0\x3c": (-1, 9, -1, -1),  # Basic.Deliver: tag of the consumer; exchange and routing key
    b"\0\x3c\0\x32": (2, -1, -1, -1),  # Basic.Return
    b"\0\x3c\0\x47": (9, -1, -1, 4),  # Basic.GetOk
    b"\0\x14\0\x28": (2, -1, 4),  # Channel.Close: the broker cuts its text at 255 bytes, perhaps within a character
    b"\0\x0a\0\x32": (2, -1, 4),  # Connection.Close
}
"""Methods with text in them: bytes to the next, or -1 for a text with its length before it."""
_BLOCKED: Final = b"\0\x0a\0\x3c"
_UNBLOCKED: Final = b"\0\x0a\0\x3d"


# ------------------------------------------------------------------------------------------------------ looking


def fault(data: bytes, at: int, end: int) -> str | None:
    """What aiormq would end of in these properties, flags first; None where it can read them."""
    try:
        _look(data, at, end)
    except (ValueError, IndexError, struct.error) as exc:
        return str(exc)
    return None


def _look(data: bytes, at: int, end: int) -> None:
    flags = data[at] << 8 | data[at + 1]
    if flags & _MORE_FLAGS:
        raise ValueError("it has more properties than AMQP 0-9-1")
    plain = data[at + 2 : end].isascii()  # then no text in it can be wrong, and it is nearly always so
    at += 2
    for name, kind in _kinds(flags):
        if kind == _SHORT:
            stop = at + 1 + data[at]
            if not plain:
                _text(data[at + 1 : stop], f"its property {name}")
            at = stop
        elif kind == _TABLE:
            stop = at + 4 + _length(data, at)[0]
            _look_into(data, at + 4, stop, 0, plain)
            at = stop
        elif kind == _OCTET:
            at += 1
        else:
            _moment(data, at)
            at += 8
    if at > end:
        raise ValueError("its properties are cut off")


@lru_cache(maxsize=256)
def _kinds(flags: int) -> list[tuple[str, int]]:
    """The properties that these flags announce."""
    return [(name, kind) for name, flag, kind in _PROPERTIES if flags & flag]


def _look_into(data: bytes, at: int, end: int, depth: int, plain: bool) -> None:
    """A table."""
    while at < end:
        code = at + 1 + data[at]
        if not plain:
            _text(data[at + 1 : code], "a header's name")
        # Nearly all of them are strings.
        at = code + 5 + _length(data, code + 1)[0] if data[code] == _S else _after(data, code, depth)
    if at != end:
        raise ValueError("a table of its headers is cut off")


def _after(data: bytes, at: int, depth: int) -> int:
    """Where the value ends whose type's code is here."""
    code = data[at]
    size = _SIZES.get(code)
    if size is not None:
        return at + 1 + size
    if code == _T:
        _moment(data, at + 1)
        return at + 9
    if code not in b"SxAF":
        raise ValueError(f"a header has a value of the unknown type {chr(code)!r}")
    start = at + 5
    stop: int = start + _length(data, at + 1)[0]
    if code in b"AF":
        if depth >= _DEEPEST:
            raise ValueError(f"its headers have more than {_DEEPEST} tables or arrays within each other")
        if code == _F:
            _look_into(data, start, stop, depth + 1, False)
        else:
            while start < stop:
                start = _after(data, start, depth + 1)
            if start != stop:
                raise ValueError("an array in its headers is cut off")
    return stop


def _text(text: bytes, what: str) -> None:
    try:
        text.decode()
    except UnicodeDecodeError:
        raise ValueError(f"{what} is not UTF-8: {text!r}") from None


def _moment(data: bytes, at: int) -> None:
    (value,) = _TIME.unpack_from(data, at)
    if value > _LATEST:
        raise ValueError(f"a time in it is out of range: {value}")


# -------------------------------------------------------------------------------------------------------- stubs


def _readable(data: bytes, at: int, end: int) -> bytes | None:
    """A content header that aiormq can read instead of this one; None where it can read this one."""
    start = at + _HEADER.size
    if fault(data, start, end) is None:
        return None
    class_id, _, body_size = _HEADER.unpack_from(data, at)
    raw = data[start:end]
    flags, more = 0x2000, b""
    # aiormq matches what is returned to its publisher by this property.
    message_id = next((part for name, part in _segments(raw) if name == "message_id"), b"")
    if message_id and message_id.isascii():
        flags, more = flags | 0x0080, message_id
    table = b"\0x" + _LENGTH.pack(len(raw)) + raw
    properties = flags.to_bytes(2, "big") + _LENGTH.pack(len(table)) + table + more
    return _HEADER.pack(class_id, _STUB, body_size) + properties


def _named(data: bytes, at: int, end: int) -> bytes | None:
    """A method whose texts are UTF-8 instead of this one; None where they are."""
    parts = [data[at : at + 4]]
    changed = False
    pattern = _NAMING[parts[0]]
    at += 4
    for step in pattern:
        if step >= 0:
            parts.append(data[at : at + step])
            at += step
            continue
        stop = at + 1 + data[at]
        text = data[at + 1 : stop]
        try:
            text.decode()
        except UnicodeDecodeError:
            changed = True
            text = text.decode("utf-8", "backslashreplace").encode("ascii", "backslashreplace")[:255]
        parts += (bytes((len(text),)), text)
        at = stop
    parts.append(data[at:end])
    return b"".join(parts) if changed else None


class _ReadableStream(asyncio.StreamReader):
    """What aiormq reads from: the frames of a connection, one as it came unless it could not read it. ``blocked`` is
    told why the broker reads no more from it, which aiormq keeps to itself, and None when it does again."""

    def __init__(self, reader: asyncio.StreamReader, blocked: Callable[[str | None], None] | None = None) -> None:
        super().__init__()
        self._inner = reader
        self._blocked = blocked
        self._ready = b""
        self._at = 0
        self._rest = b""
        self._plain = False
        """What comes is not made of frames: aiormq says what is wrong with it."""

    def at_eof(self) -> bool:
        """Whether all is read."""
        return self._at == len(self._ready) and not self._rest and self._inner.at_eof()

    async def readexactly(self, n: int) -> bytes:
        """The next ``n`` bytes."""
        while len(self._ready) - self._at < n:
            await self._fill(n)
        self._at += n
        return self._ready[self._at - n : self._at]

    async def read(self, n: int = -1) -> bytes:
        """What is there, up to ``n`` bytes; all until the end without a number."""
        found = self._ready[self._at :] + self._rest
        self._ready, self._at, self._rest = b"", 0, b""
        if n < 0:
            return found + await self._inner.read()
        if not found:
            return await self._inner.read(n)
        self._ready = found[n:]
        return found[:n]

    async def _fill(self, wanted: int) -> None:
        data = await self._inner.read(_CHUNK)
        left = self._ready[self._at :]
        if not data:
            partial = left + self._rest
            self._ready, self._at, self._rest = b"", 0, b""
            raise asyncio.IncompleteReadError(partial, wanted)
        frames = self._frames(self._rest + data if self._rest else data)
        self._ready = left + frames if left else frames
        self._at = 0

    def _frames(self, data: bytes) -> bytes:
        """The whole frames at the beginning; the rest is for later."""
        at = done = 0
        end = len(data)
        parts: list[bytes] = []
        while not self._plain and at + 7 <= end:
            kind, channel, size = _FRAME.unpack_from(data, at)
            stop = at + 8 + size
            if kind not in (1, 2, 3, 8):
                self._plain = True
                break
            if stop > end:
                break
            if kind < 3:
                other: bytes | None = None
                if kind == 2:
                    other = _readable(data, at + 7, stop - 1)
                elif (method := data[at + 7 : at + 11]) in _NAMING:
                    other = _named(data, at + 7, stop - 1)
                elif not channel and self._blocked is not None and method in (_BLOCKED, _UNBLOCKED):
                    why = data[at + 12 : stop - 1].decode("utf-8", "replace")
                    self._blocked(why or "no reason given" if method == _BLOCKED else None)
                if other is not None:
                    parts += (data[done:at], _FRAME.pack(kind, channel, len(other)), other, data[stop - 1 : stop])
                    done = stop
            at = stop
        if self._plain:
            at = end
        self._rest = data[at:] if at < end else b""
        if not parts:
            return data[:at] if at < end else data
        parts.append(data[done:at])
        return b"".join(parts)


class ReadableTransport(TransportFactory):
    """Connects as aiormq does by itself, and puts itself before its reader."""

    def __init__(self, blocked: Callable[[str | None], None] | None = None) -> None:
        self._blocked = blocked

    async def create(self, url: Any, **options: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """See :class:`aiormq.connection.TransportFactory`."""
        factory = TLSTransportFactory() if url.scheme == "amqps" else TCPTransportFactory()
        reader, writer = await factory.create(url, **options)
        return _ReadableStream(reader, self._blocked), writer


# ------------------------------------------------------------------------------------------------- what it was


class Again(NamedTuple):
    """Properties to be written as they came: their flags, and what goes before and after the message's id."""

    flags: int
    before: bytes
    after: bytes


def original(header: ContentHeader) -> bytes | None:
    """The properties as they came, flags first, of a message that aiormq could not read; None of any other."""
    return bytes_of((header.properties.headers or {})[""]) if header.weight == _STUB else None


def bytes_of(value: Any) -> bytes:
    """A header's value as bytes: as they came, or the text of a value that has another type in AMQP."""
    return bytes(value) if isinstance(value, bytes | bytearray) else str(value).encode()


ROUTING: Final[Mapping[str, str]] = {"CC": "anybroker-foreign-cc", "BCC": "anybroker-foreign-bcc"}
"""Headers by which RabbitMQ routes, and closes the channel where they are not made for that. Under these other names
they are kept in a dead letter, and shown as what they were."""
KEPT: Final[Mapping[str, str]] = {kept: name for name, kept in ROUTING.items()}


class UnreadableForeign(Foreign):
    """A message that aiormq cannot read, with its properties byte for byte, so that a dead letter has them too."""

    __slots__ = ("raw",)

    def __init__(self, raw: bytes, body: bytes) -> None:
        self.raw = raw
        headers: list[tuple[str, bytes | None]] = []
        for name, part in _segments(raw):
            if name == "headers":
                for field, value, _ in _entries(part):
                    shown = _shown(field)
                    headers.append((KEPT.get(shown, shown), _value(value)))
            elif name == "content_type":
                headers.append(("content-type", part[1:]))
        reason = fault(raw, 0, len(raw)) or "it cannot be read"
        super().__init__(body, headers, None, InvalidEvent(f"its AMQP headers cannot be read: {reason}"))

    def again(self, extra: bytes, dropped: Callable[[str], bool]) -> Again:
        """Its properties once more, as :func:`anybroker_rabbitmq.wire.Wire.write` needs them: with these entries behind
        those of its table that are not dropped; persistent; without what RabbitMQ refuses, or would drop it by."""
        parts = dict(_segments(self.raw))
        parts["delivery_mode"] = b"\x02"
        kept = b"".join(
            field_name(ROUTING[shown]) + value if (shown := _shown(name)) in ROUTING else entry
            for name, value, entry in _entries(parts.get("headers", b"\0\0\0\0"))
            if (shown := _shown(name)) in KEPT or not dropped(shown)
        )
        parts["headers"] = _LENGTH.pack(len(kept) + len(extra)) + kept + extra
        for name in ("message_id", "expiration", "user_id", "cluster_id"):
            parts.pop(name, None)
        flags, before, after = 0x0080, b"", b""
        for name, flag, _ in _PROPERTIES:
            if name in parts:
                flags |= flag
                if flag > 0x0080:
                    before += parts[name]
                else:
                    after += parts[name]
        return Again(flags, before, after)


def _segments(raw: bytes) -> Iterator[tuple[str, bytes]]:
    """The properties by name, each as it came; those before one that is cut off."""
    if len(raw) < 2:
        return
    flags, at = raw[0] << 8 | raw[1], 2
    for name, flag, kind in _PROPERTIES:
        if flags & flag:
            if at >= len(raw):
                return
            if kind == _SHORT:
                stop = at + 1 + raw[at]
            elif kind == _TABLE:
                stop = at + 4 + int.from_bytes(raw[at : at + 4], "big")
            else:
                stop = at + (1 if kind == _OCTET else 8)
            if stop > len(raw):
                return
            yield name, raw[at:stop]
            at = stop


def _entries(table: bytes) -> Iterator[tuple[bytes, bytes, bytes]]:
    """A table's names, values with their type's code, and both as they came; those before one that is cut off."""
    at = 4
    while at < len(table):
        code = at + 1 + table[at]
        if code >= len(table):
            return
        size = 8 if table[code] == _T else _SIZES.get(table[code])
        if size is None:
            if table[code] not in b"SxAF":
                return
            size = 4 + int.from_bytes(table[code + 1 : code + 5], "big")
        stop = code + 1 + size
        if stop > len(table):
            return
        yield table[at + 1 : code], table[code:stop], table[at:stop]
        at = stop


def _value(value: bytes) -> bytes | None:
    if value[0] in b"Sx":
        return value[5:]
    if value[0] in b"V\0":  # a header without a value
        return None
    try:
        _after(value, 0, 0)
    except (ValueError, IndexError, struct.error):
        return value[1:]  # as it is: what nobody can read, nobody has to
    return bytes_of(embedded_value(value)[1])


def _shown(name: bytes) -> str:
    return name.decode("utf-8", "backslashreplace")
