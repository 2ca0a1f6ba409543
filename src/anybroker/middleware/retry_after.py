"""HTTP's ``Retry-After`` of a failed request, found on the exceptions of any client library."""

from __future__ import annotations

import re
import time
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any, Final

from ..errors import cause_of

__all__ = ["retry_after", "seconds_of"]

_SECONDS: Final = re.compile("[0-9]{1,18}")
_LONGEST: Final = 40
"""Most characters of a date: RFC 9110 has 29."""


def retry_after(error: BaseException) -> float | None:
    """The seconds that the server asked to wait; None where it did not, or said what HTTP does not allow.

    Looks at ``response.headers`` and ``headers`` of the exception, then of its cause.
    """
    for each in (error, cause_of(error)):
        if each is not None and (value := _header(each)) is not None:
            return seconds_of(value)
    return None


def seconds_of(value: object) -> float | None:
    """Of the header's value: seconds, or an HTTP date. None for another text, and for a date that has passed."""
    if not isinstance(value, str) or len(value) > _LONGEST:
        return None
    value = value.strip()
    if _SECONDS.fullmatch(value) is not None:
        return float(value)
    try:
        moment = parsedate_to_datetime(value)
        if moment.tzinfo is None:  # "-0000", or the form of asctime, which HTTP has in UTC
            moment = moment.replace(tzinfo=UTC)
        ahead = moment.timestamp() - time.time()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return ahead if ahead > 0 else None


def _header(error: BaseException) -> object:
    """Of a response or an exception that has headers. What its own code raises counts as none."""
    for has_headers in (_response_of, _itself):
        try:
            headers: Any = getattr(has_headers(error), "headers", None)
            if headers is None:
                continue
            value = headers.get("Retry-After")
            if value is None:
                value = headers.get("retry-after")
        except Exception:  # noqa: BLE001, S112 - it is another library's object, and only looked at
            continue
        if value is not None:
            return value
    return None


def _response_of(error: BaseException) -> object:
    return getattr(error, "response", None)


def _itself(error: BaseException) -> object:
    return error
