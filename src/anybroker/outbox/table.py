"""What a relay needs of an outbox's table: the protocol that each database implements."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple, Protocol

from ..errors import Unavailable

__all__ = ["OutboxTable", "OutboxUnavailable", "Parked", "Row", "Taken", "Waiting"]


class OutboxUnavailable(Unavailable):
    """The outbox's table could not be reached or written: what is in it waits."""


class Row(NamedTuple):
    """An event that waits."""

    position: int
    """Of the rows of one key, the one that was written first has the lowest."""
    shard: int
    topic: str
    key: str | None
    payload: str | bytes
    headers: str | None


class Parked(NamedTuple):
    """An event that the broker, or the relay, rejected for good."""

    position: int
    topic: str
    key: str | None
    id: str
    type: str
    reason: str
    since: float
    """Seconds since the epoch."""
    payload: str


class Taken(NamedTuple):
    """The shards of one relay."""

    held: frozenset[int]
    """Nobody else relays these until the lease ends."""
    surplus: frozenset[int]
    """Those of them that other relays wait for: finish what is under way, and give them up."""


class Waiting(NamedTuple):
    """What is in the table."""

    rows: int
    """Events that wait, up to some bound of the table's own."""
    age: float | None
    """Seconds for which the oldest of them could have been relayed; None where none can be now."""
    parked: int


class OutboxTable(Protocol):
    """The table of one outbox, as its relays use it.

    ``OutboxUnavailable`` and ``OSError`` mean that the database is away, and are tried again; every call ends by the
    table's own time-out. One relay makes one call of each method at a time.
    """

    @property
    def target(self) -> str:
        """Which table it is, without a secret, for logs."""
        ...

    async def open(self) -> None:
        """Called when a relay starts; it may be opened again once it is closed. Raises ``StateError`` where another
        relay has opened this object, which remembers how far it has read; ``ConfigError`` where the table is missing or
        wrong; ``OutboxUnavailable``."""
        ...

    async def take(self, relay: str, lease: float, /) -> Taken:
        """Say that this relay lives, extend what it holds by ``lease`` seconds on the database's clock, and take a fair
        share of the shards that are free."""
        ...

    async def give_up(self, relay: str, shards: Collection[int] | None, /) -> None:
        """Let others have these shards of it. None: all of them, and the relay has left."""
        ...

    async def rows(self, shards: Collection[int], limit: int, /) -> Sequence[Row]:
        """Rows of these shards that may be relayed now, by position, at most ``limit``.

        Each is returned at least once, also that of a transaction that commits late; it may be returned again until
        :meth:`remove` has ended. A row that was returned is not looked for again soon: a relay that drops rows calls
        :meth:`again`."""
        ...

    def again(self) -> None:
        """Return from the next :meth:`rows` whatever is in the table."""
        ...

    async def wait(self, seconds: float, /) -> None:
        """Return when a transaction has probably written something, or after so many seconds."""
        ...

    async def remove(self, positions: Sequence[int], /) -> None:
        """Forget what is stored at the broker. Those that are gone are ignored."""
        ...

    async def park(self, rejected: Sequence[tuple[int, str]], /) -> None:
        """Set rows aside with the reason, where they stay until somebody decides. Those that are gone are ignored."""
        ...

    async def parked(self, limit: int = 100, /) -> Sequence[Parked]:
        """What was set aside, oldest first."""
        ...

    async def parked_keys(self) -> Collection[tuple[str, str]]:
        """The topics and keys of what was set aside."""
        ...

    async def retry(self, positions: Sequence[int] | None = None, /) -> int:
        """Let these that were set aside, or all, be relayed again, at their old positions; how many."""
        ...

    async def discard(self, positions: Sequence[int] | None = None, /) -> int:
        """Drop these that were set aside, or all, for good; how many."""
        ...

    async def waiting(self) -> Waiting:
        """What is there."""
        ...

    async def close(self) -> None:
        """Called when a relay has stopped."""
        ...
