"""What must hold of a run: pure functions over its history, each with a self-test on a seeded bug."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from .. import _checkers
from .._checkers import Handling
from .history import Fault, History, Publish

__all__ = [
    "AFTER",
    "GRACE",
    "Duplicates",
    "Lost",
    "Recovery",
    "Unresolved",
    "buried",
    "duplicates",
    "invented",
    "inversions",
    "lost",
    "recoveries",
    "take_overs",
    "unresolved",
]

AFTER = 5.0
"""Seconds after the end of a fault in which connections are made again, lanes move, and the fault explains a copy."""
_LOOKED_BACK = 5.0
"""Seconds before a fault within which publishes tell how slow the broker was."""
GRACE = 1.0
"""Seconds after its deadline within which a publish must have ended."""


# ------------------------------------------------------------------------------------------------------------- loss


@dataclass(frozen=True)
class Lost:
    """Events with a receipt that no handler finished, and that are not in the dead-letter topic."""

    prefix: list[str] = field(default_factory=list)
    """None of its key before them was handled: the group began too late."""
    middle: list[str] = field(default_factory=list)
    """Others of its key before and after them were handled."""
    postfix: list[str] = field(default_factory=list)
    """None of its key after them was handled: the lane is stuck, or its end is gone."""

    @property
    def ids(self) -> list[str]:
        """All of them."""
        return [*self.prefix, *self.middle, *self.postfix]


def lost(history: History, excused: Collection[str] = ()) -> Lost:
    """Acknowledged, minus effects, minus dead letters, minus ``excused``."""
    ended = history.dead.union(excused)
    done = {handling.id for handling in history.handlings if handling.done} | ended
    missing = _checkers.lost(history.acknowledged, history.handlings)
    place = {id_: at for at, id_ in enumerate(history.publishes)}
    span: dict[str | None, tuple[int, int]] = {}
    for id_ in done:
        publish = history.publishes.get(id_)
        if publish is not None:
            first, last = span.get(publish.key, (place[id_], place[id_]))
            span[publish.key] = min(first, place[id_]), max(last, place[id_])
    found = Lost()
    for id_ in missing:
        if id_ in ended:
            continue
        first, last = span.get(history.publishes[id_].key, (-1, -1))
        part = found.postfix if place[id_] > last else found.prefix if place[id_] < first else found.middle
        part.append(id_)
    return found


def buried(history: History, deleted: str, attempts: int) -> set[str]:
    """Events whose last allowed start had failed before the fault of this name began: their dead letters may have been
    in the dead-letter topic that it deleted."""
    moments = [fault.end for fault in history.faults if fault.name == deleted]
    if not moments:
        return set()
    return {
        handling.id
        for handling in history.handlings
        if handling.failed is not None
        and handling.attempt >= attempts
        and handling.ended is not None
        and handling.ended <= moments[-1]
    }


def invented(history: History) -> list[str]:
    """Ids that a handler, or the dead-letter topic, had and nobody published."""
    found = _checkers.unexpected(history.publishes, history.handlings)
    return sorted({*found, *(history.dead - history.publishes.keys())})


# ------------------------------------------------------------------------------------------------------------ order


def inversions(history: History) -> list[tuple[str, str]]:
    """Pairs of one key whose first starts came in the other order than their publishes began."""
    published = [(publish.key, publish.id) for publish in history.publishes.values()]
    return _checkers.inversions(published, history.handlings)


# ------------------------------------------------------------------------------------------------------- duplicates


@dataclass(frozen=True)
class Duplicates:
    """Events that were handled to the end more than once."""

    counts: dict[str, int] = field(default_factory=dict)
    unexplained: list[str] = field(default_factory=list)
    """Those that were neither unsettled nor being published at a fault."""
    bound: int = 0
    """The most there may be: what was in flight at each fault."""

    @property
    def excess(self) -> int:
        """How many exceed the bound."""
        return max(0, len(self.counts) - self.bound)


def duplicates(history: History, *, lease: float, settle: float, in_flight: int) -> Duplicates:
    """Duplicates, those that no fault explains, and how many may be.

    A fault explains a second effect where the first one was unsettled (it had ended less than ``settle`` seconds before
    the fault, or began up to 5 s after its end, while lanes move), or, where the fault was not one member's, where the
    event was being published (it may be stored twice). A process that was asked to end explains none. A start that
    lasted longer than the ``lease`` explains its own copy.

    ``settle`` is for a broker that answers at once. One that took long to confirm publishes just before the fault took
    as long for settlements, of which one may wait behind the one before: twice that time is added.

    At each fault at most so many may come again as were in flight: what was in a handler, or unsettled, and publishes
    without an outcome; where the fault was one member's, what that one had, and as many as all members together may
    in flight (``in_flight``), because lanes move between the others.

    A fault of a cluster lasts for as long as a server is away, and most of what is handled meanwhile is not in flight
    for longer than ever. So there it is each time that servers were killed, ended or started that counts: what was in
    flight then, and as many as the members may have in flight, whose acknowledgements went to a leader that is none
    any more; beside all publishes without a receipt.
    """
    counts = _checkers.duplicates(history.handlings)
    publishes = list(history.publishes.values())
    faults = {fault: settle + 2 * _slowness(publishes, fault) for fault in history.faults if not fault.graceful}
    flying: set[str] = set()
    others = 0
    for fault, settle_by in faults.items():
        hits = [hit for hit in history.hits if fault.begin <= hit.begin <= fault.end]
        if hits:
            others += in_flight * len(hits)
            flying |= {each.id for each in publishes if each.outcome != "ok" and _under_way(each, fault)}
        elif fault.target is not None:
            others += in_flight
        for moment in hits or [fault]:
            if fault.target is None:
                flying |= {each.id for each in publishes if _under_way(each, moment)}
            flying |= {
                handling.id
                for handling in history.handlings
                if fault.target is None or handling.member == str(fault.target)
                if _in_flight(handling, moment, settle_by, settle_by)
            }
    copies: defaultdict[str, list[Handling]] = defaultdict(list)
    for handling in history.handlings:
        if handling.id in counts and handling.done:
            copies[handling.id].append(handling)
    unexplained = [
        id_
        for id_, starts in copies.items()
        if not all(_explained(history.publishes.get(id_), first, faults, lease) for first in starts[:-1])
    ]
    return Duplicates(counts, unexplained, len(flying) + others)


def _ended(publish: Publish) -> float:
    return float("inf") if publish.ended is None else publish.ended


def _under_way(publish: Publish, fault: Fault) -> bool:
    return publish.began <= fault.end and _ended(publish) >= fault.begin


def _in_flight(handling: Handling, fault: Fault, before: float, after: float) -> bool:
    ended = float("inf") if handling.ended is None else handling.ended
    return ended >= fault.begin - before and handling.started <= fault.end + after


def _slowness(publishes: Iterable[Publish], fault: Fault) -> float:
    """Seconds that the slowest publish took of those that were confirmed shortly before the fault."""
    return max(
        (
            publish.ended - publish.began
            for publish in publishes
            if publish.ended is not None
            if publish.outcome == "ok" and fault.begin - _LOOKED_BACK <= publish.ended <= fault.begin
        ),
        default=0.0,
    )


def _explained(publish: Publish | None, first: Handling, faults: Mapping[Fault, float], lease: float) -> bool:
    if first.ended is None or first.ended - first.started > lease:
        return True
    for fault, settle_by in faults.items():
        if _in_flight(first, fault, settle_by, AFTER):
            return True
        if publish is None or fault.target is not None:
            continue
        if _under_way(publish, fault):
            return True
    return False


# -------------------------------------------------------------------------------------------------------- publishes


@dataclass(frozen=True)
class Unresolved:
    """Publishes that did not end as they must."""

    open: list[str] = field(default_factory=list)
    """No outcome."""
    late: list[str] = field(default_factory=list)
    """An outcome after the deadline."""
    untyped: list[str] = field(default_factory=list)
    """An error that ``publish`` does not promise."""
    unexplained: list[str] = field(default_factory=list)
    """No receipt, although there was no fault of the broker while it was in progress, or shortly before."""

    @property
    def ids(self) -> list[str]:
        """All of them."""
        return [*self.open, *self.late, *self.untyped, *self.unexplained]


def unresolved(history: History, deadline: float) -> Unresolved:
    """Every publish has one outcome, by its deadline and a second, and a failure is one of the three.

    The Bus gives each publish an outcome, whatever the adapter forgets: one whose confirmation never came is unknown at
    its deadline. Only a fault of the broker, or of the way to it, explains that; what is done to a member does not."""
    found = Unresolved()
    faults = [fault for fault in history.faults if fault.target is None]
    for publish in history.publishes.values():
        if publish.outcome is None:
            found.open.append(publish.id)
        elif _ended(publish) - publish.began > deadline + GRACE:
            found.late.append(publish.id)
        elif not publish.typed:
            found.untyped.append(publish.id)
        elif publish.outcome != "ok" and not any(
            _ended(publish) >= fault.begin and publish.began <= fault.end + AFTER for fault in faults
        ):
            found.unexplained.append(publish.id)
    return found


# --------------------------------------------------------------------------------------------------------- recovery


@dataclass(frozen=True)
class Recovery:
    """What happened after the end of a fault; None: nothing was waiting for it, or the next fault came first."""

    fault: Fault
    publishing: float | None
    """Seconds until the next publish was accepted; infinite: none ever was, and some were tried."""
    consuming: float | None
    """Seconds until events were handled again, and every key that had some which were accepted and not handled."""


def recoveries(history: History) -> Iterator[Recovery]:
    """After each fault. A key is handled again when one of its handlers starts or ends.

    Where servers of a cluster were hit, other servers may serve most keys all the time: each key that had a publish
    under way has to be published to, and handled, again.
    """
    faults = history.faults
    accepted = sorted(history.acknowledged.values())
    accepted_of: defaultdict[str | None, list[float]] = defaultdict(list)
    for id_, when in history.acknowledged.items():
        accepted_of[history.publishes[id_].key].append(when)
    for moments in accepted_of.values():
        moments.sort()
    done: dict[str, float] = {}
    moving: defaultdict[str | None, list[float]] = defaultdict(list)
    for handling in history.handlings:
        moving[handling.key].append(handling.started)
        if handling.ended is not None:
            moving[handling.key].append(handling.ended)
        if handling.done and handling.ended is not None and handling.id not in done:
            done[handling.id] = handling.ended
    for moments in moving.values():
        moments.sort()
    starts = sorted(handling.started for handling in history.handlings)
    for at, fault in enumerate(faults):
        until = faults[at + 1].begin if at + 1 < len(faults) else float("inf")
        since = fault.recovers
        publishing = _next(accepted, since)
        tried = any(since < _ended(publish) for publish in history.publishes.values())
        stuck: set[str | None] = set()
        if fault.majority is not None:
            stuck = {each.key for each in history.publishes.values() if each.began <= since < _ended(each)}
            publishing = max([publishing, *(_next(accepted_of[key], since) for key in stuck)])
        waiting = {
            history.publishes[id_].key
            for id_, when in history.acknowledged.items()
            if when <= since and done.get(id_, float("inf")) > since and id_ not in history.dead
        }
        again = [_next(moving[key], since) for key in waiting | stuck]
        if publishing < float("inf"):
            again.append(_next(starts, since))
        consuming = max(again, default=None)
        yield Recovery(
            fault,
            _within(publishing, since, until) if tried else None,
            None if consuming is None else _within(consuming, since, until),
        )


def _kill(fault: Fault) -> bool:
    return fault.target is not None and not fault.graceful


def _next(times: list[float], after: float) -> float:
    """The first time after that one; infinite if there is none."""
    at = bisect_right(times, after)
    return times[at] if at < len(times) else float("inf")


def _within(moment: float, begin: float, until: float) -> float | None:
    """Seconds from the beginning; None where another fault came before that moment."""
    return None if until < moment else moment - begin


def take_overs(history: History) -> dict[int, float]:
    """By process that was killed: seconds until each event in its handlers was started again by another one, infinite
    where one never was. Where other members were killed in between they count from the last of those, because it may
    have been the one that was to take over; where something else was done, they are left out."""
    found: dict[int, float] = {}
    kills = sorted(fault.begin for fault in history.faults if _kill(fault))
    others = sorted(fault.begin for fault in history.faults if not _kill(fault))
    again: defaultdict[str, list[float]] = defaultdict(list)
    for handling in history.handlings:
        again[handling.id].append(handling.started)
    done = {handling.id for handling in history.handlings if handling.done} | history.dead
    held: defaultdict[str, list[Handling]] = defaultdict(list)
    for handling in history.handlings:
        if handling.ended is None:
            held[handling.member].append(handling)
    for fault in history.faults:
        if fault.target is None or not _kill(fault):
            continue
        for handling in held[str(fault.target)]:
            moment = _next(again[handling.id], fault.begin)
            if moment == float("inf") and handling.id in done:
                continue  # it had been handled by another one before, and this start was the copy
            last = max((begin for begin in kills if fault.begin <= begin < moment), default=fault.begin)
            took = _within(moment, last, _next(others, fault.begin))
            if took is not None:
                found[fault.target] = max(found.get(fault.target, 0.0), took)
    return found
