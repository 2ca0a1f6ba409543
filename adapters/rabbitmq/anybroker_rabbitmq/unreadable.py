"""Messages that aiormq cannot read: headers of other programs that are correct AMQP, and more than pamqp takes.

A header's name or a content type in another encoding than UTF-8, a time after the year 9999, a table within a table
within …: RabbitMQ carries all of them. One such frame would end aiormq's reader, and with it every channel of the
connection, again and again. So each content header is checked before aiormq gets it, and one that it could not read
comes as a stub around the bytes as they are. A header that aiormq can read is not decoded here.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from functools import lru_cache
from struct import Struct
from typing import Final

from pamqp.commands import Basic
from pamqp.decode import embedded_value
from pamqp.header import ContentHeader

from anybroker.errors import InvalidEvent

from .foreign import KEPT, AmqpForeign, bytes_of
from .frames import LENGTH, TIME

__all__ = ["UnreadableForeign", "original", "readable_header"]

_HEADER: Final = Struct(">HHQ")
_length: Final = LENGTH.unpack_from
_STUB: Final = 0xFFFF
"""The weight in a stub's content header: a field that brokers always send as 0, and that publishers cannot set."""
_LATEST: Final = 253_402_300_799_999
"""The last moment of the year 9999 in milliseconds, which pamqp reads in a time that is above 32 bits."""
_DEEPEST: Final = 32
"""Tables within tables that are read: reading them recurses."""
_MORE_FLAGS: Final = 0x0001
_SIZES: Final = {
    ord(code): size for code, size in zip("tbBsuIilLfdDV\0", (1, 1, 1, 2, 2, 4, 4, 8, 8, 4, 8, 5, 0, 0), strict=True)
}
"""Bytes of a header's value by its type's code."""
_S, _X, _T, _A, _F = b"SxTAF"


# ----------------------------------------------------------------------------------------------------- checking


def fault(data: bytes, at: int, end: int) -> str | None:
    """Why aiormq could not read these properties, flags first; None where it can."""
    try:
        _check(data, at, end)
    except (ValueError, IndexError, struct.error) as exc:
        return str(exc)
    return None


def _check(data: bytes, at: int, end: int) -> None:
    flags = data[at] << 8 | data[at + 1]
    if flags & _MORE_FLAGS:
        raise ValueError("it has more properties than AMQP 0-9-1")
    plain = data[at + 2 : end].isascii()  # nearly always so, and then each text in it is UTF-8
    at += 2
    for name, kind in _kinds(flags):
        if kind == "shortstr":
            stop = at + 1 + data[at]
            if not plain:
                _check_text(data[at + 1 : stop], f"its property {name}")
            at = stop
        elif kind == "table":
            stop = at + 4 + _length(data, at)[0]
            _check_table(data, at + 4, stop, 0, plain)
            at = stop
        elif kind == "octet":
            at += 1
        else:
            _check_time(data, at)
            at += 8
    if at > end:
        raise ValueError("its properties are cut off")


@lru_cache(maxsize=256)
def _kinds(flags: int) -> list[tuple[str, str]]:
    """The properties that these flags announce, and their types."""
    return [(name, Basic.Properties.amqp_type(name)) for name, flag in Basic.Properties.flags.items() if flags & flag]


def _check_table(data: bytes, at: int, end: int, depth: int, plain: bool) -> None:
    while at < end:
        code = at + 1 + data[at]
        if not plain:
            _check_text(data[at + 1 : code], "a header's name")
        # Nearly all values are strings.
        at = code + 5 + _length(data, code + 1)[0] if data[code] == _S else _end_of_value(data, code, depth)
    if at != end:
        raise ValueError("a table of its headers is cut off")


def _end_of_value(data: bytes, at: int, depth: int) -> int:
    """Where the value that begins here, with its type's code, ends. ValueError where it cannot be read."""
    code = data[at]
    size = _SIZES.get(code)
    if size is not None:
        return at + 1 + size
    if code == _T:
        _check_time(data, at + 1)
        return at + 9
    if code not in b"SxAF":
        raise ValueError(f"a header has a value of the unknown type {chr(code)!r}")
    start = at + 5
    stop: int = start + _length(data, at + 1)[0]
    if code in b"AF":
        if depth >= _DEEPEST:
            raise ValueError(f"its headers have more than {_DEEPEST} tables or arrays within each other")
        if code == _F:
            _check_table(data, start, stop, depth + 1, False)
        else:
            while start < stop:
                start = _end_of_value(data, start, depth + 1)
            if start != stop:
                raise ValueError("an array in its headers is cut off")
    return stop


def _check_text(text: bytes, what: str) -> None:
    try:
        text.decode()
    except UnicodeDecodeError:
        raise ValueError(f"{what} is not UTF-8: {text!r}") from None


def _check_time(data: bytes, at: int) -> None:
    (value,) = TIME.unpack_from(data, at)
    if value > _LATEST:
        raise ValueError(f"a time in it is out of range: {value}")


# -------------------------------------------------------------------------------------------------------- stubs


def readable_header(data: bytes, at: int, end: int) -> bytes | None:
    """A stub in place of a content header that aiormq cannot read; None where it can."""
    start = at + _HEADER.size
    if fault(data, start, end) is None:
        return None
    class_id, _, body_size = _HEADER.unpack_from(data, at)
    raw = data[start:end]
    flags, more = 0x2000, b""
    # aiormq recognises a message that was returned to its publisher by this property.
    message_id = _properties(raw).get("message_id", b"")
    if message_id and message_id.isascii():
        flags, more = flags | 0x0080, message_id
    table = b"\0x" + LENGTH.pack(len(raw)) + raw
    properties = flags.to_bytes(2, "big") + LENGTH.pack(len(table)) + table + more
    return _HEADER.pack(class_id, _STUB, body_size) + properties


def original(header: ContentHeader) -> bytes | None:
    """The properties as they came, flags first, of a message that aiormq could not read; None of any other."""
    return bytes_of((header.properties.headers or {})[""]) if header.weight == _STUB else None


# ------------------------------------------------------------------------------------------------- as they came


class UnreadableForeign(AmqpForeign):
    """A message that aiormq cannot read, with its properties byte for byte."""

    __slots__ = ("raw",)

    def __init__(self, raw: bytes, body: bytes) -> None:
        self.raw = raw
        content_type = _properties(raw).get("content_type")
        headers: list[tuple[str, bytes | None]] = [] if content_type is None else [("content-type", content_type[1:])]
        headers += [(KEPT.get(name, name), _shown(value)) for name, value, _ in self.entries()]
        reason = fault(raw, 0, len(raw)) or "it cannot be read"
        super().__init__(body, headers, None, InvalidEvent(f"its AMQP headers cannot be read: {reason}"))

    def properties(self) -> dict[str, bytes]:
        """See :meth:`AmqpForeign.properties`."""
        properties = _properties(self.raw)
        properties.pop("headers", None)
        return properties

    def entries(self) -> Iterator[tuple[str, bytes, bytes]]:
        """See :meth:`AmqpForeign.entries`. A name that is not UTF-8 is escaped."""
        for name, value, entry in _entries(_properties(self.raw).get("headers", b"")):
            yield name.decode("utf-8", "backslashreplace"), value, entry


def _properties(raw: bytes) -> dict[str, bytes]:
    """The properties by name, each as it came, up to one that is cut off."""
    properties: dict[str, bytes] = {}
    flags, at = int.from_bytes(raw[:2], "big") if len(raw) > 2 else 0, 2
    for name, kind in _kinds(flags):
        if kind == "shortstr":
            stop = at + 1 + (raw[at] if at < len(raw) else 0)
        elif kind == "table":
            stop = at + 4 + int.from_bytes(raw[at : at + 4], "big")
        else:
            stop = at + (1 if kind == "octet" else 8)
        if stop > len(raw):
            break
        properties[name] = raw[at:stop]
        at = stop
    return properties


def _entries(table: bytes) -> Iterator[tuple[bytes, bytes, bytes]]:
    """A table's names, values with their type's code, and both as they came, up to one that is cut off."""
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


def _shown(value: bytes) -> bytes | None:
    """A header's value as it is shown; None for a header without one."""
    if value[0] in b"Sx":
        return value[5:]
    if value[0] in b"V\0":
        return None
    try:
        _end_of_value(value, 0, 0)
    except (ValueError, IndexError, struct.error):
        return value[1:]  # as it is
    return bytes_of(embedded_value(value)[1])
