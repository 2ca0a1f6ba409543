"""What a store needs to remember parked keys: the optional protocol beside :class:`~anybroker.idempotency.Store`.

An ordered subscription with ``dead_letter(then="park")`` writes a row for each event that it sets aside. A key is
parked while it has a row that is not finished.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b
from typing import NamedTuple, Protocol, runtime_checkable

from ..adapter import Foreign, Inbound
from ..cloudevents.attributes import canonical
from ..names import hashed

__all__ = ["ParkedRow", "ParkingStore", "identity", "plain"]

_LONGEST = 128
"""Characters of a key or an id that is remembered as it is."""


class ParkedRow(NamedTuple):
    """One event of a parked key."""

    number: int
    """Its place among the events of its key, given when its row was first written: a lower one comes before it."""
    first: str
    """The event of this key that comes first among those that are not finished; empty if this one is finished."""
    finished: bool
    """Whether it was handled or discarded while others of its key still wait."""


@runtime_checkable
class ParkingStore(Protocol):
    """A Store that remembers parked keys, for all members of a group. ``anybroker_contract.stores`` tests what is said
    here.

    ``place`` names the topic and the group, ``key`` the ordering key, and ``event`` the event by its contents; each is
    printable ASCII of at most 200 characters. Every call is atomic among all processes, and safe to make again: rows
    are a set. Nothing is ever forgotten by age. Errors and time-outs are those of
    :class:`~anybroker.idempotency.Store`.
    """

    async def parked(self, place: str, /) -> Mapping[str, int]:
        """The parked keys of the group, each with how many of its events are not finished."""
        ...

    async def park(self, place: str, key: str, event: str, behind: bool, /) -> ParkedRow | None:
        """Write the row of the event, unless it is there. ``behind``: write it only if the key is parked; None, and
        nothing is written, if it is not."""
        ...

    async def unpark(self, place: str, key: str, event: str | None, /) -> int:
        """The event is finished; None: every event of the key is. Returns how many of the key are not finished; with 0
        all rows of the key are gone. An event without a row changes nothing."""
        ...


def plain(text: str) -> str:
    """What stores know a key or an id by: itself, or where it is long or not printable ASCII its hash."""
    if len(text) <= _LONGEST and text.isascii() and text.isprintable() and not text.startswith("hash:"):
        return text
    return hashed(text)


def identity(inbound: Inbound) -> str:
    """What the rows of parked keys call an event: a hash of its contents, and its id. It is the same for the event, its
    dead letter and the replay of that, and for no other event, also of another publisher."""
    event = inbound.event
    if isinstance(event, Foreign):
        facts: object = inbound.key
        id_ = "(not a CloudEvent)"
    else:
        facts = sorted((name, canonical(value)) for name, value in event.attributes.items())
        id_ = plain(event.id)
    hashed = blake2b(repr((facts, event.body is None)).encode(), digest_size=10)
    hashed.update(event.body or b"")
    return f"{hashed.hexdigest()} {id_}"
