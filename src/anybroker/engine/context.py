"""What an event inherits from the event that caused it: the W3C context, and the ids that correlate them.

``traceparent`` and ``tracestate`` as CloudEvents extensions keep the starting trace and are copied unchanged; the
context of each hop is in the transport headers of the same names, with ``baggage``. ``correlationid`` is copied from
the cause (or is the cause's id), ``causationid`` is the cause's id; ``hops.py`` counts them.
Values from other programs are limited here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ..adapter import Foreign, Inbound
from ..cloudevents.event import Event
from ..delivery import Delivery
from ..printable import logger
from .hops import one_hop_more
from .seldom import Seldom

__all__ = ["CONTEXT_HEADERS", "LONGEST_ID", "caused", "incoming", "incoming_of", "starting"]

CONTEXT_HEADERS = ("traceparent", "tracestate", "baggage")
_PARENT = re.compile(r"([0-9a-f]{2})-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-[!-~]{0,200})?")
"""Version, trace, parent, flags; versions after 00 may have more fields."""
_STATE = re.compile(r"[ -~]{1,512}")
_MOST_STATES = 32
"""Most members of one tracestate."""
_LONGEST_BAGGAGE, _MOST_BAGGAGE = 8192, 64
"""The bytes and members of baggage that every program must pass on."""
LONGEST_ID = 1024
"""Most characters of an id that is copied to what a handler publishes."""
_log = logger("anybroker.publish")
_say = Seldom()


def incoming(delivery: Delivery) -> dict[str, str]:
    """The W3C context of a delivery: the hop's headers, else the event's own extensions. Without what the
    specifications do not allow: Trace Context (sections 3.2 and 3.3), Baggage (3.3)."""
    return _context(delivery.headers, delivery.event)


def incoming_of(inbound: Inbound) -> dict[str, str]:
    """The same of what nobody was given yet."""
    return _context(inbound.headers, inbound.event)


def _context(headers: Mapping[str, str], event: Event[Any] | Foreign) -> dict[str, str]:
    carrier = _trace(headers.get("traceparent"), headers.get("tracestate")) if headers else {}
    if not carrier and not isinstance(event, Foreign):
        carrier = starting(event)
    baggage = headers.get("baggage") if headers else None
    if baggage and len(baggage) <= _LONGEST_BAGGAGE and baggage.count(",") < _MOST_BAGGAGE and _is_text(baggage):
        carrier["baggage"] = baggage
    return carrier


def _is_text(value: str) -> bool:
    return value.isascii() and value.isprintable()


def starting(event: Event[Any]) -> dict[str, str]:
    """The trace in the event's own extensions, if it is valid."""
    return _trace(event.get("traceparent"), event.get("tracestate"))


def _trace(parent: object, state: object) -> dict[str, str]:
    match = _PARENT.fullmatch(parent) if isinstance(parent, str) else None
    if match is None or match[1] == "ff" or (match[1] == "00" and match[2] is not None):
        return {}  # the state means nothing without a parent
    parent = match[0]
    if isinstance(state, str) and _STATE.fullmatch(state) is not None and state.count(",") < _MOST_STATES:
        return {"traceparent": parent, "tracestate": state}
    return {"traceparent": parent}


def caused(cause: Delivery, extensions: dict[str, Any], headers: dict[str, str]) -> None:
    """Fill in what an event published while handling ``cause`` inherits from it. Values that are already set stay."""
    event = cause.event
    if isinstance(event, Foreign):
        return
    attributes = event._attributes
    id_: Any = attributes["id"]
    correlation = attributes.get("correlationid")
    dropped: list[str] = []
    if len(id_) > LONGEST_ID:
        dropped.append("id")
        id_ = None
    else:
        extensions.setdefault("causationid", id_)
    if correlation and _is_too_long(correlation):
        dropped.append("correlationid")
        correlation = None
    if correlation := correlation or id_:
        extensions.setdefault("correlationid", correlation)
    one_hop_more(cause, extensions)
    hop = cause.headers
    if hop or "traceparent" in attributes or "tracestate" in attributes:
        carrier = _context(hop, event)
        start = starting(event)
        dropped += [name for name in CONTEXT_HEADERS if (value := hop.get(name)) and value != carrier.get(name)]
        dropped += [name for name in CONTEXT_HEADERS[:2] if attributes.get(name) and name not in start]
        if "traceparent" not in extensions and (start := start or carrier):
            for name in CONTEXT_HEADERS[:2]:
                if name in start:
                    extensions.setdefault(name, start[name])
        for name, value in carrier.items():
            headers.setdefault(name, value)
    if dropped:
        _tell(cause, dropped)


def _is_too_long(value: object) -> bool:
    return isinstance(value, str | bytes) and len(value) > LONGEST_ID


def _tell(cause: Delivery, dropped: list[str]) -> None:
    if times := _say():
        _log.warning(
            "%s/%s: an event has a %s that is invalid, or too long to be copied to what its handler publishes: it is "
            "left out there (%d times since the last such message)",
            cause.topic,
            cause.group,
            " and a ".join(dict.fromkeys(dropped)),
            times,
        )
