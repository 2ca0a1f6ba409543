"""What must hold of a run: pure functions over its history and what the tables said at the end.

Beside ``fault`` and ``over`` (:mod:`anybroker_contract.faults.history`) the history has ``sent`` (a relay got the
broker's receipt: ``topic``, ``id``), ``arrive`` (the last service was handed it by the broker: ``topic``, ``id``,
``key``, ``n``) and ``table`` (``name``, ``rows``). Of each key, ``n`` grows in the order of the sales.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Any, NamedTuple

from ..faults.history import History, Record
from .tables import CHARGES, ORDERS

__all__ = [
    "Arrival",
    "Counted",
    "Story",
    "booked",
    "effects",
    "inversions",
    "left_behind",
    "never_sold",
    "repeats",
    "rows",
    "unexplained",
    "wire",
]

AFTER = 1.0
"""Seconds after the end of a fault in which it explains that something is sent again."""


class Arrival(NamedTuple):
    """Something with a place in the order of its key."""

    topic: str
    id: str
    key: str
    n: int


class Effect(NamedTuple):
    """A row of the effects."""

    consumer: str
    source: str
    id: str
    key: str
    n: int


class Written(NamedTuple):
    """A row that was written into the outbox and committed."""

    topic: str
    id: str
    key: str
    of: str | None
    """The order that it bills."""


@dataclass
class Story:
    """A run, as the checkers read it."""

    history: History

    def _table(self, name: str) -> list[Any]:
        found = [record.facts["rows"] for record in self.history.records if _is_table(record, name)]
        return [row for rows in found for row in rows]

    @cached_property
    def sales(self) -> dict[str, tuple[str, int]]:
        """Key and number of what was sold."""
        return {id_: (key, n) for id_, key, n in self._table("sales")}

    @cached_property
    def effects(self) -> list[Effect]:
        """In the order in which they were made."""
        return [Effect(*row) for row in self._table("effects")]

    @cached_property
    def written(self) -> list[Written]:
        """Rows of the outbox, also those that were deleted since."""
        return [Written(*row) for row in self._table("rows")]

    @cached_property
    def arrivals(self) -> list[Arrival]:
        """In the order in which the last service was handed them."""
        return [Arrival(**record.facts) for record in self.history.records if record.what == "arrive"]

    @cached_property
    def sent(self) -> list[tuple[str, str, float]]:
        """Topic, id and time of what a relay has sent."""
        return [
            (record.facts["topic"], record.facts["id"], record.t)
            for record in self.history.records
            if record.what == "sent"
        ]

    @property
    def left(self) -> list[str]:
        """What was still in the outbox."""
        return [f"{topic}/{id_}" for topic, id_ in self._table("left")]


def _is_table(record: Record, name: str) -> bool:
    return record.what == "table" and record.facts["name"] == name


@dataclass(frozen=True)
class Counted:
    """What is to be there once."""

    none: list[str] = field(default_factory=list)
    several: list[str] = field(default_factory=list)


def _counted(wanted: Iterable[str], found: Iterable[str]) -> Counted:
    counts = Counter(found)
    return Counted([id_ for id_ in wanted if not counts[id_]], [id_ for id_, count in counts.items() if count > 1])


def effects(story: Story) -> Counted:
    """Each sale has one effect of the workers."""
    return _counted(story.sales, (each.id for each in story.effects if each.consumer == "billing"))


def rows(story: Story) -> Counted:
    """Each sale has one row of its own ever, and each effect of the workers one of what it published."""
    orders = [row.id for row in story.written if row.topic == ORDERS]
    charges = [f"of {row.of}" for row in story.written if row.topic == CHARGES]
    ids = Counter(row.id for row in story.written if row.topic == CHARGES)
    wanted = {f"of {each.id}" for each in story.effects if each.consumer == "billing"}
    first, second = _counted(story.sales, orders), _counted(sorted(wanted), charges)
    again = [id_ for id_, count in ids.items() if count > 1]
    return Counted([*first.none, *second.none], [*first.several, *second.several, *again])


def wire(story: Story) -> list[str]:
    """Rows that never arrived."""
    arrived = {(each.topic, each.id) for each in story.arrivals}
    return [f"{row.topic}/{row.id}" for row in story.written if (row.topic, row.id) not in arrived]


def booked(story: Story) -> Counted:
    """Each charge has one effect behind the inbox of the last service."""
    wanted = (row.id for row in story.written if row.topic == CHARGES)
    return _counted(wanted, (each.id for each in story.effects if each.consumer == "ledger"))


def never_sold(story: Story) -> list[str]:
    """What arrived, or had an effect, and was rolled back or never written."""
    rows_ = {(row.topic, row.id) for row in story.written}
    arrived = {f"{each.topic}/{each.id}" for each in story.arrivals if (each.topic, each.id) not in rows_}
    of_nobody = {f"{row.topic}/{row.id}" for row in story.written if row.topic == ORDERS and row.id not in story.sales}
    billed = {
        f"effect/{each.id}" for each in story.effects if each.consumer == "billing" and each.id not in story.sales
    }
    return sorted(arrived | of_nobody | billed)


def inversions(story: Story) -> list[str]:
    """First arrivals of a key, and effects, that came after a later one of it."""
    made = [Arrival(f"effects of {each.consumer}", each.id, each.key, each.n) for each in story.effects]
    highest: dict[tuple[str, str], int] = {}
    seen: set[tuple[str, str]] = set()
    found: list[str] = []
    for each in [*story.arrivals, *made]:
        if (each.topic, each.id) in seen:
            continue
        seen.add((each.topic, each.id))
        before = highest.get((each.topic, each.key), -1)
        if each.n < before:
            found.append(f"{each.topic}: {each.key} {before} before {each.n}")
        highest[each.topic, each.key] = max(before, each.n)
    return found


def repeats(story: Story) -> dict[tuple[str, str], list[float]]:
    """When each event that was sent more than once was sent."""
    times: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
    for topic, id_, when in story.sent:
        times[topic, id_].append(when)
    return {event: sorted(when) for event, when in times.items() if len(when) > 1}


def unexplained(story: Story) -> list[str]:
    """Events that were sent again although nothing had happened between the two times: no relay was killed or lost its
    lease, neither server was restarted."""
    faults = [(fault.begin, fault.end + AFTER) for fault in story.history.faults]
    return [
        f"{topic}/{id_}"
        for (topic, id_), times in repeats(story).items()
        for first, second in pairwise(times)
        if not any(begin <= second and first <= end for begin, end in faults)
    ]


def left_behind(story: Story) -> list[str]:
    """What nobody relayed."""
    return story.left
