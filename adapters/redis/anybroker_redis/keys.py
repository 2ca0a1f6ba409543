"""The names of the keys: one for each event, and one counter for each tag.

Every name has a hash tag, ``{00}`` to ``{63}``, so that an event's key and the counter of its fences are in one slot of
a cluster, and the tags spread over its nodes. ``anybroker:{17}:`` and a hash of group, handler, source and id.
"""

from __future__ import annotations

from base64 import urlsafe_b64encode
from hashlib import blake2b

from anybroker.idempotency import Key

__all__ = ["TAGS", "Names"]

TAGS = 64
"""More would spread better over a large cluster, and make the batches of each call smaller."""


class Names:
    """The names of all keys under a prefix."""

    def __init__(self, prefix: str) -> None:
        self.counters = [f"{prefix}:{{{tag:02}}}:fence".encode() for tag in range(TAGS)]
        """The key of each tag's counter."""
        self._starts = [f"{prefix}:{{{tag:02}}}:".encode() for tag in range(TAGS)]

    def probe(self, tag: int) -> bytes:
        """The key of this tag that is written to find out whether it can be."""
        return self._starts[tag] + b"probe"

    def of(self, key: Key) -> tuple[int, bytes]:
        """The tag and the name of an event's key."""
        group, handler, source, _ = key
        # The lengths keep ("a", "b\0c") apart from ("a\0b", "c"). Any text will do, lone surrogates too.
        text = f"{len(group)},{len(handler)},{len(source)},{''.join(key)}".encode("utf-8", "surrogatepass")
        digest = blake2b(text, digest_size=15).digest()
        tag = digest[0] % TAGS
        return tag, self._starts[tag] + urlsafe_b64encode(digest)
