"""Which dead letters died of the same thing: a reason without what differs from one event to the next."""

from __future__ import annotations

import re
from hashlib import blake2b
from typing import Final

__all__ = ["fingerprint_of", "pattern_of"]

_READ: Final = 1024
"""Most characters of a reason that are read: another program may have written it."""
_COMPARED: Final = 200
"""Most characters of the pattern that count, so that a long text which was cut elsewhere is the same."""
_QUOTED: Final = re.compile(r"""(?<!\w)(['"`])(?:(?!\1).)*\1(?!\w)""")
_WORD: Final = re.compile(r"\w+(?:[-.:/@+]+\w+)*")
_SEVERAL: Final = re.compile(r"\*(?:(?:, ?| )\*)+")


def pattern_of(reason: str) -> str:
    """The reason in one line, with ``*`` for each value: what is in quotes, and each word with a digit or an ``@`` in
    it, such as numbers, ids, times, UUIDs and addresses. Several values in a row are one."""
    text = " ".join(reason[:_READ].split())
    text = _WORD.sub(_value, _QUOTED.sub("*", text))
    return _SEVERAL.sub("*", text)[:_COMPARED]


def _value(found: re.Match[str]) -> str:
    word = found[0]
    return "*" if "@" in word or any(map(str.isdigit, word)) else word


def fingerprint_of(kind: str, handler: str, reason: str) -> str:
    """``r-`` and 10 hexadecimal digits: a hash of the exception's class, the handler and the reason's pattern. The same
    in every process and version, as long as these are."""
    text = "\0".join((kind, handler, pattern_of(reason)))
    return f"r-{blake2b(text.encode('utf-8', 'surrogatepass'), digest_size=5).hexdigest()}"
