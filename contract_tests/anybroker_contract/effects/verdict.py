"""What the checkers say about one run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ..faults.history import History
from . import checkers
from .checkers import Story

__all__ = ["Verdict", "judge"]

SHOWN = 5
"""Most ids of a kind that are named."""


@dataclass(frozen=True)
class Verdict:
    """The numbers of a run, and what did not hold."""

    sales: int = 0
    charges: int = 0
    faults: dict[str, int] = field(default_factory=dict)
    """How often each happened."""
    sent_again: int = 0
    """Events that relays sent more than once: the price of at least once."""
    violations: dict[str, int] = field(default_factory=dict)
    """By what must not be; empty: all held."""
    problems: list[str] = field(default_factory=list)
    """The same for people, with some ids, and what the run itself saw."""
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
            "sales": self.sales,
            "charges": self.charges,
            "faults": self.faults,
            "sent_again": self.sent_again,
            "violations": self.violations,
            "problems": self.problems,
            "error": self.error,
        }


def judge(history: History, notes: Sequence[str] = (), error: str | None = None) -> Verdict:
    """Run every checker."""
    story = Story(history)
    effects, rows, booked = checkers.effects(story), checkers.rows(story), checkers.booked(story)
    found = {
        "sales without an effect": effects.none,
        "sales with several effects": effects.several,
        "events without a row in the outbox": rows.none,
        "events with several rows in the outbox": rows.several,
        "rows that never arrived": checkers.wire(story),
        "charges that were lost": booked.none,
        "charges that were taken twice": booked.several,
        "events that were rolled back, or never written, and arrived": checkers.never_sold(story),
        "inversions": checkers.inversions(story),
        "events that were sent again for no reason": checkers.unexplained(story),
        "rows that nobody relayed": checkers.left_behind(story),
    }
    problems = list(notes)
    for what, ids in found.items():
        if ids:
            problems.append(f"{len(ids)} {what}: {', '.join(ids[:SHOWN])}{', …' if len(ids) > SHOWN else ''}")
    if not story.sales:
        problems.append("nothing was sold: the run proves nothing")
    return Verdict(
        sales=len(story.sales),
        charges=sum(each.consumer == "ledger" for each in story.effects),
        faults=dict(sorted(Counter(fault.name for fault in history.faults).items())),
        sent_again=len(checkers.repeats(story)),
        violations={what: len(ids) for what, ids in found.items() if ids},
        problems=problems,
        error=error,
    )
