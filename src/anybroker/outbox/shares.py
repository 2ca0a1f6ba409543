"""Which relay has which shards."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple

__all__ = ["Share", "share_of"]


class Share(NamedTuple):
    """What one relay should do."""

    take: frozenset[int]
    """Free shards that it takes."""
    surplus: frozenset[int]
    """Shards of its own that it should give up."""
    held: frozenset[int]
    """What it has then, the surplus included."""


def share_of(relay: str, relays: Collection[str], holders: Mapping[int, str], shards: int) -> Share:
    """An equal share: no two relays differ by more than one shard. ``relays``: those that live; ``holders``: by shard,
    which of them has it."""
    living = sorted({*relays, relay})
    each, more = divmod(shards, len(living))
    fair = each + (living.index(relay) < more)
    mine = sorted(shard for shard, holder in holders.items() if holder == relay)
    free = [shard for shard in range(shards) if shard not in holders]
    take = frozenset(free[: max(0, fair - len(mine))])
    return Share(take, frozenset(mine[fair:]), take.union(mine))
