"""Reading what partitions keep, by offset: no group is joined, and no position is committed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

from aiokafka.structs import TopicPartition

from anybroker.adapter import HistoryPage
from anybroker.errors import MissingGroup

from .cluster import BEGINNING, END, Cluster
from .names import lane_name
from .peek import Look
from .wire import Wire

__all__ = ["extent", "read"]

_LOOK_BYTES: Final = 1_048_576
"""How much of a partition is fetched at once."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


async def extent(
    cluster: Cluster, topic: str, since: datetime | None, until: datetime | None
) -> dict[str, tuple[int, int]]:
    """See :meth:`anybroker.adapter.ReadsHistory.history_extent`. A lane is a partition. The end is that of what is
    committed, where only this is read."""
    partitions = await cluster.partitions([topic])
    if topic not in partitions:
        raise MissingGroup("topics", f"Kafka has no topic {topic!r}", "Declare the topic first.")
    tps = [TopicPartition(topic, number) for number in range(partitions[topic])]
    ends = await cluster.offsets(dict.fromkeys(tps, END))
    begins = await cluster.offsets(dict.fromkeys(tps, BEGINNING))
    if since is not None:
        begins = ends | await cluster.offsets(dict.fromkeys(tps, _milliseconds(since)))
    if until is not None:
        ends |= await cluster.offsets(dict.fromkeys(tps, _milliseconds(until)))
    return {lane_name(tp): (begins[tp], max(begins[tp], ends[tp])) for tp in tps}


def _milliseconds(moment: datetime) -> int:
    """The first whole one since the epoch that is not before that moment."""
    return -((_EPOCH - moment) // timedelta(milliseconds=1))


async def read(
    cluster: Cluster, wire: Wire, isolation: int, topic: str, lane: str, begin: int, end: int
) -> HistoryPage:
    """See :meth:`anybroker.adapter.ReadsHistory.read_history`. All that one fetch has is returned."""
    tp = TopicPartition(topic, int(lane.rpartition("/")[2]))
    fetched = await cluster.fetch({tp: begin}, _LOOK_BYTES)
    events, following = Look(cluster, wire, isolation).read(tp, begin, *fetched.get(tp, (b"", None)))
    return HistoryPage([event for event in events if event.position < end], following)
