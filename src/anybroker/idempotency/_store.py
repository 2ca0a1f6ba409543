"""What an idempotency store is: the words, and the protocol that memory, SQLite and later stores fill.

A store keeps, for each key, one of three states: nothing, *claimed* (by an owner, with a fencing number and a lease),
or *done*. The middleware claims before the handler starts, marks done after it returned and before the event is
acknowledged, and releases when the handler failed. Every write names the claim's fencing number, so that an owner whose
lease ran out, and whose claim another one has taken over, changes nothing any more.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeAlias, runtime_checkable

from ..errors import LeaseLost, Unavailable

__all__ = [
    "DONE",
    "Busy",
    "Claim",
    "ClaimLost",
    "Done",
    "Key",
    "Store",
    "StoreUnavailable",
    "Transaction",
    "TransactionalStore",
]

Key: TypeAlias = tuple[str, str, str, str]
"""Group, handler, source and id of the event; with ``idempotent(key=…)`` group, handler, ``""`` and that key. The last
two have at most 128 characters: a longer one is its hash (``hash:`` and 40 hexadecimal digits)."""


class Claim:
    """This owner has the key, until its lease ends. Compared by identity; a store may subclass it."""

    __slots__ = ("fence", "key", "lease", "retain", "since", "until")

    def __init__(self, key: Key, fence: int, lease: float, retain: float, since: float) -> None:
        self.key = key
        self.fence = fence
        """Higher than that of every earlier claim of the key."""
        self.lease = lease
        """Seconds, from the claim and from each extension."""
        self.retain = retain
        """Seconds for which the store remembers that it is done, at least."""
        self.since = since
        """When it was claimed, on the store's own clock."""
        self.until = since + lease
        """When the lease ends, on the store's own clock."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.key!r}, fence {self.fence}>"


class Busy:
    """Another owner has the key, or another delivery of this one."""

    __slots__ = ("age", "left")

    def __init__(self, age: float, left: float) -> None:
        self.age = age
        """Seconds since it was claimed."""
        self.left = left
        """Seconds until its lease ends, unless it is extended."""

    def __repr__(self) -> str:
        return f"Busy(age={self.age:.3f}, left={self.left:.3f})"


class Done:
    """The key is done: what is at hand is a copy."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "DONE"


DONE = Done()
"""The only one that a store needs."""


class StoreUnavailable(Unavailable):
    """The idempotency store could not be reached or written: nothing is handled and nothing acknowledged meanwhile."""


class ClaimLost(LeaseLost):
    """The claim's lease ran out and another owner has the event: what was asked for was not done."""


class Store(Protocol):
    """Where it is remembered which events are handled.

    The middleware makes many calls at once; a store that has a way to go should send together what it is asked for at
    the same time. Every call ends, by a time-out of the store's own, with its result or an exception. Any exception
    counts as "the store is down": the event is neither handled nor acknowledged, and comes again.
    """

    durable: bool
    """Whether it outlives the process."""
    retain: float
    """Seconds for which ``done`` is remembered at least, unless ``idempotent(retain=…)`` says otherwise."""

    async def open(self) -> None:
        """Called when a Bus starts. Several Buses may open one store, and each one closes it. ``ConfigError`` or
        ``StoreUnavailable``."""
        ...

    async def claim(self, key: Key, owner: str, lease: float, retain: float, /) -> Claim | Busy | Done:
        """Claim the key for ``lease`` seconds, if nobody has it and it is not done; atomic among all owners.

        A claim whose lease has run out is taken over: the new one has a higher fencing number. If the call is
        cancelled, a claim that was made nevertheless is released, or runs out with its lease."""
        ...

    async def extend(self, claims: Sequence[Claim], /) -> Sequence[bool]:
        """Let each claim last its lease from now; for each, whether it is still ours."""
        ...

    async def done(self, claim: Claim, /) -> bool:
        """Mark done, together with what a :class:`Transaction` of the claim holds. False, and nothing is written, if
        the claim was taken over. Doing it again, after an exception left it open, is harmless."""
        ...

    async def release(self, claim: Claim, /) -> None:
        """Give the claim up: the next one may have it at once. Nothing happens if it was taken over."""
        ...

    async def purge(self) -> int:
        """Forget some of what is older than its ``retain``; how many. Called again soon when it is not 0."""
        ...

    async def close(self) -> None:
        """Called when a Bus has closed. What was asked for before is done."""
        ...


class Transaction:
    """The base of what a store gives to a handler whose effect is to share the store's transaction.

    A handler asks for it by annotating a parameter with the store's own subclass, such as
    :class:`~anybroker.idempotency.SqliteTransaction`. What is written through it happens once for each event, however
    often the handler runs; each store's class says how.
    """

    __slots__ = ()


@runtime_checkable
class TransactionalStore(Protocol):
    """A Store whose transaction handlers may share."""

    transaction_type: type[Transaction]
    """What a handler's parameter has to be annotated with."""

    def transaction(self, claim: Claim, /) -> Transaction:
        """What the handler is given for this start. :meth:`Store.done` commits what it still holds together with the
        mark, :meth:`Store.release` drops it."""
        ...
