"""The shards of the keys that a backlog has."""

from __future__ import annotations

from anybroker.adapter import slot_of
from anybroker.outbox.entry import SHARDS

__all__ = ["shards_of"]


def shards_of(keys: int) -> list[int]:
    """Of ``k0``, ``k1``, …"""
    return [slot_of(f"k{number}") % SHARDS for number in range(keys)]
