"""What the checkers say about one run, compared with what must hold."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from . import checkers
from .history import History

__all__ = ["CONSUMING", "MAJORITY", "PUBLISHING", "TAKING_OVER", "Verdict", "judge"]

PUBLISHING = 3.0
"""Seconds after the broker answers again by which a publish is accepted."""
CONSUMING = 10.0
"""Seconds after the broker answers again by which every key is handled again."""
MAJORITY = 5.0
"""Seconds after a majority of a cluster's servers is there by which every key is published to and handled again, beside
those that the servers themselves need to choose a leader."""
TAKING_OVER = 5.0
"""Seconds besides the lease within which others get what a killed member held."""
SHOWN = 5
"""Most ids of a kind that are named."""


@dataclass(frozen=True)
class Verdict:
    """The numbers of a run, and what did not hold."""

    published: int = 0
    accepted: int = 0
    lost: int = 0
    invented: int = 0
    inversions: int = 0
    duplicates: int = 0
    bound: int = 0
    dead: int = 0
    publishing: float | None = None
    """The longest time until publishing worked again after a fault, in seconds."""
    consuming: float | None = None
    """The same for consuming, and for taking over after a member was killed."""
    problems: list[str] = field(default_factory=list)
    """What did not hold; empty: all held."""
    error: str | None = None
    """Why the run itself failed."""

    @property
    def word(self) -> str:
        """In the table."""
        return "failed" if self.error is not None else "did not hold" if self.problems else "held"

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "verdict": self.word,
            "published": self.published,
            "accepted": self.accepted,
            "lost": self.lost,
            "invented": self.invented,
            "inversions": self.inversions,
            "duplicates": self.duplicates,
            "duplicates_bound": self.bound,
            "dead_letters": self.dead,
            "publishing_again_seconds": self.publishing,
            "consuming_again_seconds": self.consuming,
            "problems": self.problems,
            "error": self.error,
        }


def judge(history: History, *, attempts: int, notes: Sequence[str] = ()) -> Verdict:
    """Run every checker. ``attempts``: starts after which a failing event is dead-lettered."""
    settings = history.settings
    lease: float = settings["lease"]
    problems = list(notes)
    lost = checkers.lost(history, checkers.buried(history, "topic deleted", attempts))
    for part, ids in (("prefix", lost.prefix), ("middle", lost.middle), ("postfix", lost.postfix)):
        _say(problems, ids, f"lost ({part})")
    invented = checkers.invented(history)
    _say(problems, invented, "invented")
    inversions = checkers.inversions(history)
    _say(problems, [f"{late} before {early}" for late, early in inversions], "inversions")
    twice = checkers.duplicates(
        history, lease=lease, settle=settings["settle"], in_flight=settings["members"] * settings["in_flight"]
    )
    _say(problems, twice.unexplained, "duplicates that no fault explains")
    if twice.excess:
        problems.append(f"{len(twice.counts)} duplicates, and at most {twice.bound} were in flight at the faults")
    ended = checkers.unresolved(history, settings["deadline"])
    _say(problems, ended.open, "publishes without an outcome")
    _say(problems, ended.late, f"publishes that ended more than {checkers.GRACE:g} s after their deadline")
    _say(problems, ended.untyped, "publishes with an error that publish does not promise")
    _say(problems, ended.unexplained, "failed publishes that no fault explains")
    if not history.acknowledged:
        problems.append("nothing was accepted: the run proves nothing")
    publishing, consuming = _recovered(history, lease, problems)
    return Verdict(
        published=len(history.publishes),
        accepted=len(history.acknowledged),
        lost=len(lost.ids),
        invented=len(invented),
        inversions=len(inversions),
        duplicates=len(twice.counts),
        bound=twice.bound,
        dead=len(history.dead),
        publishing=publishing,
        consuming=consuming,
        problems=problems,
    )


def _recovered(history: History, lease: float, problems: list[str]) -> tuple[float | None, float | None]:
    publishing: list[float] = []
    consuming: list[float] = []
    for recovery in checkers.recoveries(history):
        of_broker, of_cluster = recovery.fault.target is None, recovery.fault.majority is not None
        again = MAJORITY + history.settings.get("election", 0.0) if of_cluster else PUBLISHING
        limit = max(CONSUMING, lease + TAKING_OVER) if of_broker else lease + TAKING_OVER
        if of_cluster:
            # After a longer outage the members join again, while their old membership may still exist.
            outlived = recovery.fault.recovers - recovery.fault.begin > lease
            limit = again + lease if outlived else again
        name = recovery.fault.name
        if recovery.publishing is not None and of_broker:
            publishing.append(recovery.publishing)
            if recovery.publishing > again:
                problems.append(f"{name}: publishing worked again after {recovery.publishing:.1f} s, not {again:g}")
        if recovery.consuming is not None:
            consuming.append(recovery.consuming)
            if recovery.consuming > limit:
                problems.append(f"{name}: every key was handled again after {recovery.consuming:.1f} s, not {limit:g}")
    for pid, took in checkers.take_overs(history).items():
        consuming.append(took)
        if took > lease + TAKING_OVER:
            problems.append(f"what process {pid} held when it was killed was started again after {took:.1f} s")
    return max(publishing, default=None), max(consuming, default=None)


def _say(problems: list[str], found: Iterable[str], what: str) -> None:
    found = list(found)
    if found:
        shown = ", ".join(found[:SHOWN])
        problems.append(f"{len(found)} {what}: {shown}{', …' if len(found) > SHOWN else ''}")
