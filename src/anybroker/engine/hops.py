"""How long a chain of events that cause each other may become: services that answer each other must not run for ever.

``causationdepth`` (an extension) counts the handlers that an event goes back to. From the tenth on, ``causationpath``
names the last of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..adapter import number_of
from ..cloudevents.event import Event
from ..delivery import Delivery
from ..errors import TooManyHops

__all__ = ["DEPTH", "PATH", "hops_of", "one_hop_more", "too_many"]

DEPTH = "causationdepth"
PATH = "causationpath"
_PATH_FROM = 10
"""Hops from which on the way is written down: shorter chains are everyday life, and pay nothing for it."""
_LAST = 10
"""Most places of a way."""
_BETWEEN = " > "
_LONGEST_PATH = 1024
"""Characters; what another program wrote may be longer."""
_MOST_DIGITS = 9


def hops_of(attributes: Mapping[str, Any]) -> int:
    """The handlers that an event goes back to; 0 for one that no handler has published, or that does not say."""
    depth = attributes.get(DEPTH)
    if isinstance(depth, str):
        depth = number_of(depth, _MOST_DIGITS)
    return depth if type(depth) is int and depth > 0 else 0


def one_hop_more(cause: Delivery, extensions: dict[str, Any]) -> None:
    """Count in what an event published while handling ``cause`` inherits. Values that are already set stay: a chain
    that is meant to go on begins anew with ``extensions={"causationdepth": "0"}``."""
    attributes = cause.event._attributes
    hops = hops_of(attributes) + 1 if DEPTH in attributes else 1
    extensions.setdefault(DEPTH, str(hops))
    if hops >= _PATH_FROM:
        before = attributes.get(PATH)
        way = before.split(_BETWEEN) if isinstance(before, str) and len(before) <= _LONGEST_PATH else []
        extensions.setdefault(PATH, _BETWEEN.join((*way[1 - _LAST :], f"{cause.topic}/{cause.group}")))


def too_many(event: Event[Any], limit: int) -> TooManyHops | None:
    """Why an event is not handled any more; None: it may be."""
    hops = hops_of(event._attributes)
    if hops <= limit:
        return None
    return TooManyHops(hops, limit, event.get("correlationid"), event.get("causationid"), event.get(PATH))
