"""Blocks of headers that no client writes. The server looks at none of it, so anything may be in them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, TypeAlias

__all__ = ["Fields", "read_odd_block"]

Fields: TypeAlias = Sequence[tuple[str, str | bytes]]
"""Names and values of a block of headers, in order; bytes where a value is not UTF-8."""

_UNNAMED: Final = "x-unnamed"
"""The name given to a line that has no name, or no colon."""
_escape_name: Final = re.compile(rb"[^!-9;-~]").sub
_escape_value: Final = re.compile(rb"[\r\n]").sub


def read_odd_block(block: bytes) -> tuple[Fields, list[tuple[str, str]]]:
    """Names and values as they are, and as text. Nothing is left out: what may not be in a name, or would end a line,
    is percent-encoded."""
    first, *lines = block.split(b"\r\n")
    if not first.startswith(b"NATS/1.0"):
        lines.insert(0, first)
    fields: list[tuple[str, str | bytes]] = []
    for line in filter(None, lines):
        name, colon, value = line.partition(b":")
        if not colon:
            name, value = b"", line
        readable = _escape_name(_percent, name).decode() or _UNNAMED
        value = _escape_value(_percent, value.removeprefix(b" "))
        try:
            fields.append((readable, value.decode()))
        except UnicodeDecodeError:
            fields.append((readable, value))
    text = [(name, value if isinstance(value, str) else value.decode(errors="replace")) for name, value in fields]
    return fields, text


def _percent(match: re.Match[bytes]) -> bytes:
    return b"%%%02X" % ord(match[0])
