"""Percent-encoding of header values, as the bindings with ASCII headers require it ("Header Values")."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import quote, unquote_to_bytes

from ..errors import InvalidEvent

__all__ = ["percent_decode", "percent_encode"]

# U+0021–007E without the double quote and the percent sign; letters, digits and _.-~ are safe anyway.
_SAFE: Final = "!#$&'()*+,/:;<=>?@[\\]^`{|}"
_find_unsafe: Final = re.compile(r"[^\x21\x23\x24\x26-\x7e]").search
_ESCAPED: Final = re.compile(r"\\(.)")


def percent_encode(text: str) -> str:
    """Encode space, double quote, percent sign and everything outside U+0021–007E, as UTF-8 in upper-case
    hex.
    """
    return quote(text, safe=_SAFE) if _find_unsafe(text) else text


def percent_decode(name: str, text: str) -> str:
    """Decode once; ``name`` is the attribute that an error names.

    A double-quoted string is unquoted first. Hex digits may be in either case, and characters may be encoded without
    need. A ``%`` without two hex digits stays: some producers write raw values (``100%``).

    Raises :class:`~anybroker.errors.InvalidEvent` when the decoded bytes are not UTF-8.
    """
    if len(text) > 1 and text[0] == '"' and text[-1] == '"':
        text = _ESCAPED.sub(r"\1", text[1:-1])
    if "%" not in text:
        return text
    try:
        return unquote_to_bytes(text).decode()
    except UnicodeError:
        raise InvalidEvent(
            f"attribute {name!r} has percent sequences that are not UTF-8. Encode each character as UTF-8.",
            attribute=name,
        ) from None
