"""Retention: what is old and finished is deleted, in small pieces."""

from __future__ import annotations

import time
from itertools import takewhile

from .schema import SHIFT
from .store import Store, Topic

__all__ = ["trim"]


def trim(store: Store, topic: Topic) -> None:
    """Delete some of the events that are older than the topic's retention and finished by all its groups. Called with
    each publish, and cheap most of the time."""
    now = time.monotonic()
    if now < store.next_trim.get(topic.id, 0.0):
        return
    keep = store.settings.retention if topic.retention is None else topic.retention
    keep = max(keep, store.settings.deduplication_window)
    store.next_trim[topic.id] = now + min(max(keep / 10, 0.1), 5.0)
    before = time.time() - keep
    base = topic.id << SHIFT
    oldest = store.execute(
        "SELECT first, count, at FROM ab_segment WHERE first BETWEEN ? AND ? ORDER BY first LIMIT 64",
        (base, topic.last),
    ).fetchall()
    if not oldest or oldest[0][2] >= before:
        return
    (horizon,) = store.execute(_HORIZON, (topic.id,)).fetchone()
    done = list(takewhile(lambda row: row[2] < before and (horizon is None or row[0] + row[1] - 1 <= horizon), oldest))
    if not done:
        return
    store.execute("DELETE FROM ab_segment WHERE first BETWEEN ? AND ?", (done[0][0], done[-1][0]))
    store.execute("UPDATE ab_topic SET trimmed = ? WHERE id = ?", (max(row[2] for row in done), topic.id))
    if len(done) == len(oldest):
        del store.next_trim[topic.id]  # there may be more


_HORIZON = """
SELECT min(CASE WHEN open IS NULL OR cursor < open THEN cursor ELSE open - 1 END) FROM (
    SELECT g.cursor AS cursor, (SELECT min(seq) FROM (
        SELECT min(seq) AS seq FROM ab_claim WHERE grp = g.id
        UNION ALL SELECT min(seq) FROM ab_parked WHERE grp = g.id
        UNION ALL SELECT min(seq) FROM ab_delayed WHERE grp = g.id)) AS open
    FROM ab_group g WHERE g.topic = ?)
"""
"""The sequence number up to which all groups of a topic have finished."""
