"""What an idempotency store is: the terms, and the protocol that stores implement.

A store keeps, for each key, one of three states: nothing, *claimed* (by an owner, with a fencing number and a lease),
or *done*. The middleware claims before the handler starts, marks done after it returned and before the event is
acknowledged, and releases when the handler failed. Every write names the claim's fencing number, so that an owner whose
lease ran out, and whose claim another owner has taken over, can no longer change anything.
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
    "TransactionConflict",
    "TransactionalStore",
]

Key: TypeAlias = tuple[str, str, str, str]
"""Group, handler, source and id of the event; with ``idempotent(key=…)`` group, handler, ``""`` and that key. The last
two have at most 128 characters: a longer one is replaced by its hash (``hash:`` and 40 hexadecimal digits). Any text is
possible in each, NUL and quotes included; text that cannot be encoded is a ``ValueError`` of that call alone."""


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
        """The least number of seconds for which the store remembers that it is done."""
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
    """The key is done: this event is a copy."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "DONE"


DONE = Done()
"""The only instance that a store needs."""


class StoreUnavailable(Unavailable):
    """The idempotency store could not be reached or written: until it can, nothing is handled or acknowledged."""


class ClaimLost(LeaseLost):
    """The claim's lease ran out and another owner has the event: the call changed nothing."""


class TransactionConflict(Unavailable):
    """The database undid a handler's transaction because another one was in its way (a serialization failure, a
    deadlock): the handler runs again, and no attempt is counted."""


class Store(Protocol):
    """Remembers which events are handled. ``anybroker_contract.stores`` tests what is said here, on any store.

    The middleware makes many calls at once; a store on a network should send calls made at the same time together.
    Every call must end, with a result or an exception, by the store's own time-out. ``StoreUnavailable`` and
    ``OSError`` mean that the store is down: the event is neither handled nor acknowledged, and comes again. Any other
    exception counts as a bug, and as a failed attempt of this event. So turn the errors of a client library into
    ``StoreUnavailable``.
    """

    durable: bool
    """Whether the store outlives the process."""
    retain: float
    """The least number of seconds for which ``done`` is remembered, unless ``idempotent(retain=…)`` says otherwise."""

    async def open(self) -> None:
        """Called when a Bus starts. Several Buses may open one store, and each closes it: count the opens. Raises
        ``ConfigError`` or ``StoreUnavailable``."""
        ...

    async def claim(self, key: Key, owner: str, lease: float, retain: float, /) -> Claim | Busy | Done:
        """Claim the key for ``lease`` seconds, if nobody has it and it is not done; atomic among all owners.

        A claim whose lease has run out is taken over: the new claim has a higher fencing number. If the call is
        cancelled but the claim was made, it is released, or expires with its lease."""
        ...

    async def extend(self, claims: Sequence[Claim], /) -> Sequence[bool]:
        """Extend each claim to its lease from now. Returns, for each and in their order, whether this owner still has
        it."""
        ...

    async def done(self, claim: Claim, /) -> bool:
        """Mark done, together with what a :class:`Transaction` of the claim holds; also after the lease has ended, if
        nobody has taken the claim over. Returns False, and writes nothing, if it was taken over, or if what the
        transaction held is lost. Safe to call again, as after an exception: True if it is marked by now."""
        ...

    async def release(self, claim: Claim, /) -> None:
        """Give the claim up, so that the next owner can have it at once. Does nothing if it was taken over."""
        ...

    async def purge(self) -> int:
        """Forget some of what is older than its ``retain``. Returns how many; called again soon if that is not 0."""
        ...

    async def close(self) -> None:
        """Called when a Bus has closed. Completes the calls made before."""
        ...


class Transaction:
    """The base class of what a store gives to a handler whose effect shares the store's transaction.

    A handler asks for it by annotating a parameter with the store's own subclass, such as
    :class:`~anybroker.idempotency.SqliteTransaction`. What is written through it happens once for each event, however
    often the handler runs; each store's class says how.
    """

    __slots__ = ()

    @classmethod
    def check(cls, annotation: object, is_async: bool, setting: str, /) -> None:
        """``ConfigError(setting, …)`` if :meth:`given` has nothing for a parameter with this annotation, of a handler
        that is ``async def``, or a plain ``def``. Called when the handler is subscribed. By default all is accepted."""

    async def given(self, annotation: object, /) -> object:
        """What a parameter gets whose annotation is not this class but one that it serves: an entry point in the group
        ``anybroker.transactions`` has the full name of that class, or of one that it derives from
        (``psycopg.AsyncConnection``), and leads to this class. Awaited before the handler starts."""
        raise NotImplementedError(f"{type(self).__name__} serves no {annotation!r}")

    async def finish(self) -> None:
        """Write what the object that was :meth:`given` still holds back. Awaited when the handler has returned, before
        :meth:`Store.done`: what this raises is the handler's failure. By default nothing."""

    def reason(self, failure: Exception, /) -> StoreUnavailable | TransactionConflict | None:
        """Why the handler really failed, if it was the database's doing and not the handler's: then no attempt is
        counted. Called after :meth:`Store.release`. By default None: what the handler raised is its own failure."""
        return None


@runtime_checkable
class TransactionalStore(Protocol):
    """A Store whose transaction handlers may share."""

    transaction_type: type[Transaction]
    """The annotation of the handler's parameter."""

    def transaction(self, claim: Claim, /) -> Transaction:
        """The transaction for this start of the handler. :meth:`Store.done` commits what it still holds together with
        the mark; :meth:`Store.release` drops it."""
        ...
