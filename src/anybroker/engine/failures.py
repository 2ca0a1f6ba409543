"""How the last starts of an event failed: noted on its delivery when one fails, and shown in its dead letter.

Starts are known where they were made: what goes back to the broker loses them, except through a group's inlet.
"""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime
from typing import Final

from ..adapter import count_of
from ..delivery import Attempt, Delivery
from ..errors import text_of
from ..kit.not_before import moment_of
from ..printable import clip, in_one_line, lines_again
from .inlet import CLOCKS_APART, FAILURES_HEADER, FIRST_FAILURE_HEADER

__all__ = ["failures_of", "first_failure", "note_failure", "now", "read", "titled", "written"]

_KEPT: Final = 5
_LONGEST: Final = 200
"""Most bytes of one error."""
_LINE: Final = re.compile(r"([0-9]{1,7}) ([0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.]{8,15}Z) (.+)")

_MOMENT: Final = re.compile("[0-9]{1,12}[.][0-9]{3}")


def now() -> str:
    """The time, RFC 3339 with milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def titled(error: BaseException) -> str:
    """``module.Type: text``, as it is."""
    return f"{type(error).__module__}.{type(error).__qualname__}: {text_of(error)}"


def note_failure(delivery: Delivery, error: BaseException) -> None:
    """This start has failed. Keeps text only: an exception would keep everything that its frames refer to."""
    delivery.first_failed = first_failure(delivery) or time.time()
    attempt = Attempt(delivery.attempt, now(), clip(titled(error), _LONGEST))
    delivery.failures = (*failures_of(delivery), attempt)[-_KEPT:]


def failures_of(delivery: Delivery) -> tuple[Attempt, ...]:
    """Its last failed starts that are known here, five at most, the oldest first. Where none were made here, those that
    a copy in the inlet tells; elsewhere anybody may have written them."""
    failures: tuple[Attempt, ...] | None = getattr(delivery, "failures", None)
    if failures is None:
        inbound = delivery.inbound
        failures = read(inbound.headers.get(FAILURES_HEADER, "")) if inbound.inlet else ()
    return failures


def first_failure(delivery: Delivery) -> float | None:
    """When its first start failed that is known here, in seconds since the epoch: what was noted here, or what a copy
    in the inlet tells. None: none is known. What goes back to the broker otherwise begins anew."""
    first: float | None = getattr(delivery, "first_failed", None)
    if first is None and delivery.inbound.inlet:
        text = delivery.inbound.headers.get(FIRST_FAILURE_HEADER, "")
        first = moment_of(text, CLOCKS_APART) if _MOMENT.fullmatch(text) is not None else None
    return first


def written(failures: tuple[Attempt, ...]) -> str:
    """As the text of a header."""
    return in_one_line("\n".join(f"{each.number} {each.at} {each.error}" for each in failures))


def read(text: str) -> tuple[Attempt, ...]:
    """From the text of a header. What the library never writes is left out."""
    if len(text) > 2 * _KEPT * (_LONGEST + 50):
        return ()
    attempts: list[Attempt] = []
    for line in lines_again(text).split("\n")[-_KEPT:]:
        found = _LINE.fullmatch(line)
        if found is None or not (number := count_of(found[1])) or clip(found[3], _LONGEST) != found[3]:
            continue
        attempts.append(Attempt(number, found[2], found[3]))
    return tuple(attempts)
