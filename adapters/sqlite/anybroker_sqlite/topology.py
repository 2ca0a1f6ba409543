"""Topics and groups, and what an administrator asks of them. All of it runs in the store's thread."""

from __future__ import annotations

import time
from math import inf

from anybroker.adapter import Backlog, GroupSpec, Start, SubscriptionSpec, TopicSpec, Topology, age_since
from anybroker.errors import ConfigError, MissingGroup

from .age import oldest
from .claims import release_dead
from .schema import SEGMENT_EVENTS, SHIFT
from .store import Store, Topic

__all__ = ["backlog", "before", "declare", "find_group", "groups", "join", "seek"]


def declare(topology: Topology, create: bool, store: Store) -> None:
    for spec in topology.topics:
        topic = store.topic(spec.name)
        if topic is None:
            if not create:
                raise ConfigError(f"topic {spec.name!r}", f"is not in {store.path}", "Start with provision='create'.")
            topic = _create_topic(store, spec)
        _same_topic(spec, topic, store)
        for group in spec.groups:
            _declare_group(store, topic, group, create)


def _create_topic(store: Store, spec: TopicSpec) -> Topic:
    cursor = store.execute(
        "INSERT INTO ab_topic(name, ordered, retention, last) VALUES (?, ?, ?, 0)",
        (spec.name, spec.ordered, spec.retention),
    )
    store.execute("UPDATE ab_topic SET last = id << ? WHERE id = ?", (SHIFT, cursor.lastrowid))
    topic = store.topic(spec.name)
    assert topic is not None
    return topic


def _same_topic(spec: TopicSpec, topic: Topic, store: Store) -> None:
    """An existing topic is never changed: neither its order nor how long it keeps its events."""
    if bool(topic.ordered) != spec.ordered:
        raise ConfigError(
            f"topic {spec.name!r}",
            f"exists with ordered={bool(topic.ordered)}, but is declared with ordered={spec.ordered}",
            "Use the same setting everywhere, or another topic.",
        )
    if spec.retention is not None and topic.retention != spec.retention:
        raise ConfigError(
            f"topic {spec.name!r}",
            f"exists with retention={topic.retention}, but is declared with retention={spec.retention} (seconds)",
            f"Use the same setting everywhere, or change it once: sqlite3 {store.path} "
            f'"UPDATE ab_topic SET retention = {"9e999" if spec.retention == inf else spec.retention} '
            f"WHERE name = '{spec.name}'\".",
        )


def _declare_group(store: Store, topic: Topic, spec: GroupSpec, create: bool) -> None:
    row = store.execute("SELECT ordered FROM ab_group WHERE topic = ? AND name = ?", (topic.id, spec.name)).fetchone()
    name = f"group {spec.name!r} of topic {topic.name!r}"
    if row is None:
        if not create:
            raise ConfigError(name, f"is not in {store.path}", "Start with provision='create'.")
        store.execute(
            "INSERT INTO ab_group(topic, name, ordered, cursor) VALUES (?, ?, ?, ?)",
            (topic.id, spec.name, spec.ordered, before(store, topic, spec.start)),
        )
    elif bool(row[0]) != spec.ordered:
        raise ConfigError(
            name,
            f"exists with ordered={bool(row[0])}, but is declared with ordered={spec.ordered}",
            "Use the same setting for all members, or another group name.",
        )


def before(store: Store, topic: Topic, start: Start) -> int:
    """The sequence number after which what was stored at this moment, or later, begins."""
    if start == "new":
        return topic.last
    at = 0.0 if start == "earliest" else start.timestamp()
    row = store.execute(
        "SELECT first FROM ab_segment WHERE first BETWEEN ? AND ? AND at >= ? ORDER BY first LIMIT 1",
        (topic.id << SHIFT, topic.last, at),
    ).fetchone()
    return topic.last if row is None else int(row[0]) - 1


def find_group(store: Store, topic: str, group: str) -> tuple[int, int, int]:
    """Its id, whether it is ordered, its cursor."""
    row = store.execute(
        "SELECT g.id, g.ordered, g.cursor FROM ab_group g JOIN ab_topic t ON t.id = g.topic "
        "WHERE t.name = ? AND g.name = ?",
        (topic, group),
    ).fetchone()
    if row is None:
        raise MissingGroup(
            f"group {group!r} of topic {topic!r}", f"is not in {store.path}", "Declare it, or use provision='create'."
        )
    return row  # type: ignore[no-any-return]


def join(spec: SubscriptionSpec, member: int, wake: str, store: Store) -> int:
    group, ordered, _ = find_group(store, spec.topic, spec.group)
    if bool(ordered) != spec.ordered:
        raise ConfigError(
            f"group {spec.group!r} of topic {spec.topic!r}",
            f"exists with ordered={bool(ordered)}, but is subscribed to with ordered={spec.ordered}",
            "Use the same setting for all members, or another group name.",
        )
    release_dead(store, group)
    store.execute("INSERT INTO ab_member(id, grp, wake) VALUES (?, ?, ?)", (member, group, wake))
    return group


def backlog(topic: str, group: str, store: Store) -> Backlog:
    id_, _, cursor = find_group(store, topic, group)
    waiting, in_flight = store.execute(
        """
        SELECT (SELECT coalesce(sum(min(count, first + count - 1 - :cursor)), 0) FROM ab_segment
                WHERE first BETWEEN :cursor + 1 - :most AND ((:cursor >> 40) + 1 << 40) - 1
                    AND first + count - 1 > :cursor AND (only_group IS NULL OR only_group = :group))
            + (SELECT count(*) FROM ab_parked WHERE grp = :group)
            + (SELECT count(*) FROM ab_delayed WHERE grp = :group),
            (SELECT count(*) FROM ab_claim WHERE grp = :group)
        """,
        {"group": id_, "cursor": cursor, "most": SEGMENT_EVENTS},
    ).fetchone()
    return Backlog(waiting, in_flight, age_since(oldest(store, id_, cursor)))


def seek(topic: str, group: str, to: Start, store: Store) -> None:
    id_, _, _ = find_group(store, topic, group)
    release_dead(store, id_)
    if store.execute("SELECT 1 FROM ab_member WHERE grp = ?", (id_,)).fetchone():
        raise ConfigError(f"group {group!r} of topic {topic!r}", "still has members", "Stop its consumers first.")
    row = store.topic(topic)
    assert row is not None  # its group exists
    if not isinstance(to, str) and to.timestamp() <= row.trimmed:
        oldest = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(row.trimmed))
        raise ConfigError("to", f"topic {topic!r} does not reach back to {to}: events up to {oldest} are deleted")
    for table in ("ab_claim", "ab_parked", "ab_delayed"):
        store.execute(f"DELETE FROM {table} WHERE grp = ?", (id_,))
    store.execute("UPDATE ab_group SET cursor = ? WHERE id = ?", (before(store, row, to), id_))


def groups(store: Store) -> dict[str, list[str]]:
    listed: dict[str, list[str]] = {}
    for topic, group in store.execute("SELECT t.name, g.name FROM ab_topic t LEFT JOIN ab_group g ON g.topic = t.id"):
        listed.setdefault(topic, []).extend([] if group is None else [group])
    return listed
