"""Looking at records without a consumer group: fetched by offset, and no position is committed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from heapq import merge
from itertools import islice

from aiokafka.structs import TopicPartition

from anybroker.adapter import Peek, Peeked
from anybroker.errors import MissingGroup

from .cluster import BEGINNING, END, Cluster
from .names import group_id, inlet, lane_name
from .topology import check_group
from .unreadable import read_leniently
from .wire import Wire

__all__ = ["Look", "members", "peek"]

_Range = tuple[int, int]
"""Offsets from the first up to, not including, the second."""


async def members(cluster: Cluster, topic: str, group: str) -> int:
    """How many members the group has."""
    await check_group(cluster, topic, group)
    return await cluster.members(group_id(topic, group))


async def peek(
    cluster: Cluster,
    wire: Wire,
    isolation: int,
    topic: str,
    group: str | None,
    limit: int,
    newest: bool,
    beyond: Mapping[str, int],
) -> Peek:
    """See :meth:`anybroker.adapter.Inspects.peek`. A lane is a partition of the topic or of the group's inlet.
    ``isolation``: 1 to leave out what is not committed."""
    names = [topic]
    if group is not None:
        await check_group(cluster, topic, group)
        names.append(inlet(topic, group))
    partitions = await cluster.partitions(names)
    if topic not in partitions:
        raise MissingGroup("topics", f"Kafka has no topic {topic!r}", "Declare the topic first.")
    tps = [TopicPartition(name, number) for name, count in partitions.items() for number in range(count)]
    begins = await cluster.offsets(dict.fromkeys(tps, BEGINNING))
    ends = await cluster.offsets(dict.fromkeys(tps, END))
    commits = {} if group is None else (await cluster.positions(group_id(topic, group), tps)).commits
    ranges: dict[TopicPartition, _Range] = {}
    for tp in tps:
        low, high = begins.get(tp, 0), ends.get(tp, 0)
        if tp in commits:
            low = max(low, commits[tp].offset)
        if (last := beyond.get(lane_name(tp))) is not None:
            low, high = (low, min(high, last)) if newest else (max(low, last + 1), high)
        if low < high:
            ranges[tp] = low, high
    look = Look(cluster, wire, isolation)
    by_lane = await (look.last if newest else look.first)(ranges, limit)
    events = merge(*by_lane.values(), key=_stored, reverse=newest)
    notes = {lane_name(tp): commit.metadata for tp, commit in commits.items()}
    return Peek(list(islice(events, limit)), notes=notes)


def _stored(event: Peeked) -> float:
    return event.stored or 0.0


class Look:
    """Reads parts of partitions over the adapter's own connection."""

    def __init__(self, cluster: Cluster, wire: Wire, isolation: int) -> None:
        self._cluster = cluster
        self._wire = wire
        self._isolation = isolation

    async def first(self, ranges: Mapping[TopicPartition, _Range], limit: int) -> dict[TopicPartition, list[Peeked]]:
        """The first ones of each partition, at least ``limit`` if there are so many."""
        found: dict[TopicPartition, list[Peeked]] = {tp: [] for tp in ranges}
        places = {tp: low for tp, (low, _) in ranges.items()}
        while places:
            fetched = await self._cluster.fetch(places)
            following: dict[TopicPartition, int] = {}
            for tp, at in places.items():
                high = ranges[tp][1]
                events, after = self.read(tp, at, *fetched.get(tp, (b"", None)))
                found[tp] += [event for event in events if event.position < high]
                if after < high and len(found[tp]) < limit:
                    following[tp] = after
            if following == places:
                break  # the broker gives no more of these, such as what retention has just deleted
            places = following
        return found

    async def last(self, ranges: Mapping[TopicPartition, _Range], limit: int) -> dict[TopicPartition, list[Peeked]]:
        """The last ones of each partition, newest first. Not every offset has an event, so this looks at ever larger
        parts until they have ``limit``."""
        found: dict[TopicPartition, list[Peeked]] = {}
        left = dict(ranges)
        width = limit
        while left:
            parts = {tp: (max(low, high - width), high) for tp, (low, high) in left.items()}
            for tp, events in (await self.first(parts, width)).items():
                if len(events) >= limit or parts[tp][0] == left[tp][0]:
                    found[tp] = events[::-1]
                    del left[tp]
            width *= 4
        return found

    def read(
        self, tp: TopicPartition, at: int, written: bytes, aborted: Sequence[tuple[int, int]] | None
    ) -> tuple[list[Peeked], int]:
        """The events in these batches from this offset on, and the offset behind them."""
        if not written:
            return [], at
        limit = self._cluster.limit
        records = read_leniently(tp, written, aborted, at, self._isolation, self._wire.read_any, limit)
        lane = lane_name(tp)
        return [
            Peeked(each.event, lane, each.position, each.key, each.headers, each.raw.timestamp / 1000, each.raw)
            for each in records
        ], records.next_fetch_offset
