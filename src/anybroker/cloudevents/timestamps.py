"""Timestamps: RFC 3339, exactly (CloudEvents 1.0, "Type System").

No existing parser is right: pydantic accepts a bare number and a missing second, ``fromisoformat`` accepts week dates
and commas, and neither accepts the leap second ``:60``. So the shape is matched here, the calendar is checked by
``datetime``, and the string itself is kept unchanged.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from time import gmtime, strftime, time
from typing import Final

from ..errors import InvalidEvent

__all__ = ["check_timestamp", "format_timestamp", "now", "parse_timestamp"]

_SHAPE: Final = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})[Tt ]([0-9]{2}:[0-9]{2}):([0-9]{2})"
    r"(?:\.([0-9]+))?([Zz]|[+-][0-9]{2}:[0-9]{2})"
)
_MAX_SECONDS: Final = 1024
_seconds: set[str] = set()  # "2018-04-05T17:31:00." of valid timestamps

_THOUSANDTHS: Final = (*(f"{n:03d}Z" for n in range(1000)), "999Z")  # one more, for a float that rounds up
_millisecond: tuple[float, float, str] = (0.0, 0.0, "")  # from, until, and the text up to there


def now() -> str:
    """The time now, in UTC with microseconds: ``2018-04-05T17:31:00.123456Z``."""
    moment = time()
    start, end, prefix = _millisecond  # one tuple, replaced as a whole: threads never see half of it
    if start <= moment < end:
        return prefix + _THOUSANDTHS[int((moment - start) * 1_000_000)]
    return _next_millisecond(moment)


def _next_millisecond(moment: float) -> str:
    global _millisecond
    milliseconds = int(moment * 1000)
    seconds, rest = divmod(milliseconds, 1000)
    prefix = f"{strftime('%Y-%m-%dT%H:%M:%S', gmtime(seconds))}.{rest:03d}"
    start = milliseconds / 1000
    _millisecond = (start, (milliseconds + 1) / 1000, prefix)
    return prefix + _THOUSANDTHS[max(0, int((moment - start) * 1_000_000))]


def parse_timestamp(value: str) -> datetime:
    """The aware datetime of an RFC 3339 string, in the offset it is written in.

    Fractions are cut to microseconds; a leap second is the first instant of the next minute, as in POSIX time.

    Raises ``ValueError`` for anything that is not RFC 3339, or lies outside the years 1 to 9999.
    """
    match = _SHAPE.fullmatch(value)
    if match is None:
        raise ValueError("not of the form 2018-04-05T17:31:00Z")
    date, minute, second, fraction, offset = match.groups()
    if minute[:2] == "24":  # ISO 8601 and newer versions of fromisoformat accept it; RFC 3339 does not
        raise ValueError("hour must be in 0..23")
    if offset in "Zz":
        offset = "+00:00"
    elif offset[4:] > "59":
        raise ValueError("minutes of the offset must be in 0..59")
    if second != "60":
        fraction = (fraction or "0")[:6].ljust(6, "0")
        return datetime.fromisoformat(f"{date}T{minute}:{second}.{fraction}{offset}")
    try:
        return datetime.fromisoformat(f"{date}T{minute}:59{offset}") + timedelta(seconds=1)
    except OverflowError:
        raise ValueError("after the year 9999") from None


def check_timestamp(name: str, value: str) -> None:
    """Refuse what is not an RFC 3339 timestamp; ``name`` is the attribute that the error names."""
    if value[:20] in _seconds and value[26:] == "Z" and value[20:26].isdigit() and value.isascii():
        return  # the usual form, in a second that was seen before
    try:
        parse_timestamp(value)
    except ValueError as error:
        shown = repr(value if len(value) <= 40 else value[:37] + "...")
        raise InvalidEvent(
            f"attribute {name!r} is {shown}, which is not an RFC 3339 timestamp ({error}). "
            "Write it like 2018-04-05T17:31:00Z.",
            attribute=name,
        ) from None
    if value[19] == ".":
        if len(_seconds) >= _MAX_SECONDS:
            _seconds.clear()
        _seconds.add(value[:20])


def format_timestamp(name: str, value: datetime) -> str:
    """The RFC 3339 string of an aware datetime, ``Z`` for UTC; a naive one is refused."""
    offset = value.utcoffset()
    if offset is None:
        raise InvalidEvent(
            f"attribute {name!r} is a datetime without a time zone. Use datetime.now(UTC), or add tzinfo.",
            attribute=name,
        )
    try:
        if offset.microseconds or offset.seconds % 60:  # local mean times; RFC 3339 has whole minutes only
            value = value.astimezone(UTC)
    except OverflowError:
        raise InvalidEvent(
            f"attribute {name!r} is {value!r}, outside the years 1 to 9999 in UTC. Use a time between them.",
            attribute=name,
        ) from None
    text = value.isoformat()
    return text[:-6] + "Z" if text.endswith("+00:00") else text
