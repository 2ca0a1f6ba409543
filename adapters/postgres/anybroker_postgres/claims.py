"""A claim of this store, and how its key becomes 16 bytes."""

from __future__ import annotations

from hashlib import blake2b
from typing import Protocol

from anybroker.idempotency import Claim, Key

__all__ = ["Ends", "PostgresClaim", "hash_of", "plain"]


class Ends(Protocol):
    """The transaction of a claim, as far as the store ends it."""

    @property
    def used(self) -> bool:
        """Whether the handler has begun it, so that the mark belongs into it."""
        ...

    async def commit(self) -> bool:
        """Commit it with the mark; as ``Store.done``."""
        ...

    async def roll_back(self) -> None:
        """Drop what was written."""
        ...


class PostgresClaim(Claim):
    """A claim with what its row is found by."""

    __slots__ = ("ending", "hash", "owner", "transaction")

    def __init__(self, key: Key, owner: str, lease: float, retain: float) -> None:
        super().__init__(key, 0, lease, retain, 0.0)
        self.hash = hash_of(key)
        self.owner = owner
        self.transaction: Ends | None = None
        """What its handler asked for."""
        self.ending = False
        """Whether that is committed, or being committed."""

    def begin(self, fence: int, since: float) -> None:
        """It was granted, at this moment on the server's clock (seconds since the epoch)."""
        self.fence, self.since, self.until = fence, since, since + self.lease


def hash_of(key: Key) -> str:
    """The key's hash as PostgreSQL writes a uuid. Raises ``UnicodeEncodeError`` for text that no encoding has."""
    text = "\0".join(key)
    if text.count("\0") != 3:  # joined, it could be another key's
        text = "\0".join((*(str(len(part)) for part in key), text))
    digest = blake2b(text.encode(), digest_size=16).hexdigest()
    return f"{digest[:8]}-{digest[8:12]}-{digest[12:16]}-{digest[16:20]}-{digest[20:]}"


def plain(text: str, ascii_only: bool) -> str:
    """The text for a column that people read: without what a column cannot hold, which would fail a whole batch."""
    if not text.isascii():
        text = text.encode("ascii" if ascii_only else "utf-8", "backslashreplace").decode()
    return text.replace("\0", "\N{SYMBOL FOR NULL}" if not ascii_only else "\\0") if "\0" in text else text
