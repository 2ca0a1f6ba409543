"""The transport header in which an event says when it may be handled, for brokers that cannot hold it until then.

The core writes the same header on delayed copies, and believes it at a group's inlet.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from math import inf
from typing import Any, Final

from ..adapter import Outbound

__all__ = ["NOT_BEFORE", "headers_with_not_before", "moment_of", "take_not_before"]

NOT_BEFORE: Final = "anybroker-not-before"
"""Seconds since the epoch, as decimal text."""


def headers_with_not_before(outbound: Outbound) -> Mapping[str, Any] | None:
    """The transport headers of an event, with this one where it is delayed and the core has not written it."""
    headers = outbound.headers
    if outbound.not_before is None or (headers is not None and NOT_BEFORE in headers):
        return headers
    return {**(headers or {}), NOT_BEFORE: f"{outbound.not_before:.3f}"}


def take_not_before(headers: dict[str, str], ahead: float) -> float | None:
    """What the header says, which must be among ``headers``; None where it is not a moment, or one that is more than
    ``ahead`` seconds from now: another program wrote that. The header is empty then, which the core counts as not
    believed."""
    moment = moment_of(headers[NOT_BEFORE], ahead)
    if moment is None:
        headers[NOT_BEFORE] = ""
    return moment


def moment_of(text: str, ahead: float) -> float | None:
    """The moment that the header says; None where it is not a number, or more than ``ahead`` seconds from now."""
    try:
        moment = float(text)
    except ValueError:
        return None
    return moment if -inf < moment < time.time() + ahead else None
