"""Looking at stored events without claiming them. All of it runs in the store's thread and writes nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from itertools import chain, islice

from anybroker.adapter import HistoryPage, Peek, Peeked
from anybroker.errors import MissingGroup

from .schema import SEGMENT_EVENTS, SHIFT
from .store import Store, Topic
from .topology import before, find_group
from .wire import Segment, decode

__all__ = ["history_extent", "members", "peek", "read_history"]


def members(topic: str, group: str, store: Store) -> int:
    """How many live members the group has, in all processes."""
    group_id, _, _ = find_group(store, topic, group)
    rows = store.execute("SELECT id, wake FROM ab_member WHERE grp = ?", (group_id,)).fetchall()
    return sum(member in store.members or store.bells.has_reader(wake) for member, wake in rows)


def peek(topic: str, group: str | None, limit: int, newest: bool, beyond: Mapping[str, int], store: Store) -> Peek:
    """See :meth:`anybroker.adapter.Inspects.peek`. The topic is one lane; its name is the topic's."""
    row = _topic(topic, store)
    base = row.id << SHIFT
    low, high = base, row.last + 1  # both exclusive
    if topic in beyond:
        low, high = (low, min(high, base + beyond[topic])) if newest else (base + beyond[topic], high)
    look = _Look(store, topic, newest)
    if group is None:
        return Peek(list(islice(look.stored(low, high, None), limit)))
    group_id, _, cursor = find_group(store, topic, group)
    passed = look.passed(low, min(high, cursor + 1), group_id, limit)
    ahead = look.stored(max(low, cursor), high, group_id)
    return Peek(list(islice(chain(ahead, passed) if newest else chain(passed, ahead), limit)))


def history_extent(
    topic: str, since: datetime | None, until: datetime | None, store: Store
) -> dict[str, tuple[int, int]]:
    """See :meth:`anybroker.adapter.ReadsHistory.history_extent`. The topic is one lane."""
    row = _topic(topic, store)
    base = row.id << SHIFT
    begin = before(store, row, since or "earliest") + 1 - base
    end = before(store, row, until or "new") + 1 - base
    return {topic: (begin, max(begin, end))}


def read_history(topic: str, begin: int, end: int, limit: int, store: Store) -> HistoryPage:
    """See :meth:`anybroker.adapter.ReadsHistory.read_history`."""
    base = _topic(topic, store).id << SHIFT
    events = list(islice(_Look(store, topic, False).stored(base + begin - 1, base + end, None), limit))
    return HistoryPage(events, events[-1].position + 1 if len(events) == limit else end)


def _topic(topic: str, store: Store) -> Topic:
    row = store.topic(topic)
    if row is None:
        raise MissingGroup(f"topic {topic!r}", f"is not in {store.path}", "Declare it, or use provision='create'.")
    return row


class _Look:
    """Reads one topic in one direction. The bounds of its calls are exclusive sequence numbers."""

    def __init__(self, store: Store, topic: str, newest: bool) -> None:
        self._store = store
        self._topic = topic
        self._newest = newest
        self._order = "DESC" if newest else "ASC"

    def stored(self, low: int, high: int, group: int | None) -> Iterator[Peeked]:
        """All events between; of those for one group only, those of this group."""
        rows = self._store.execute(
            "SELECT first, count, only_group, meta, body, at FROM ab_segment "
            f"WHERE first > ? AND first < ? AND (only_group IS NULL OR only_group = ?) ORDER BY first {self._order}",
            (low - SEGMENT_EVENTS, high, group),
        )
        for *columns, at in rows:
            segment = Segment(*columns)
            seqs = range(max(segment.first, low + 1), min(segment.last + 1, high))
            for seq in reversed(seqs) if self._newest else seqs:
                yield self._peeked(segment, seq, at)

    def passed(self, low: int, high: int, group: int, limit: int) -> Iterator[Peeked]:
        """The unsettled events that the group's cursor has passed: claimed, parked or delayed."""
        rows = self._store.execute(
            f"SELECT seq FROM ({_UNSETTLED}) WHERE seq > :low AND seq < :high ORDER BY seq {self._order} LIMIT :limit",
            {"group": group, "low": low, "high": high, "limit": limit},
        ).fetchall()
        segment, at = None, 0.0
        for (seq,) in rows:
            if segment is None or not segment.first <= seq <= segment.last:
                *columns, at = self._store.execute(_SEGMENT_OF, {"seq": seq}).fetchone()
                segment = Segment(*columns)
            yield self._peeked(segment, seq, at)

    def _peeked(self, segment: Segment, seq: int, at: float) -> Peeked:
        index = seq - segment.first
        row = segment.rows[index]
        event, headers = decode(row, segment.body(index))
        return Peeked(event, self._topic, seq & (1 << SHIFT) - 1, row[5], headers, at, row)


_UNSETTLED = """
SELECT seq FROM ab_claim WHERE grp = :group UNION ALL SELECT seq FROM ab_parked WHERE grp = :group
UNION ALL SELECT seq FROM ab_delayed WHERE grp = :group
"""
_SEGMENT_OF = """
SELECT first, count, only_group, meta, body, at FROM ab_segment
WHERE first BETWEEN (:seq >> 40 << 40) AND :seq ORDER BY first DESC LIMIT 1
"""
