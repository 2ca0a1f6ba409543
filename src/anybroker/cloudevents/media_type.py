"""Content types: RFC 2046, and what CloudEvents derives from them (JSON format, section 3.1)."""

from __future__ import annotations

import codecs
import re
from encodings import normalize_encoding
from encodings.aliases import aliases
from typing import Final, NamedTuple

from ..errors import InvalidEvent

__all__ = ["JSON", "OCTETS", "STRUCTURED", "STRUCTURED_BATCH", "MediaType", "is_structured", "media_type"]

JSON: Final = "application/json"
OCTETS: Final = "application/octet-stream"
STRUCTURED: Final = "application/cloudevents+json"
STRUCTURED_BATCH: Final = "application/cloudevents-batch+json"
_ENVELOPE: Final = "application/cloudevents"

_TOKEN: Final = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
# Possessive throughout: a run of semicolons and blanks would otherwise backtrack exponentially. Nothing but printable
# ASCII: an attribute has no control characters, not even the tab that RFC 2046 allows.
_QUOTED: Final = r'"(?:[ !#-\[\]-~]|\\[ -~])*+"'
_PARAMETER: Final = rf"; *+(?:({_TOKEN}+)=({_TOKEN}+|{_QUOTED}))?+ *+"
_SHAPE: Final = re.compile(rf"({_TOKEN}+)/({_TOKEN}+) *+((?:{_PARAMETER})*+)")
_PARAMETERS: Final = re.compile(_PARAMETER)
_ESCAPED: Final = re.compile(r"\\(.)")

# The character sets that Python knows by their IANA names. Only these are looked up: Python would keep every other
# name forever, and has codecs that are not character sets (`idna` takes quadratic time).
_CHARSETS: Final = (frozenset(aliases) | frozenset(aliases.values())) - {"mbcs", "oem", "utf_7"}
_MAX_REMEMBERED: Final = 1024
_MAX_LENGTH_REMEMBERED: Final = 256


class MediaType(NamedTuple):
    """What the library needs to know about a content type."""

    essence: str
    """``type/subtype``, in lower case."""
    json: bool
    """``*/json`` or ``*/*+json``."""
    text: bool
    """``text/*`` (and not JSON)."""
    charset: str | None
    """Python's name of the character set; ``utf-8`` if none is named, None if it is unknown."""


_known: dict[str, MediaType] = {}


def _codec(charset: str) -> str | None:
    if normalize_encoding(charset).lower() not in _CHARSETS:
        return None
    try:
        name = codecs.lookup(charset).name
        "".encode(name)  # refuses the codecs that do not turn text into bytes
    except LookupError:
        return None
    return name


def media_type(value: str) -> MediaType:
    """Read a content type; mixed case, parameters and a trailing semicolon are fine.

    Raises :class:`~anybroker.errors.InvalidEvent` for anything that is not RFC 2046.
    """
    remembered = _known.get(value)
    if remembered is not None:
        return remembered
    match = _SHAPE.fullmatch(value)
    if match is None:
        shown = repr(value if len(value) <= 80 else value[:77] + "...")
        raise InvalidEvent(
            f"attribute 'datacontenttype' is {shown}, which is not a media type (RFC 2046). "
            "Write it like application/json or text/plain; charset=utf-8.",
            attribute="datacontenttype",
        )
    main, sub = match[1].lower(), match[2].lower()
    charset: str | None = "utf-8"
    for parameter in _PARAMETERS.finditer(match[3]):
        if parameter[1] is not None and parameter[1].lower() == "charset":
            raw = parameter[2]
            charset = _codec(_ESCAPED.sub(r"\1", raw[1:-1]) if raw[0] == '"' else raw)
    is_json = sub == "json" or sub.endswith("+json")
    result = MediaType(f"{main}/{sub}", is_json, main == "text" and not is_json, charset)
    if len(value) <= _MAX_LENGTH_REMEMBERED:
        if len(_known) >= _MAX_REMEMBERED:
            _known.clear()
        _known[value] = result
    return result


def is_structured(content_type: str) -> bool:
    """Whether a transport's content type announces a structured event, in whatever format and case."""
    return content_type[:23].lower() == _ENVELOPE
