"""Claims: which member has which events, and in what order they are delivered. All of it runs in the store's thread.

One rule keeps the order of a key, inside the transaction of the claim: an event is not delivered while another member
has open claims on its key. It is put aside (``ab_parked``) and delivered, in sequence, once the key is free.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import repeat
from typing import TypeAlias

from pydantic_core import to_json

from anybroker.adapter import Ack, Inbound, Lane, Release, Settlement
from anybroker.errors import BrokerError, LeaseLost, Unavailable

from .retention import trim
from .store import Store
from .wire import Segment

__all__ = ["Member", "Taken", "leave", "release_dead"]

_MAX_PARKED = 10_000
"""When this many events wait for keys of other members, a member stops looking further ahead."""
_MAX_PASSED_OVER = 2_048
"""A claim ends after putting this many events aside, to keep transactions short."""
_MAX_BYTES = 32 * 1024 * 1024
"""A claim ends after this many bytes of bodies."""

_Claim: TypeAlias = tuple[int, str | None, int, int]
"""Sequence number, key, attempts, deliveries."""


Taken: TypeAlias = tuple[int, int, int, Segment]
"""A claimed event: sequence number, attempts, deliveries, and the segment that holds it."""


class Member:
    """One member's claims."""

    def __init__(self, member: int, group: int, topic: str, ordered: bool, lane: Lane, lease: float) -> None:
        self.member = member
        self.group = group
        self._own = {"group": group, "member": member}
        self._topic = topic
        self._ordered = ordered
        self._lane = lane
        self._lease = lease
        self._open: dict[int, int] = {}
        """Claimed and not settled: the number of deliveries by sequence number."""
        self._handled: set[int] = set()
        """Sequence numbers of events whose ack is not known to be committed."""
        self._epoch = -1
        self._lost = 0
        self._segment: Segment | None = None
        self._next_check = 0.0

    # ------------------------------------------------------------------------------------------------ claiming

    def claim(self, limit: int, store: Store) -> tuple[list[Taken], float]:
        """Claim up to ``limit`` events. The second value: the seconds after which to try again if there were none."""
        now, wall = time.monotonic(), time.time()
        group, member = self.group, self.member
        if now >= self._next_check:
            self._next_check = now + store.settings.poll
            release_dead(store, group)
            topic = store.topic(self._topic)
            if topic is not None:
                trim(store, topic)
        row = store.execute(_STATE, {"group": group, "member": member, "now": now}).fetchone()
        if row is None:
            raise LeaseLost(f"another member removed this receiver of {self._topic!r}, because its FIFO is gone")
        lost, hungry, cursor, last, due, parked, shared, yielding = row
        self._refresh(store, lost)
        if due is not None and due <= wall:
            store.execute(_FALL_DUE, {"group": group, "now": wall})
            store.execute(_FALLEN_DUE, {"group": group, "now": wall})
            parked = 1
        poll = store.settings.poll
        if yielding and self._ordered and self._open and hungry <= now:
            return [], poll  # another member waits for keys, and this one has work: that one chooses first
        taken: list[Taken] = []
        ahead = not parked or self._take_parked(store, limit, taken)
        more = False
        if ahead and cursor < last:
            blocked = {key for (key,) in store.execute(_OTHERS, self._own)} if shared and self._ordered else set()
            more = self._take_new(store, limit, cursor, last, wall, blocked, taken)
        if taken:
            self._open.update([(seq, deliveries) for seq, _, deliveries, _ in taken])
            if hungry:
                store.execute("UPDATE ab_member SET hungry = 0 WHERE id = ?", (member,))
            return taken, 0.0
        due, waiting = store.execute(_AHEAD, self._own).fetchone()
        if waiting:
            store.execute("UPDATE ab_member SET hungry = ? WHERE id = ?", (now + 2 * poll, member))
        return taken, 0.0 if more else poll if due is None else max(due - wall, 0.0)

    def _take_parked(self, store: Store, limit: int, taken: list[Taken]) -> bool:
        """Claim events that were put aside and are free now. Returns whether to look further ahead: later events may be
        claimed only after all of these."""
        group = self.group
        ready = _READY if self._ordered else _READY_UNORDERED
        rows = store.execute(ready, {**self._own, "limit": limit}).fetchall()
        claims: list[_Claim] = []
        size = 0
        for row in rows:
            seq, _, attempts, deliveries = row
            segment = store.segment(seq)
            if segment is None or segment.first > seq:
                raise Unavailable(f"{store.path} is damaged: event {seq} is gone before group {group} received it")
            size += segment.rows[seq - segment.first][6] or 0
            if claims and size > _MAX_BYTES:
                break
            claims.append(row)
            taken.append((seq, attempts, deliveries, segment))
        if claims:
            self._add(store, claims)
            seqs = to_json([claim[0] for claim in claims]).decode()
            store.execute(
                "DELETE FROM ab_parked WHERE grp = ? AND seq IN (SELECT value FROM json_each(?))", (group, seqs)
            )
        if len(claims) < len(rows) or len(claims) == limit:
            return False
        (left,) = store.execute(_COUNT_PARKED, (group, _MAX_PARKED)).fetchone()
        return bool(left < _MAX_PARKED)

    def _take_new(
        self, store: Store, limit: int, cursor: int, last: int, wall: float, blocked: set[str], taken: list[Taken]
    ) -> bool:
        """Claim events beyond the cursor. True: it stopped before the end of the topic."""
        seq = cursor + 1
        segment = self._segment
        size = passed_over = 0
        aside: list[tuple[int, str | None]] = []
        later: list[tuple[int, str | None, float]] = []
        while seq <= last and len(taken) < limit and size < _MAX_BYTES and passed_over < _MAX_PASSED_OVER:
            segment = store.segment(seq) if segment is None else store.following(segment, seq)
            if segment is None:
                seq = last + 1
                break
            if segment.only_group is not None and segment.only_group != self.group:
                seq = segment.last + 1
                continue
            first = seq = max(seq, segment.first)
            at = seq - segment.first
            rows = segment.rows[at : at + limit - len(taken)]
            if not blocked and not segment.delayed:  # the usual case: all of them, without checking each
                keys = [row[5] if self._ordered else None for row in rows]
                until = time.monotonic() + self._lease
                run = {"first": first, "until": until, "keys": to_json(keys).decode()}
                store.execute(_CLAIM_RUN, {**self._own, **run})
                seq += len(rows)
                size += segment.bytes_of(at, at + len(rows))
                taken += zip(range(first, seq), repeat(0), repeat(1), repeat(segment), strict=False)
                continue
            claims: list[_Claim] = []
            for row in rows:
                key = row[5] if self._ordered else None
                more = row[7]
                if more is not None and more.get("due", 0.0) > wall:
                    later.append((seq, key, more["due"]))
                elif key in blocked:
                    aside.append((seq, key))
                else:
                    claims.append((seq, key, 0, 1))
                    size += row[6] or 0
                seq += 1
            passed_over += len(rows) - len(claims)
            if claims:
                self._add(store, claims)
                taken += [(claim[0], 0, 1, segment) for claim in claims]
        self._segment = segment
        if aside:
            store.execute(_PUT_ASIDE, {**self._own, "events": to_json(aside).decode()})
        if later:
            store.execute(_PUT_LATER, {**self._own, "events": to_json(later).decode()})
        store.execute("UPDATE ab_group SET cursor = ? WHERE id = ?", (seq - 1, self.group))
        return seq <= last

    def _add(self, store: Store, claims: list[_Claim]) -> None:
        until = time.monotonic() + self._lease
        store.execute(_CLAIM, {**self._own, "until": until, "claims": to_json(claims).decode()})

    def _refresh(self, store: Store, lost: int) -> None:
        """Read this member's claims again after a rollback, or after another member took some away."""
        if lost == self._lost and store.epoch == self._epoch:
            return
        self._lost, self._epoch, self._segment = lost, store.epoch, None
        rows = store.execute(
            "SELECT seq, deliveries FROM ab_claim WHERE grp = ? AND owner = ?", (self.group, self.member)
        ).fetchall()
        self._open = dict(rows)

    # ------------------------------------------------------------------------------------------------ settling

    def settle(self, batch: Sequence[Settlement], store: Store) -> list[BrokerError | None]:
        group, member, lane = self.group, self.member, self._lane
        row = store.execute(_MEMBER, self._own).fetchone()
        self._refresh(store, -1 if row is None else row[0])
        opened = self._open
        results: list[BrokerError | None] = []
        acked: list[int] = []
        released: list[tuple[int, int, float]] = []
        for item in batch:
            inbound = item.inbound  # type: ignore[union-attr]  # a PER_MESSAGE receiver gets no Commit
            seq = inbound.token
            if inbound.lane is not lane or opened.get(seq) != inbound.deliveries:
                results.append(
                    LeaseLost(f"event {inbound.position} of {self._topic!r} no longer belongs to this receiver")
                )
                continue
            del opened[seq]
            results.append(None)
            if isinstance(item, Ack):
                acked.append(seq)
            elif isinstance(item, Release):
                released.append((seq, item.attempts, item.delay))
        if released:
            self._release(store, released)
            acked += [seq for seq, _, _ in released]
        if acked:
            first, last = min(acked), max(acked)
            if last - first + 1 == len(acked):
                store.execute(
                    "DELETE FROM ab_claim WHERE grp = ? AND owner = ? AND seq BETWEEN ? AND ?",
                    (group, member, first, last),
                )
            else:
                store.execute(_UNCLAIM, {**self._own, "events": to_json(acked).decode()})
            if released or (row is not None and row[1]):
                store.wake_group(group)  # events given back, or events that waited for these keys
        return results

    def _release(self, store: Store, released: list[tuple[int, int, float]]) -> None:
        wall = time.time()
        now = [(seq, attempts) for seq, attempts, delay in released if delay <= 0]
        later = [(seq, attempts, wall + delay) for seq, attempts, delay in released if delay > 0]
        if now:
            store.execute(_GIVE_BACK, {**self._own, "events": to_json(now).decode()})
        if later:
            store.execute(_GIVE_BACK_LATER, {**self._own, "events": to_json(later).decode()})

    def settling(self, batch: Sequence[Settlement]) -> None:
        """In the event loop, before :meth:`settle`: remember which events are handled, even if settling fails."""
        self._handled.update(item.inbound.token for item in batch if isinstance(item, Ack))

    def settled(self, batch: Sequence[Settlement]) -> None:
        """In the event loop: the transaction of that settlement is committed."""
        self._handled.difference_update(item.inbound.token for item in batch if isinstance(item, Ack))

    def leave(self, store: Store) -> None:
        """Give back what is not handled, and ack what is handled but could not be acked before."""
        if self._handled:
            store.execute(_UNCLAIM, {**self._own, "events": to_json(sorted(self._handled)).decode()})
        leave(self.group, self.member, store)

    def extend(self, batch: Sequence[Inbound], store: Store) -> list[BrokerError | None]:
        row = store.execute(_MEMBER, self._own).fetchone()
        self._refresh(store, -1 if row is None else row[0])
        opened = self._open
        ours = [item for item in batch if item.lane is self._lane and opened.get(item.token) == item.deliveries]
        if ours:
            until, seqs = time.monotonic() + self._lease, to_json([item.token for item in ours]).decode()
            store.execute(_EXTEND, {**self._own, "events": seqs, "until": until})
        kept = set(map(id, ours))
        return [
            None
            if id(item) in kept
            else LeaseLost(f"event {item.position} of {self._topic!r} no longer belongs to this receiver")
            for item in batch
        ]


def leave(group: int, member: int, store: Store) -> None:
    """Give back all claims of a member and delete the member. Idempotent."""
    store.execute(_GIVE_ALL_BACK, (group, member))
    store.execute("DELETE FROM ab_claim WHERE grp = ? AND owner = ?", (group, member))
    store.execute("DELETE FROM ab_member WHERE id = ?", (member,))
    store.wake_group(group)


def release_dead(store: Store, group: int) -> None:
    """Give back the claims of dead members, and claims whose lease has expired."""
    for member, wake in store.execute("SELECT id, wake FROM ab_member WHERE grp = ?", (group,)).fetchall():
        if member not in store.members and not store.bells.has_reader(wake):
            leave(group, member, store)
            store.bells.remove(wake)
    at = {"group": group, "now": time.monotonic()}
    expired = store.execute(_EXPIRED, at).fetchall()
    if expired:
        store.execute(_GIVE_EXPIRED_BACK, at)
        store.execute(_DROP_EXPIRED, at)
        for (member,) in expired:
            store.execute("UPDATE ab_member SET lost = lost + 1 WHERE id = ?", (member,))
        store.wake_group(group)


_STATE = """
SELECT m.lost, m.hungry, g.cursor, t.last,
    (SELECT min(due) FROM ab_delayed WHERE grp = :group),
    EXISTS (SELECT 1 FROM ab_parked WHERE grp = :group),
    EXISTS (SELECT 1 FROM ab_claim WHERE grp = :group AND owner < :member)
        OR EXISTS (SELECT 1 FROM ab_claim WHERE grp = :group AND owner > :member),
    EXISTS (SELECT 1 FROM ab_member WHERE grp = :group AND id <> :member AND hungry > :now)
FROM ab_member m JOIN ab_group g ON g.id = m.grp JOIN ab_topic t ON t.id = g.topic WHERE m.id = :member
"""
_MEMBER = "SELECT lost, EXISTS (SELECT 1 FROM ab_parked WHERE grp = :group) FROM ab_member WHERE id = :member"
_FALL_DUE = """
INSERT INTO ab_parked(grp, seq, key, attempts, deliveries)
SELECT grp, seq, key, attempts, deliveries FROM ab_delayed WHERE grp = :group AND due <= :now
ORDER BY due, seq LIMIT 10000
"""
_FALLEN_DUE = """
DELETE FROM ab_delayed WHERE grp = :group AND (due, seq) IN
    (SELECT due, seq FROM ab_delayed WHERE grp = :group AND due <= :now ORDER BY due, seq LIMIT 10000)
"""
_OTHERS = """
SELECT DISTINCT key FROM ab_claim WHERE grp = :group AND owner < :member AND key IS NOT NULL
UNION SELECT DISTINCT key FROM ab_claim WHERE grp = :group AND owner > :member AND key IS NOT NULL
"""
_READY = f"""
SELECT seq, key, attempts, deliveries + 1 FROM ab_parked
WHERE grp = :group AND (key IS NULL OR key NOT IN ({_OTHERS})) ORDER BY seq LIMIT :limit
"""
_READY_UNORDERED = """
SELECT seq, key, attempts, deliveries + 1 FROM ab_parked WHERE grp = :group ORDER BY seq LIMIT :limit
"""
_COUNT_PARKED = "SELECT count(*) FROM (SELECT 1 FROM ab_parked WHERE grp = ? LIMIT ?)"
_AHEAD = """
SELECT (SELECT min(due) FROM ab_delayed WHERE grp = :group), EXISTS (SELECT 1 FROM ab_parked WHERE grp = :group)
"""
_CLAIM = """
INSERT INTO ab_claim(grp, owner, seq, key, until, attempts, deliveries)
SELECT :group, :member, value ->> 0, value ->> 1, :until, value ->> 2, value ->> 3 FROM json_each(:claims)
"""
_CLAIM_RUN = """
INSERT INTO ab_claim(grp, owner, seq, key, until, attempts, deliveries)
SELECT :group, :member, :first + key, value, :until, 0, 1 FROM json_each(:keys)
"""
_PUT_ASIDE = """
INSERT INTO ab_parked(grp, seq, key, attempts, deliveries)
SELECT :group, value ->> 0, value ->> 1, 0, 0 FROM json_each(:events)
"""
_PUT_LATER = """
INSERT INTO ab_delayed(grp, due, seq, key, attempts, deliveries)
SELECT :group, value ->> 2, value ->> 0, value ->> 1, 0, 0 FROM json_each(:events)
"""
_UNCLAIM = (
    "DELETE FROM ab_claim WHERE grp = :group AND owner = :member AND seq IN (SELECT value FROM json_each(:events))"
)
_GIVE_BACK = """
INSERT INTO ab_parked(grp, seq, key, attempts, deliveries)
SELECT c.grp, c.seq, c.key, j.value ->> 1, c.deliveries
FROM json_each(:events) j JOIN ab_claim c ON c.grp = :group AND c.owner = :member AND c.seq = j.value ->> 0
"""
_GIVE_BACK_LATER = """
INSERT INTO ab_delayed(grp, due, seq, key, attempts, deliveries)
SELECT c.grp, j.value ->> 2, c.seq, c.key, j.value ->> 1, c.deliveries
FROM json_each(:events) j JOIN ab_claim c ON c.grp = :group AND c.owner = :member AND c.seq = j.value ->> 0
"""
_GIVE_ALL_BACK = """
INSERT INTO ab_parked(grp, seq, key, attempts, deliveries)
SELECT grp, seq, key, attempts, deliveries FROM ab_claim WHERE grp = ? AND owner = ?
"""
_EXTEND = """
UPDATE ab_claim SET until = :until
WHERE grp = :group AND owner = :member AND seq IN (SELECT value FROM json_each(:events))
"""
_EXPIRED = "SELECT DISTINCT owner FROM ab_claim WHERE grp = :group AND until < :now"
# An expired claim takes the member's other claims of the same key with it, so that later events do not overtake it.
_STALE = """
grp = :group AND (until < :now OR (key IS NOT NULL AND (owner, key) IN
    (SELECT owner, key FROM ab_claim WHERE grp = :group AND until < :now)))
"""
_GIVE_EXPIRED_BACK = f"""
INSERT INTO ab_parked(grp, seq, key, attempts, deliveries)
SELECT grp, seq, key, attempts, deliveries FROM ab_claim WHERE {_STALE}
"""
_DROP_EXPIRED = f"DELETE FROM ab_claim WHERE {_STALE}"
