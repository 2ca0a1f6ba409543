"""Messages with headers as inputs: fields between control characters, so that a fuzzer's edits of bytes are edits of
names, values and the body, and a seed can be read.

``name US value RS name US value GS body``. A field without US is a header without a value, and without GS there is no
body.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

__all__ = ["Parts", "join", "split", "text"]

_GROUP, _RECORD, _UNIT = b"\x1d", b"\x1e", b"\x1f"


class Parts(NamedTuple):
    """A message."""

    headers: list[tuple[bytes, bytes | None]]
    body: bytes | None


def split(data: bytes) -> Parts:
    """The message in any bytes."""
    head, group, body = data.partition(_GROUP)
    headers: list[tuple[bytes, bytes | None]] = []
    for field in head.split(_RECORD) if head else ():
        name, unit, value = field.partition(_UNIT)
        headers.append((name, value if unit else None))
    return Parts(headers, body if group else None)


def join(headers: Mapping[str, Any] | Iterable[tuple[str, Any]], body: bytes | str | None) -> bytes:
    """The input that :func:`split` splits into these."""
    pairs = headers.items() if isinstance(headers, Mapping) else headers
    fields = [_bytes(name) + (b"" if value is None else _UNIT + _bytes(value)) for name, value in pairs]
    return _RECORD.join(fields) + (b"" if body is None else _GROUP + _bytes(body))


def text(raw: bytes) -> str:
    """Any text, including unpaired surrogates."""
    return raw.decode("utf-8", "surrogatepass") if _is_wtf8(raw) else raw.decode("utf-8", "surrogateescape")


def _is_wtf8(raw: bytes) -> bool:
    try:
        raw.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return False
    return True


def _bytes(value: Any) -> bytes:
    return bytes(value) if isinstance(value, bytes | bytearray) else str(value).encode()
